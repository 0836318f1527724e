// Package gs1 reads and writes GS1 identification keys: trade items (GTIN),
// logistic units (SSCC) and what else a Digital Link or an EPC may name, after
// the GS1 General Specifications.
package gs1

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that are wrapped.
var (
	ErrSyntax     = errors.New("no GS1 key")
	ErrCheckDigit = errors.New("wrong check digit")
)

// CheckDigit computes the check digit that follows a key's other digits:
// weights 3 and 1 in turn from the right, modulo 10 (section 7.9). It is -1
// for what holds anything but digits.
func CheckDigit(body string) int {
	sum := 0
	for i := len(body) - 1; i >= 0; i-- {
		d := int(body[i]) - '0'
		if d < 0 || d > 9 {
			return -1
		}
		if (len(body)-1-i)%2 == 0 {
			d *= 3
		}
		sum += d
	}
	return (10 - sum%10) % 10
}

// Append gives a key's body its check digit.
func Append(body string) (string, error) {
	c := CheckDigit(body)
	if body == "" || c < 0 {
		return "", fmt.Errorf("%w: %q", ErrSyntax, body)
	}
	return body + string(rune('0'+c)), nil
}

// GTIN checks a GTIN-8, -12, -13 or -14 and returns it as the fourteen digits
// by which all of them are compared (section 3.3.2).
func GTIN(s string) (gtin14 string, err error) {
	switch len(s) {
	case 8, 12, 13, 14:
	default:
		return "", fmt.Errorf("%w: a GTIN has 8, 12, 13 or 14 digits, %q has %d", ErrSyntax, s, len(s))
	}
	if err := check(s); err != nil {
		return "", err
	}
	return strings.Repeat("0", 14-len(s)) + s, nil
}

// SSCC checks a serial shipping container code of eighteen digits.
func SSCC(s string) error {
	if len(s) != 18 {
		return fmt.Errorf("%w: an SSCC has 18 digits, %q has %d", ErrSyntax, s, len(s))
	}
	return check(s)
}

func check(s string) error {
	last := len(s) - 1
	switch c := CheckDigit(s[:last]); {
	case c < 0 || s[last] < '0' || s[last] > '9':
		return fmt.Errorf("%w: %q holds more than digits", ErrSyntax, s)
	case int(s[last]-'0') != c:
		return fmt.Errorf("%w: %q ends in %c, want %d", ErrCheckDigit, s, s[last], c)
	}
	return nil
}

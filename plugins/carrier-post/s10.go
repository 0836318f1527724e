package main

import (
	"errors"
	"fmt"
)

// s10 is an item identifier of the UPU's standard S10: two letters of the
// service, eight digits, a check digit and the country that gave it.
func s10(prefix string, n int64, country string) (string, error) {
	if len(prefix) != 2 || !letters(prefix) || len(country) != 2 || !letters(country) {
		return "", fmt.Errorf("%q and %q are no service indicator and country", prefix, country)
	}
	if n < 1 || n > 99_999_999 {
		return "", errNumbersOut
	}
	digits := fmt.Sprintf("%08d", n)
	return prefix + digits + string(s10Check(digits)) + country, nil
}

// errNumbersOut: the eight digits are used up.
var errNumbersOut = errors.New("there are no item numbers left")

// s10Check weighs the digits 8 6 4 2 3 5 9 7; the check digit is 11 less the
// sum modulo 11, 0 for 10 and 5 for 11 (S10, section 5.2).
func s10Check(digits string) byte {
	weights := [8]int{8, 6, 4, 2, 3, 5, 9, 7}
	sum := 0
	for i, w := range weights {
		sum += w * int(digits[i]-'0')
	}
	switch c := 11 - sum%11; c {
	case 10:
		return '0'
	case 11:
		return '5'
	default:
		return byte('0' + c)
	}
}

func letters(s string) bool {
	for _, c := range s {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return true
}

// spaced is an item number as it is printed for people.
func spaced(item string) string {
	return item[:2] + " " + item[2:5] + " " + item[5:8] + " " + item[8:11] + " " + item[11:]
}

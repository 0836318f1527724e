package gs1

import (
	"fmt"
	"strings"
)

// Application identifiers that Digital Links are made of.
const (
	AISSCC   = "00"
	AIGTIN   = "01"
	AILot    = "10"
	AIExpiry = "17"
	AISerial = "21"
	AICPV    = "22"
	AITPX    = "235"
)

// format is what the value of an application identifier looks like: some
// digits of which the last may be a check digit, then up to more characters
// of a set (GS1 syntax dictionary).
type format struct {
	digits int
	sum    bool
	// tail digits follow the check digit.
	tail int
	// least and most further characters, of the set.
	least, most int
	set         string
}

const (
	digits = "0123456789"
	// cset39 and cset82 are GS1 AI encodable character sets (General
	// Specifications, tables 7.11-1 and -2).
	cset39 = digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZ#-/"
	cset82 = digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!\"%&'()*+,-./:;<=>?_"
)

var formats = map[string]format{
	AISSCC: {digits: 18, sum: true}, AIGTIN: {digits: 14, sum: true},
	AILot: {least: 1, most: 20, set: cset82}, AISerial: {least: 1, most: 20, set: cset82},
	AICPV: {least: 1, most: 20, set: cset82}, AITPX: {least: 1, most: 28, set: cset82},
	"253": {digits: 13, sum: true, most: 17, set: cset82}, "254": {least: 1, most: 20, set: cset82},
	"255": {digits: 13, sum: true, most: 12, set: digits},
	"401": {least: 1, most: 30, set: cset82}, "402": {digits: 17, sum: true},
	"414": {digits: 13, sum: true}, "417": {digits: 13, sum: true},
	"8003": {digits: 14, sum: true, most: 16, set: cset82}, "8004": {least: 1, most: 30, set: cset82},
	"8006": {digits: 14, sum: true, tail: 4}, "8010": {least: 1, most: 30, set: cset39},
	"8011": {least: 1, most: 12, set: digits}, "8017": {digits: 18, sum: true}, "8018": {digits: 18, sum: true},
	"8019": {least: 1, most: 10, set: digits},
}

// keys are the primary keys of Digital Links with their qualifiers: sequences
// of which one is used, each qualifier at most once and in this order.
var keys = map[string][][]string{
	AISSCC: {{}}, AIGTIN: {{AICPV, AILot, AISerial}, {AITPX}},
	"253": {{}}, "255": {{}}, "401": {{}}, "402": {{}}, "414": {{"254"}}, "417": {{}}, "8003": {{}}, "8004": {{}},
	"8006": {{AICPV, AILot, AISerial}}, "8010": {{"8011"}}, "8017": {{"8019"}}, "8018": {{"8019"}},
}

// checkValue tells whether a value is one of an application identifier.
func checkValue(ai, value string) error {
	f, ok := formats[ai]
	if !ok {
		return fmt.Errorf("%w: no application identifier (%s) here", ErrSyntax, ai)
	}
	n := f.digits + f.tail
	if len(value) < n || len(value) < n+f.least || len(value) > n+f.most {
		return fmt.Errorf("%w: (%s) %q has %d characters", ErrSyntax, ai, value, len(value))
	}
	if strings.Trim(value[:n], digits) != "" {
		return fmt.Errorf("%w: (%s) %q holds more than digits", ErrSyntax, ai, value)
	}
	for _, c := range value[n:] {
		if !strings.ContainsRune(f.set, c) {
			return fmt.Errorf("%w: (%s) %q holds %q", ErrSyntax, ai, value, c)
		}
	}
	if f.sum {
		return check(value[:f.digits])
	}
	return nil
}

// Package customs tells where goods cross a customs border: what modules
// require declarations by, and carriers draw forms by.
package customs

import (
	"slices"
	"strings"
)

// EuropeanUnion are the members of its customs union by their ISO 3166-1
// codes, Monaco (which is inside by treaty with France) included, as of 2026.
var EuropeanUnion = strings.Fields("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MC MT NL PL PT RO SE SI SK")

// Border tells whether goods from one country to another are declared: the
// countries differ and are not both of one union.
func Border(from, to string, union []string) bool {
	return from != to && !(slices.Contains(union, from) && slices.Contains(union, to))
}

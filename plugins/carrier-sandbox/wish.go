package main

import "strings"

// wished is how the company is asked to behave by the recipient's name.
type wished struct {
	fate, code                string
	silentBefore, silentAfter bool
}

// wishes are words in a recipient's name that behave; README.md lists them.
var wishes = map[string]wished{
	"LOST":           {fate: fateLost},
	"RETURNED":       {fate: fateReturn},
	"ABSENT":         {fate: fateAbsent},
	"DELAYED":        {fate: fateDelay},
	"REFUSED":        {code: "refused"},
	"TIMEOUT-BEFORE": {silentBefore: true},
	"TIMEOUT-AFTER":  {silentAfter: true},
}

func wish(recipient string) wished {
	for w := range strings.FieldsSeq(recipient) {
		if v, ok := wishes[w]; ok {
			return v
		}
	}
	return wished{}
}

package main

import "time"

// behaviour is how the company acts on one operation, beside doing it.
type behaviour struct {
	// code declines it.
	code string
	slow time.Duration
	// pending is answered, and the end told later.
	pending bool
	// silentBefore does nothing and does not answer; silentAfter acts and does
	// not answer.
	silentBefore, silentAfter bool
	// off is added to the amount that is processed.
	off int64
	// disputed has the bank take back what is captured.
	disputed bool
	// tell is how often the webhook is sent.
	tell int
}

// slowness of what is slow.
const slowness = 2 * time.Second

// tokens are means of payment that behave; every other one is good.
var tokens = map[string]behaviour{
	"tok_declined":           {code: "card_declined"},
	"tok_insufficient_funds": {code: "insufficient_funds"},
	"tok_slow":               {slow: slowness},
	"tok_pending":            {pending: true},
	"tok_timeout_after":      {silentAfter: true},
	"tok_timeout_before":     {silentBefore: true},
	"tok_twice":              {tell: 2},
	"tok_wrong_amount":       {off: -1},
	"tok_disputed":           {disputed: true},
}

// amounts are the last two digits that behave, where amounts are magic.
var amounts = map[int64]behaviour{
	91: {code: "card_declined"},
	92: {slow: slowness},
	93: {tell: 2},
	94: {silentAfter: true},
}

// behaviour of an operation, by its token and amount.
func (a *adapter) behaviour(token string, minor int64) behaviour {
	b, ok := tokens[token]
	if !ok && a.cfg.MagicAmounts {
		b = amounts[minor%100]
	}
	if a.cfg.Webhooks {
		b.tell = max(b.tell, 1)
	}
	return b
}

package main

import (
	"net/http"
	"net/url"
	"strings"
)

func (f *fake) createIntent(q url.Values) reply {
	return reply{http.StatusOK, f.make("payment_intents", "pi", object{
		"object": "payment_intent", "amount": num(q, "amount"), "currency": q.Get("currency"), "status": "requires_payment_method",
		"amount_capturable": int64(0), "amount_received": int64(0), "metadata": metadata(nil, q), "client_secret": "pi_secret_of_it",
		"description": q.Get("description"), "multicapture": q.Get("payment_method_options[card][request_multicapture]") == "if_available",
	})}
}

// cards decline: HTTP's code and decline code.
var cards = map[string][3]string{
	"pm_card_declined":     {"card_declined", "generic_decline", "Your card was declined."},
	"pm_card_insufficient": {"card_declined", "insufficient_funds", "Your card has insufficient funds."},
	"pm_card_stolen":       {"card_declined", "stolen_card", "Your card was declined."},
	"pm_card_expired":      {"expired_card", "", "Your card has expired."},
	"pm_card_asks":         {"authentication_required", "authentication_required", "Your card was declined. This transaction requires authentication."},
}

func (f *fake) changeIntent(o object, act string, q url.Values) reply {
	amount := o["amount"].(int64)
	switch act {
	case "":
		o["metadata"] = metadata(o["metadata"], q)
	case "confirm":
		return f.confirmIntent(o, q)
	case "capture":
		n := num(q, "amount_to_capture")
		left := o["amount_capturable"].(int64)
		switch {
		case o["status"] != "requires_capture":
			return unexpected(o)
		case n > left:
			return stripeError(http.StatusBadRequest, "invalid_request_error", "amount_too_large", "The amount is too large", "")
		case q.Get("final_capture") == "false" && o["multicapture"] != true:
			return stripeError(http.StatusBadRequest, "invalid_request_error", "", "no multicapture", "")
		}
		f.charged["captured"] += n
		o["amount_received"] = o["amount_received"].(int64) + n
		o["amount_capturable"] = left - n
		o["metadata"] = metadata(o["metadata"], q)
		if q.Get("final_capture") != "false" || left == n {
			o["amount_capturable"], o["status"] = int64(0), "succeeded"
		}
	case "cancel":
		if o["status"] != "requires_capture" {
			return unexpected(o)
		}
		f.charged["cancelled"] += amount - o["amount_received"].(int64)
		o["status"], o["amount_capturable"], o["canceled_at"] = "canceled", int64(0), f.now
	}
	return reply{http.StatusOK, o}
}

func (f *fake) confirmIntent(o object, q url.Values) reply {
	token := q.Get("payment_method") + q.Get("confirmation_token")
	charge := object{"id": "ch_" + strings.TrimPrefix(o["id"].(string), "pi_"), "object": "charge", "created": f.now, "amount": o["amount"], "currency": o["currency"]}
	switch why, declines := cards[token]; {
	case o["status"] != "requires_payment_method":
		return unexpected(o)
	case token == "pm_missing":
		return stripeError(http.StatusBadRequest, "invalid_request_error", "resource_missing", "No such PaymentMethod", "")
	case declines:
		f.charged["declined"]++
		e := stripeError(http.StatusPaymentRequired, "card_error", why[0], why[2], why[1])
		o["last_payment_error"] = e.body["error"]
		charge["status"] = "failed"
		o["latest_charge"] = charge
		e.body["error"].(object)["payment_intent"] = object{"id": o["id"], "object": "payment_intent", "client_secret": "pi_secret_of_it"}
		return e
	case token == "pm_card_slow":
		o["status"] = "processing"
		return reply{http.StatusOK, o}
	}
	multi := "unavailable"
	if token == "pm_card_multi" && o["multicapture"] == true {
		multi = "available"
	} else {
		o["multicapture"] = false
	}
	charge["status"], charge["paid"] = "succeeded", true
	charge["payment_method_details"] = object{"type": "card", "card": object{"multicapture": object{"status": multi}}}
	f.charged["held"] += o["amount"].(int64)
	o["status"], o["amount_capturable"], o["latest_charge"] = "requires_capture", o["amount"], charge
	return reply{http.StatusOK, o}
}

func (f *fake) createRefund(q url.Values) reply {
	pi := f.get("payment_intents", q.Get("payment_intent"))
	if pi == nil {
		return missing(q.Get("payment_intent"))
	}
	n, back := num(q, "amount"), int64(0)
	for _, r := range f.made["refunds"] {
		if r["payment_intent"] == pi["id"] {
			back += r["amount"].(int64)
		}
	}
	if back+n > pi["amount_received"].(int64) {
		return stripeError(http.StatusBadRequest, "invalid_request_error", "", "Refund amount is greater than unrefunded amount on charge", "")
	}
	f.charged["refunded"] += n
	status := "succeeded"
	if n == 77 {
		status = "pending"
	}
	return reply{http.StatusOK, f.make("refunds", "re", object{
		"object": "refund", "amount": n, "currency": pi["currency"], "payment_intent": pi["id"], "status": status, "metadata": metadata(nil, q),
	})}
}

func (f *fake) createTransfer(q url.Values) reply {
	if num(q, "amount") > 1_000_000 {
		return stripeError(http.StatusBadRequest, "invalid_request_error", "balance_insufficient", "You have insufficient available funds", "")
	}
	f.charged["transferred"] += num(q, "amount")
	return reply{http.StatusOK, f.make("transfers", "tr", object{
		"object": "transfer", "amount": num(q, "amount"), "currency": q.Get("currency"), "destination": q.Get("destination"),
		"transfer_group": q.Get("transfer_group"), "metadata": metadata(nil, q),
	})}
}

func (f *fake) changeDispute(o object, act string, q url.Values) reply {
	if o["status"] != "needs_response" {
		return stripeError(http.StatusBadRequest, "invalid_request_error", "", "This dispute is already closed", "")
	}
	if act == "close" {
		o["status"] = "lost"
		return reply{http.StatusOK, o}
	}
	o["metadata"] = metadata(o["metadata"], q)
	evidence := o["evidence"].(object)
	for k := range q {
		if name, ok := strings.CutPrefix(k, "evidence["); ok {
			evidence[strings.TrimSuffix(name, "]")] = q.Get(k)
		}
	}
	if q.Get("submit") != "false" {
		o["status"] = "under_review"
	}
	return reply{http.StatusOK, o}
}

// dispute is opened by the bank.
func (f *fake) dispute(intent, status string, more object) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := object{
		"object": "dispute", "amount": int64(600), "currency": "gbp", "payment_intent": intent, "charge": "ch_1", "status": status, "reason": "product_not_received",
		"evidence": object{}, "evidence_details": object{"due_by": f.now + 86400}, "metadata": object{},
		"balance_transactions":   []object{{"id": "txn_1", "object": "balance_transaction", "amount": -600, "fee": 1500, "currency": "gbp", "created": f.now + 5}},
		"payment_method_details": object{"type": "card", "card": object{"network_reason_code": "13.1"}},
	}
	for k, v := range more {
		o[k] = v
	}
	return f.make("disputes", "du", o)["id"].(string)
}

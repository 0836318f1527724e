package main

import "time"

// record is one line of the journal: an operation, or the later end of one
// that was pending. README.md documents it for who reconciles against it.
type record struct {
	N  int64     `json:"n"`
	At time.Time `json:"at"`
	// Key is the caller's, Fingerprint the SHA-256 of what was asked with it.
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"`
	// Operation is authorize, capture, void, refund or payout; Status succeeded,
	// declined or pending. With dispute it is how a dispute then stands:
	// needs_response, under_review, won or lost; Reference is its number, Key
	// the caller's of a response, empty where nobody asked.
	Operation string `json:"operation"`
	Status    string `json:"status"`
	Currency  string `json:"currency"`
	// Minor is what was processed, in minor units.
	Minor int64 `json:"minor"`
	// Payment is the company's number of the payment, Reference of the
	// operation.
	Payment   string `json:"payment"`
	Reference string `json:"reference"`
	Merchant  string `json:"merchant_reference,omitempty"`
	Code      string `json:"code,omitempty"`
	// Disputed: the consumer's bank will take back what is captured of it.
	Disputed bool `json:"disputed,omitempty"`
	// Opened is when a dispute was, Fee what the company then keeps for it.
	Opened time.Time `json:"opened,omitzero"`
	Fee    int64     `json:"fee,omitempty"`
	// Tell is how many times the webhook of it is sent.
	Tell int `json:"tell,omitempty"`
}

// number of a record, for the journal.
func number(v record) int64 { return v.N }

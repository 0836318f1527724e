package main

import "time"

// Kinds of line.
const (
	lineBook     = "book"
	lineCancel   = "cancel"
	lineManifest = "manifest"
	linePickup   = "pickup"
	lineScan     = "scan"
)

// line is one line of the company's journal. It holds no name and no address:
// README.md documents it for who reconciles against it.
type line struct {
	N    int64     `json:"n"`
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	// Key is the caller's, Fingerprint the SHA-256 of what was asked with it.
	Key         string `json:"key,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Reference is the company's number: of the booking, manifest or pickup.
	Reference string `json:"reference"`

	// Of a booking.
	Merchant string   `json:"merchant_reference,omitempty"`
	Service  string   `json:"service,omitempty"`
	From     string   `json:"from,omitempty"` // countries
	To       string   `json:"to,omitempty"`
	Return   bool     `json:"return,omitempty"`
	Minor    int64    `json:"minor,omitempty"`
	Currency string   `json:"currency,omitempty"`
	Parcels  []parcel `json:"parcels,omitempty"`
	// Code is why it was refused; empty when it was not.
	Code string `json:"code,omitempty"`

	// Of a manifest: the bookings on it.
	Bookings []string `json:"bookings,omitempty"`

	// Of a scan.
	Scan *scan `json:"scan,omitempty"`
	// Tell is how many times the webhook of it is sent.
	Tell int `json:"tell,omitempty"`
}

// parcel is one parcel of a booking, and what becomes of it.
type parcel struct {
	ID       string `json:"id"`
	Tracking string `json:"tracking"`
	Grams    int32  `json:"grams"`
	Fate     string `json:"fate,omitempty"`
}

// scan is one fact of a parcel's way.
type scan struct {
	ID       string    `json:"id"`
	Booking  string    `json:"booking"`
	Tracking string    `json:"tracking"`
	Code     string    `json:"code"`
	Text     string    `json:"text"`
	Reason   string    `json:"reason,omitempty"`
	Place    string    `json:"place"`
	Country  string    `json:"country"`
	Happened time.Time `json:"happened"`
}

func number(l line) int64 { return l.N }

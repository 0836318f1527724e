package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/entrepot/entrepot/sdk/gs1"
)

// line is what a register says of a serial or a range.
type line struct {
	GTIN     string `json:"gtin"`
	Serial   string `json:"serial"`
	SerialTo string `json:"serial_to"`
	MadeOn   string `json:"made_on"`
	Country  string `json:"country"`
	Complete bool   `json:"complete"`
}

// made is where and when goods were made; empty where nobody said.
type made struct{ register, on, country string }

func (m made) String() string {
	s := "made"
	if m.on != "" {
		s += " on " + m.on
	}
	if m.country != "" {
		s += " in " + m.country
	}
	if s == "made" {
		return ""
	}
	return s
}

// span is a range of serials: of one length, alike up to some digits, which
// count.
type span struct {
	from, to string
	made     made
}

func (s span) holds(serial string) bool {
	if len(serial) != len(s.from) || serial < s.from || serial > s.to {
		return false
	}
	n := alike(s.from, s.to)
	return serial[:n] == s.from[:n] && digits(serial[n:])
}

// product is what is known of the serials of a GTIN.
type product struct {
	// registers that hold it; complete when one of them claims to hold all.
	registers []string
	complete  bool
	serials   map[string]made
	spans     []span
}

func (p *product) find(serial string) (made, bool) {
	if m, ok := p.serials[serial]; ok {
		return m, true
	}
	for _, s := range p.spans {
		if s.holds(serial) {
			return s.made, true
		}
	}
	return made{}, false
}

// register is what all files together say, by GTIN-14. It is not changed once
// read.
type registers map[string]*product

const (
	maxLines = 1_000_000
	// maxSpans bounds what is looked through for one serial.
	maxSpans  = 10_000
	maxSerial = 20
)

// add takes a line of a register.
func (r registers) add(register string, l line) error {
	gtin, err := gs1.GTIN(l.GTIN)
	if err != nil {
		return err
	}
	if l.MadeOn != "" {
		if _, err := time.Parse(time.DateOnly, l.MadeOn); err != nil {
			return fmt.Errorf("made_on %q: want a date like 2026-01-31", l.MadeOn)
		}
	}
	if l.Country != "" && places[l.Country] == nil {
		return fmt.Errorf("country %q: want two capital letters of ISO 3166-1", l.Country)
	}
	p := r[gtin]
	if p == nil {
		p = &product{serials: make(map[string]made)}
		r[gtin] = p
	}
	if !slices.Contains(p.registers, register) {
		p.registers = append(p.registers, register)
	}
	p.complete = p.complete || l.Complete
	m := made{register: register, on: l.MadeOn, country: l.Country}
	switch {
	case l.Serial == "" && l.SerialTo == "" && l.Complete:
		return nil
	case !isSerial(l.Serial):
		return fmt.Errorf("serial %q: want 1 to %d letters, digits and signs", l.Serial, maxSerial)
	case l.SerialTo == "":
		p.serials[l.Serial] = m
		return nil
	}
	n := alike(l.Serial, l.SerialTo)
	if len(l.Serial) != len(l.SerialTo) || l.Serial > l.SerialTo || !digits(l.Serial[n:]) || !digits(l.SerialTo[n:]) {
		return fmt.Errorf("serials %q to %q are no range: want one length, and a difference in rising digits at the end alone", l.Serial, l.SerialTo)
	}
	if len(p.spans) == maxSpans {
		return fmt.Errorf("more than %d ranges of one GTIN", maxSpans)
	}
	p.spans = append(p.spans, span{from: l.Serial, to: l.SerialTo, made: m})
	return nil
}

// alike is how long the beginning is that two texts share.
func alike(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// isSerial tells whether a text may be a serial: printable ASCII without
// spaces, of which GS1's character set 82 is a part.
func isSerial(s string) bool {
	return s != "" && len(s) <= maxSerial && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

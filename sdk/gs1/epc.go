package gs1

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// epcScheme is how an EPC URI writes a GS1 key: company prefix and reference
// are apart, the check digit is left out (EPC Tag Data Standard 1.13, section
// 6.3).
type epcScheme struct {
	ai string
	// body is how many digits prefix and reference have together; 0: the
	// reference is a text.
	body int
	// indicator: the first digit of the reference stands before the prefix.
	indicator bool
	// zero: the key begins with one that the EPC leaves out.
	zero bool
	// fixed fields of two digits follow the reference (pieces of an item).
	fixed int
	// serial is the qualifier of the last field; "+": it is appended to the
	// key; empty: there is no such field.
	serial string
}

var epcSchemes = map[string]epcScheme{
	"id:sgtin": {ai: AIGTIN, body: 13, indicator: true, serial: AISerial}, "id:sscc": {ai: AISSCC, body: 17, indicator: true},
	"id:sgln": {ai: "414", body: 12, serial: "254"}, "id:grai": {ai: "8003", body: 12, zero: true, serial: "+"}, "id:giai": {ai: "8004"},
	"id:gsrn": {ai: "8018", body: 17}, "id:gsrnp": {ai: "8017", body: 17}, "id:gdti": {ai: "253", body: 12, serial: "+"},
	"id:cpi": {ai: "8010", serial: "8011"}, "id:sgcn": {ai: "255", body: 12, serial: "+"}, "id:ginc": {ai: "401"}, "id:gsin": {ai: "402", body: 16},
	"id:itip": {ai: "8006", body: 13, indicator: true, fixed: 2, serial: AISerial}, "id:upui": {ai: AIGTIN, body: 13, indicator: true, serial: AITPX},
	"id:pgln": {ai: "417", body: 12}, "class:lgtin": {ai: AIGTIN, body: 13, indicator: true, serial: AILot},
	"idpat:sgtin": {ai: AIGTIN, body: 13, indicator: true, serial: AISerial}, "idpat:grai": {ai: "8003", body: 12, zero: true, serial: "+"},
	"idpat:gdti": {ai: "253", body: 12, serial: "+"}, "idpat:sgcn": {ai: "255", body: 12, serial: "+"}, "idpat:cpi": {ai: "8010", serial: "8011"},
	"idpat:itip": {ai: "8006", body: 13, indicator: true, fixed: 2, serial: AISerial}, "idpat:upui": {ai: AIGTIN, body: 13, indicator: true, serial: AITPX},
}

// FromEPC reads an EPC URI ("urn:epc:id:sgtin:4012345.011111.98"), EPC class
// URI or EPC pattern URI whose last field is a star. Errors wrap ErrSyntax.
func FromEPC(urn string) (DigitalLink, error) {
	bad := fmt.Errorf("%w: %.60q is no EPC of one", ErrSyntax, urn)
	parts := strings.SplitN(urn, ":", 5)
	if len(parts) != 5 || parts[0] != "urn" || parts[1] != "epc" || len(urn) > maxLink {
		return DigitalLink{}, bad
	}
	s, ok := epcSchemes[parts[2]+":"+parts[3]]
	if !ok {
		return DigitalLink{}, bad
	}
	fields := strings.Split(parts[4], ".")
	if s.body == 0 && s.serial == "" || parts[3] == "cpi" {
		// Texts may hold dots.
		prefix, rest, _ := strings.Cut(parts[4], ".")
		fields = []string{prefix, rest}
		if i := strings.LastIndexByte(rest, '.'); s.serial != "" && i >= 0 {
			fields = []string{prefix, rest[:i], rest[i+1:]}
		}
	} else if want := 2 + s.fixed; s.serial != "" && len(fields) > want {
		fields = append(fields[:want:want], strings.Join(fields[want:], "."))
	}
	want := 2 + s.fixed
	if s.serial != "" {
		want++
	}
	if len(fields) != want || len(fields[0]) < 6 || len(fields[0]) > 12 || strings.Trim(fields[0], digits) != "" {
		return DigitalLink{}, bad
	}
	l := DigitalLink{Base: Canonical, Path: []Element{{AI: s.ai}}}
	if err := s.fill(&l, fields, parts[2] == "idpat"); err != nil {
		return DigitalLink{}, fmt.Errorf("%w: %.60q: %w", ErrSyntax, urn, err)
	}
	return l, l.Check()
}

// fill writes an EPC's fields into a link.
func (s epcScheme) fill(l *DigitalLink, fields []string, pattern bool) error {
	for i, f := range fields {
		v, err := url.PathUnescape(f)
		if err != nil {
			return err
		}
		fields[i] = v
	}
	key, ref := fields[0], fields[1]
	switch {
	case ref == "" && (s.body == 0 || s.indicator):
		return errors.New("it has no reference")
	case s.indicator:
		key = ref[:1] + key + ref[1:]
	default:
		key += ref
	}
	if s.body > 0 {
		if len(key) != s.body {
			return fmt.Errorf("prefix and reference have %d digits, not %d", len(key), s.body)
		}
		if s.zero {
			key = "0" + key
		}
		var err error
		if key, err = Append(key); err != nil {
			return err
		}
	}
	for _, f := range fields[2 : 2+s.fixed] {
		if len(f) != 2 {
			return fmt.Errorf("%q has not two digits", f)
		}
		key += f
	}
	l.Path[0].Value = key
	if s.serial == "" {
		return nil
	}
	switch serial := fields[len(fields)-1]; {
	case pattern && serial == "*":
	case pattern:
		return fmt.Errorf("a pattern ends in a star")
	case s.serial == "+":
		l.Path[0].Value += serial
	case s.ai == "414" && serial == "0":
		// No extension: the place as a whole.
	default:
		l.Path = append(l.Path, Element{s.serial, serial})
	}
	return nil
}

// Normal is the one spelling by which things that events speak of are
// compared: the canonical link of what an EPC or a Digital Link names most
// finely. What names no GS1 key stays as it is.
func Normal(uri string) string {
	l, err := FromEPC(uri)
	if err != nil {
		if l, err = ParseDigitalLink(uri, ShortGTIN); err != nil {
			return uri
		}
	}
	return l.Finest().URI(Canonical)
}

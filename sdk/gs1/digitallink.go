package gs1

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Canonical is the base of canonical Digital Links (GS1 Digital Link URI
// Syntax 1.3, section 4.12).
const Canonical = "https://id.gs1.org"

// maxLink bounds what is read as a Digital Link.
const maxLink = 2000

// Element is an application identifier with its value.
type Element struct{ AI, Value string }

// DigitalLink is a GS1 key as a web address (GS1 Digital Link URI Syntax 1.3).
// Treat it as a value.
type DigitalLink struct {
	// Base is the address before the key: "https://example.com/some/path".
	Base string
	// Path is the primary key, then its qualifiers in the standard's order.
	Path []Element
	// Expiry is the expiration date of the goods, AI (17) "YYMMDD"; empty when
	// it is not told. Day 00 is the month's last.
	Expiry string
}

// Value is that of an application identifier in the path; empty when there is
// none.
func (l DigitalLink) Value(ai string) string {
	for _, e := range l.Path {
		if e.AI == ai {
			return e.Value
		}
	}
	return ""
}

// GTIN is the trade item's, fourteen digits; empty for links of other keys.
func (l DigitalLink) GTIN() string { return l.Value(AIGTIN) }

// Serial is the trade item's serial number, AI (21).
func (l DigitalLink) Serial() string { return l.Value(AISerial) }

// Lot is the trade item's batch or lot, AI (10).
func (l DigitalLink) Lot() string { return l.Value(AILot) }

// Leniency is what a reader of Digital Links lets pass beside the standard.
type Leniency int

// ShortGTIN reads a GTIN-8, -12 or -13 as the GTIN-14 that it is short for, as
// links of the first releases of the standard may have it.
const ShortGTIN Leniency = 1

// ParseDigitalLink reads a Digital Link. Its scheme is in small or in capital
// letters; what stands before the right-most key is its base; its fragment and
// what its query says beside the expiration date are passed over. Errors wrap
// ErrSyntax or ErrCheckDigit.
func ParseDigitalLink(s string, lets ...Leniency) (DigitalLink, error) {
	if len(s) > maxLink {
		return DigitalLink{}, fmt.Errorf("%w: longer than a Digital Link", ErrSyntax)
	}
	s, _, _ = strings.Cut(s, "#")
	base, rest, err := splitHost(s)
	if err != nil {
		return DigitalLink{}, err
	}
	path, query, _ := strings.Cut(rest, "?")
	segments := strings.Split(path, "/")
	// The right-most key stands an even number of segments from the end, with
	// nothing but its qualifiers behind it.
	i := len(segments) - 2
	for ; i > 0; i -= 2 {
		if _, ok := keys[segments[i]]; ok {
			break
		}
		if _, ok := formats[segments[i]]; !ok {
			i = 0
		}
	}
	if i <= 0 {
		return DigitalLink{}, fmt.Errorf("%w: %q names none", ErrSyntax, s)
	}
	l := DigitalLink{Base: base + strings.Join(segments[:i], "/")}
	for ; i+1 < len(segments); i += 2 {
		ai := segments[i]
		v, err := url.PathUnescape(segments[i+1])
		if err != nil {
			return DigitalLink{}, fmt.Errorf("%w: %w", ErrSyntax, err)
		}
		if ai == AIGTIN && slices.Contains(lets, ShortGTIN) {
			if v, err = GTIN(v); err != nil {
				return DigitalLink{}, err
			}
		}
		l.Path = append(l.Path, Element{ai, v})
	}
	if err := l.Check(); err != nil {
		return DigitalLink{}, err
	}
	return l, l.readQuery(query)
}

// splitHost takes scheme and host apart from the rest, which begins with a
// slash. The grammar of hosts is not ours: only characters are looked at.
func splitHost(s string) (base, rest string, err error) {
	scheme, after, ok := strings.Cut(s, "://")
	if !ok || !slices.Contains([]string{"http", "https", "HTTP", "HTTPS"}, scheme) {
		return "", "", fmt.Errorf("%w: %.40q is no web address", ErrSyntax, s)
	}
	i := strings.IndexByte(after, '/')
	if i <= 0 || strings.Trim(after[:i], digits+"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._:[]") != "" {
		return "", "", fmt.Errorf("%w: %.40q has no host and path", ErrSyntax, s)
	}
	for _, c := range after[i:] {
		if c <= ' ' || c > '~' || strings.ContainsRune("\"<>\\^`{|}", c) {
			return "", "", fmt.Errorf("%w: %q stands in no web address", ErrSyntax, c)
		}
	}
	return strings.ToLower(scheme) + "://" + after[:i], after[i:], nil
}

// readQuery takes the expiration date. What belongs into the path says nothing
// in a query: two serials in one link are no link.
func (l *DigitalLink) readQuery(query string) error {
	for part := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		k, v, _ := strings.Cut(part, "=")
		if _, ok := keys[k]; ok && k == l.Path[0].AI || slices.Contains(l.sequence(), k) {
			return fmt.Errorf("%w: (%s) stands in the path of a Digital Link", ErrSyntax, k)
		}
		if k != AIExpiry {
			continue
		}
		if l.Expiry != "" || !isDate(v) {
			return fmt.Errorf("%w: (17) %q is not one date", ErrSyntax, v)
		}
		l.Expiry = v
	}
	return nil
}

// isDate tells whether a text is YYMMDD; day 00 is the last of the month. The
// century does not matter but to leap days, of which 2000 had one.
func isDate(s string) bool {
	if len(s) != 6 || strings.Trim(s, digits) != "" {
		return false
	}
	if s[4:] == "00" {
		s = s[:4] + "01"
	}
	_, err := time.Parse("20060102", "20"+s)
	return err == nil
}

// sequence is the one of the key's sequences of qualifiers that the path
// follows; nil when it follows none.
func (l DigitalLink) sequence() []string {
	for _, seq := range keys[l.Path[0].AI] {
		at := 0
		for _, e := range l.Path[1:] {
			i := slices.Index(seq[at:], e.AI)
			if i < 0 {
				at = -1
				break
			}
			at += i + 1
		}
		if at >= 0 {
			return seq
		}
	}
	return nil
}

// Check tells whether the path is one of a Digital Link: a key, its qualifiers
// in order, each with a value of its form and a right check digit.
func (l DigitalLink) Check() error {
	if len(l.Path) == 0 || len(keys[l.Path[0].AI]) == 0 {
		return fmt.Errorf("%w: none is named", ErrSyntax)
	}
	if l.sequence() == nil {
		return fmt.Errorf("%w: qualifiers of (%s) stand in another order", ErrSyntax, l.Path[0].AI)
	}
	for _, e := range l.Path {
		if err := checkValue(e.AI, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// URI writes the link under an address: Canonical, or a deployment's own. What
// is reserved in addresses is escaped.
func (l DigitalLink) URI(base string) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(base, "/"))
	for _, e := range l.Path {
		b.WriteByte('/')
		b.WriteString(e.AI)
		b.WriteByte('/')
		escape(&b, e.Value)
	}
	if l.Expiry != "" {
		b.WriteString("?" + AIExpiry + "=" + l.Expiry)
	}
	return b.String()
}

func escape(b *strings.Builder, s string) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// Finest is the link with its most granular identification alone: a serial
// without its lot, either without the variant, and no date. Events about the
// same thing name it by the same Finest link (CBV 2.0, section 8.9).
func (l DigitalLink) Finest() DigitalLink {
	path := slices.Clone(l.Path)
	path = slices.DeleteFunc(path, func(e Element) bool {
		return e.AI == AICPV || e.AI == "8019" || e.AI == AILot && l.Serial() != ""
	})
	return DigitalLink{Base: l.Base, Path: path}
}

// TradeItem is the link of a GTIN, of one of its lots, or of one serial.
func TradeItem(gtin, lot, serial string) DigitalLink {
	l := DigitalLink{Base: Canonical, Path: []Element{{AIGTIN, gtin}}}
	if lot != "" {
		l.Path = append(l.Path, Element{AILot, lot})
	}
	if serial != "" {
		l.Path = append(l.Path, Element{AISerial, serial})
	}
	return l
}

package trade

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the contract that an invoice is held to.
const (
	maxLines    = 500
	maxQuantity = 100_000
)

// Invoice is one purchase, or the cancellation of one.
type Invoice struct {
	Number string
	// Customer is empty for a guest.
	Customer, Country string
	// Market is the country code of the market it is placed in.
	Market string
	At     time.Time
	// Lines in the order of the file, each article once.
	Lines []Line
	// Cancels is, for a cancellation, the number of the purchase it names.
	Cancels string
}

// Line is a quantity of an article.
type Line struct {
	Code     string
	Quantity int64
}

// row is one line of the file as far as it was good.
type row struct {
	invoice, code, customer, country string
	quantity                         int64
	at                               time.Time
	line                             int
}

const invoices = "invoices.csv.gz"

// ReadInvoices reads the unpacked invoices.csv. known tells which articles the
// catalogue has. A cancellation is matched with the latest earlier purchase of
// its customer that holds all it takes back and that nothing has cancelled yet.
// The shop often took back a part; here the purchase is cancelled as a whole.
func ReadInvoices(r io.Reader, known func(code string) bool, refuse Refuse) ([]Invoice, error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = 8
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("%s: %w", invoices, err)
	}
	g := grouping{refuse: refuse, byNumber: make(map[string]*group)}
	for {
		fields, line, err := next(rows)
		switch {
		case errors.Is(err, io.EOF):
			return g.finish(), nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", invoices, err)
		case fields == nil:
			refuse(Refusal{invoices, line, Malformed})
			continue
		}
		g.add(read(fields, line, known))
	}
}

func read(f []string, line int, known func(string) bool) (row, string) {
	v := row{invoice: f[0], code: f[1], customer: f[6], country: f[7], line: line}
	var err1, err2 error
	v.quantity, err1 = strconv.ParseInt(f[3], 10, 64)
	v.at, err2 = time.Parse(time.RFC3339, f[4])
	cost, err3 := price(f[5])
	cancels := strings.HasPrefix(v.invoice, "C")
	if cancels {
		v.quantity = -v.quantity
	}
	switch {
	case v.invoice == "" || err1 != nil || err2 != nil || err3 != nil:
		return v, Malformed
	case strings.HasPrefix(v.invoice, "A"):
		return v, BadDebt
	case isService(v.code):
		return v, ServiceCode
	case !known(v.code):
		return v, UnknownArticle
	case v.quantity <= 0:
		return v, QuantityNotPositive
	case cost.Minor <= 0 && !cancels:
		return v, NoPrice
	case v.quantity > maxQuantity:
		return v, QuantityTooLarge
	}
	return v, ""
}

// grouping gathers rows into invoices. The rows of one need not stand
// together: the shop's till wrote another one's between them.
type grouping struct {
	refuse   Refuse
	inOrder  []*group
	byNumber map[string]*group
}

type group struct {
	invoice Invoice
	// at tells where an article's line stands.
	at   map[string]int
	last int // line of the file with its last row
}

func (g *grouping) add(v row, reason string) {
	if v.invoice == "" {
		g.refuse(Refusal{invoices, v.line, reason})
		return
	}
	now, ok := g.byNumber[v.invoice]
	if !ok {
		now = &group{
			invoice: Invoice{Number: v.invoice, Customer: v.customer, Country: v.country, Market: Market(v.country), At: v.at},
			at:      make(map[string]int),
		}
		g.byNumber[v.invoice] = now
		g.inOrder = append(g.inOrder, now)
	}
	now.last = v.line
	if reason != "" {
		g.refuse(Refusal{invoices, v.line, reason})
		return
	}
	i, ok := now.at[v.code]
	switch {
	case !ok:
		now.at[v.code] = len(now.invoice.Lines)
		now.invoice.Lines = append(now.invoice.Lines, Line{v.code, v.quantity})
	case now.invoice.Lines[i].Quantity+v.quantity > maxQuantity:
		g.refuse(Refusal{invoices, v.line, QuantityTooLarge})
	default:
		now.invoice.Lines[i].Quantity += v.quantity
	}
}

// finish refuses what is no purchase and no cancellation of one, and returns
// the rest in the order of the file.
func (g *grouping) finish() []Invoice {
	var out []Invoice
	bought := make(map[string][]*group) // by customer; cancelled ones leave
	for _, now := range g.inOrder {
		v := &now.invoice
		reason := ""
		switch cancels := strings.HasPrefix(v.Number, "C"); {
		case len(v.Lines) == 0:
			reason = NothingLeft
		case len(v.Lines) > maxLines:
			reason = TooManyLines
		case cancels:
			earlier := bought[v.Customer]
			i := latestHolding(earlier, v.Lines)
			if i < 0 {
				reason = CancellationUnmatched
				break
			}
			v.Cancels = earlier[i].invoice.Number
			bought[v.Customer] = slices.Delete(earlier, i, i+1)
		case v.Customer != "":
			bought[v.Customer] = append(bought[v.Customer], now)
		}
		if reason != "" {
			g.refuse(Refusal{invoices, now.last, reason})
			continue
		}
		out = append(out, *v)
	}
	return out
}

func latestHolding(purchases []*group, lines []Line) int {
	for i := len(purchases) - 1; i >= 0; i-- {
		p := purchases[i]
		if !slices.ContainsFunc(lines, func(l Line) bool {
			at, ok := p.at[l.Code]
			return !ok || p.invoice.Lines[at].Quantity < l.Quantity
		}) {
			return i
		}
	}
	return -1
}

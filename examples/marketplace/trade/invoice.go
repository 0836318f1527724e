package trade

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
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
// catalogue has. A cancellation names an earlier purchase of its customer that
// holds one of its articles, the latest one that nothing has cancelled yet.
func ReadInvoices(r io.Reader, known func(code string) bool, refuse Refuse) ([]Invoice, error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = 8
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("%s: %w", invoices, err)
	}
	g := grouping{refuse: refuse, bought: make(map[string][]int), cancelled: make(map[int]bool)}
	for {
		fields, err := rows.Read()
		line, _ := rows.FieldPos(0)
		switch {
		case errors.Is(err, io.EOF):
			g.end()
			return g.out, nil
		case errors.Is(err, csv.ErrFieldCount):
			refuse(Refusal{invoices, line, Malformed})
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", invoices, err)
		}
		v, reason := read(fields, line, known)
		g.add(v, reason)
	}
}

func read(f []string, line int, known func(string) bool) (row, string) {
	v := row{invoice: f[0], code: f[1], customer: f[6], country: f[7], line: line}
	var err1, err2 error
	v.quantity, err1 = strconv.ParseInt(f[3], 10, 64)
	v.at, err2 = time.Parse(time.RFC3339, f[4])
	cost, err3 := strconv.ParseFloat(f[5], 64) // only its sign is used
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
	case cost <= 0 && !cancels:
		return v, NoPrice
	case v.quantity > maxQuantity:
		return v, QuantityTooLarge
	}
	return v, ""
}

// isService: goods have codes of five digits and perhaps a letter or two.
func isService(code string) bool {
	if len(code) < 5 || strings.HasPrefix(code, "DCGS") {
		return true
	}
	for _, r := range code[:5] {
		if r < '0' || r > '9' {
			return true
		}
	}
	return false
}

// grouping gathers rows into invoices; the rows of one stand together in the
// file.
type grouping struct {
	refuse Refuse
	out    []Invoice
	now    Invoice
	last   int // line of the current invoice's last row
	index  map[string]int
	// bought lists purchases by customer, as indexes into out.
	bought    map[string][]int
	cancelled map[int]bool
}

func (g *grouping) add(v row, reason string) {
	if v.invoice != g.now.Number {
		g.end()
		g.now = Invoice{Number: v.invoice, Customer: v.customer, Country: v.country, Market: Market(v.country), At: v.at}
		g.index = make(map[string]int)
	}
	g.last = v.line
	if reason != "" {
		g.refuse(Refusal{invoices, v.line, reason})
		return
	}
	if i, ok := g.index[v.code]; ok {
		if sum := g.now.Lines[i].Quantity + v.quantity; sum <= maxQuantity {
			g.now.Lines[i].Quantity = sum
		} else {
			g.refuse(Refusal{invoices, v.line, QuantityTooLarge})
		}
		return
	}
	g.index[v.code] = len(g.now.Lines)
	g.now.Lines = append(g.now.Lines, Line{v.code, v.quantity})
}

func (g *grouping) end() {
	switch cancels := strings.HasPrefix(g.now.Number, "C"); {
	case g.now.Number == "":
	case len(g.now.Lines) == 0:
		g.refuse(Refusal{invoices, g.last, NothingLeft})
	case len(g.now.Lines) > maxLines:
		g.refuse(Refusal{invoices, g.last, TooManyLines})
	case cancels && !g.match():
		g.refuse(Refusal{invoices, g.last, CancellationUnmatched})
	default:
		if !cancels && g.now.Customer != "" {
			g.bought[g.now.Customer] = append(g.bought[g.now.Customer], len(g.out))
		}
		g.out = append(g.out, g.now)
	}
	g.now = Invoice{}
}

// match finds the purchase that a cancellation names.
func (g *grouping) match() bool {
	earlier := g.bought[g.now.Customer]
	for i := len(earlier) - 1; i >= 0; i-- {
		n := earlier[i]
		if g.cancelled[n] {
			continue
		}
		for _, l := range g.out[n].Lines {
			if _, ok := g.index[l.Code]; ok {
				g.cancelled[n], g.now.Cancels = true, g.out[n].Number
				return true
			}
		}
	}
	return false
}

// europe are the countries of the data, beside Germany, that shop in the
// German market.
var europe = map[string]bool{
	"Germany": true, "France": true, "Spain": true, "Belgium": true, "Netherlands": true, "Portugal": true, "Italy": true, "Switzerland": true,
	"Cyprus": true, "Sweden": true, "Norway": true, "Finland": true, "Poland": true, "Austria": true, "Lithuania": true, "Denmark": true,
	"Iceland": true, "Greece": true, "Czech Republic": true, "European Community": true, "Malta": true,
}

// Market is where a country of the data shops: the British Isles and what is
// unspecified in GB, the rest of Europe in DE, everybody else in JP.
func Market(country string) string {
	switch {
	case country == "United Kingdom", country == "EIRE", country == "Channel Islands", country == "Unspecified", country == "":
		return "GB"
	case europe[country]:
		return "DE"
	}
	return "JP"
}

// Rates are the example exchange rates of list prices, units per pound as of
// 2026-11-01.
var Rates = map[string]string{"GBP": "1", "EUR": "1.15", "JPY": "195.5"}

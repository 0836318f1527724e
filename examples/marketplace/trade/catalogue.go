// Package trade reads the real shop's data of examples/marketplace/data: what
// was for sale, and what was bought and cancelled. What cannot be used is
// refused row by row, with a reason that is counted.
package trade

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/money"
)

// Reasons for refusing a row.
const (
	// ServiceCode: postage, fees, vouchers, manual corrections: not goods.
	ServiceCode = "service_code"
	// UnknownArticle: the catalogue has no such code.
	UnknownArticle = "unknown_article"
	// QuantityNotPositive: a sale of nothing or less: stock corrections.
	QuantityNotPositive = "quantity_not_positive"
	// QuantityTooLarge: more than one order line may hold.
	QuantityTooLarge = "quantity_too_large"
	// NoPrice: given away or written off.
	NoPrice = "no_price"
	// BadDebt: an adjustment of the books.
	BadDebt = "bad_debt"
	// Malformed: a row that is not of the file's form.
	Malformed = "malformed"
	// TooManyLines: more different articles than a cart may hold.
	TooManyLines = "too_many_lines"
	// NothingLeft: every line of the invoice was refused.
	NothingLeft = "nothing_left"
	// CancellationUnmatched: no earlier purchase of its customer holds what it
	// takes back, or another cancellation took that purchase already.
	CancellationUnmatched = "cancellation_unmatched"
)

// Refusal is one row that was not used.
type Refusal struct {
	File   string
	Line   int
	Reason string
}

// Refuse is told of each refused row.
type Refuse func(Refusal)

// services stand among the goods with codes like theirs: next day carriage and
// a gift voucher.
var services = map[string]bool{"23444": true, "22016": true}

// isService: goods have codes of five digits and perhaps a letter or two.
// POST, DOT, M, D, S, C2, BANK CHARGES, AMAZONFEE, gift_... and DCGS... (of
// another shop's own range) have not.
func isService(code string) bool {
	if len(code) < 5 || services[code] {
		return true
	}
	for _, r := range code[:5] {
		if r < '0' || r > '9' {
			return true
		}
	}
	return false
}

// WeightGrams is what one is taken to weigh. The data does not say: dear things
// are heavier than cheap ones, between 20 grams and 3 kilograms.
func (a Article) WeightGrams() int32 {
	return int32(min(max(a.Price.Minor/4, 20), 3000))
}

// Article is something that the shop sold.
type Article struct {
	Code, Title string
	// Price of one in GBP.
	Price money.Money
	// Sold is how many left the shop in the ten months of the data.
	Sold int64
	// Merchant is which of the four sells it, from 0.
	Merchant int
	// GTIN, Category, HSCode and Origin are made up, see the data's README.
	GTIN, Category, HSCode, Origin string
	// Proof is what shows that its goods are genuine, see Authenticate.
	Proof Proof
}

// Merchants is how many share the catalogue.
const Merchants = 4

// ReadCatalogue reads catalogue.csv.
func ReadCatalogue(r io.Reader, refuse Refuse) ([]Article, error) {
	const file = "catalogue.csv"
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = 5
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var out []Article
	for {
		row, line, err := next(rows)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", file, err)
		case row == nil:
			refuse(Refusal{file, line, Malformed})
			continue
		}
		a, reason := article(row, len(out))
		if reason != "" {
			refuse(Refusal{file, line, reason})
			continue
		}
		out = append(out, a)
	}
}

// next reads a row and tells its line. A row that is not of the file's form is
// nil; reading goes on behind it.
func next(rows *csv.Reader) (row []string, line int, err error) {
	row, err = rows.Read()
	if malformed := (*csv.ParseError)(nil); errors.As(err, &malformed) {
		return nil, malformed.StartLine, nil
	}
	if err != nil {
		return nil, 0, err
	}
	line, _ = rows.FieldPos(0)
	return row, line, nil
}

func article(row []string, n int) (Article, string) {
	code, title := row[0], strings.Join(strings.Fields(row[1]), " ")
	price, err := price(row[2])
	if err != nil || title == "" {
		return Article{}, Malformed
	}
	if isService(code) {
		return Article{}, ServiceCode
	}
	if price.Minor <= 0 {
		return Article{}, NoPrice
	}
	sold, err := strconv.ParseInt(row[3], 10, 64)
	if err != nil {
		return Article{}, Malformed
	}
	k := kindOf(title)
	return Article{
		Code: code, Title: title, Price: price, Sold: sold, Merchant: n % Merchants,
		GTIN: gtin(n), Category: k.category, HSCode: k.hs, Origin: k.origin,
	}, ""
}

// price reads GBP with up to three digits after the point: medians fall
// between pennies, and half a penny is rounded up.
func price(s string) (money.Money, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	up := len(fraction) > 2 && fraction[2] >= '5'
	if len(fraction) > 2 {
		s = whole + "." + fraction[:2]
	}
	m, err := money.Parse(s, "GBP")
	if err == nil && up && m.Minor >= 0 {
		m.Minor++
	}
	return m, err
}

// gtin makes a GTIN-13 in the range 20 to 29, which GS1 keeps for numbers
// that are unique inside one company only (General Specifications 2.1.11).
func gtin(n int) string {
	s, _ := gs1.Append(fmt.Sprintf("20%010d", n)) // digits, always
	return s
}

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
	// ServiceCode: postage, fees, manual corrections: not goods.
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
	// CancellationUnmatched: it names no earlier purchase of its customer.
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
		row, err := rows.Read()
		line, _ := rows.FieldPos(0)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case errors.Is(err, csv.ErrFieldCount):
			refuse(Refusal{file, line, Malformed})
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		a, reason := article(row, len(out))
		if reason != "" {
			refuse(Refusal{file, line, reason})
			continue
		}
		out = append(out, a)
	}
}

func article(row []string, n int) (Article, string) {
	code, title := row[0], strings.Join(strings.Fields(row[1]), " ")
	price, err := price(row[2])
	if err != nil || title == "" {
		return Article{}, Malformed
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
	if err == nil && up {
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

// kind is what a description's words say of an article.
type kind struct{ word, category, hs, origin string }

// kinds are tried in order; the first whose word occurs decides.
var kinds = []kind{
	{"T-LIGHT", "home/candles", "340600", "CN"}, {"CANDLE", "home/candles", "340600", "CN"}, {"LANTERN", "home/lighting", "940550", "IN"},
	{"LIGHT", "home/lighting", "940540", "CN"}, {"CLOCK", "home/clocks", "910521", "CN"}, {"FRAME", "home/decoration", "441400", "IN"},
	{"MUG", "kitchen/tableware", "691200", "CN"}, {"CUP", "kitchen/tableware", "691200", "CN"}, {"PLATE", "kitchen/tableware", "691200", "CN"},
	{"BOWL", "kitchen/tableware", "691200", "CN"}, {"TEA", "kitchen/tea", "732393", "CN"}, {"CAKE", "kitchen/baking", "732393", "CN"},
	{"BOTTLE", "kitchen/bottles", "701090", "CN"}, {"BAG", "bags", "420292", "CN"}, {"PURSE", "bags", "420231", "IN"}, {"BOX", "storage", "442090", "IN"},
	{"TIN", "storage", "732310", "CN"}, {"BASKET", "storage", "460219", "VN"}, {"CARD", "stationery", "490900", "GB"}, {"WRAP", "stationery", "481190", "GB"},
	{"PAPER", "stationery", "482390", "CN"}, {"PEN", "stationery", "960810", "CN"}, {"STICKER", "stationery", "482110", "CN"}, {"DOLL", "toys", "950300", "CN"},
	{"TOY", "toys", "950300", "CN"}, {"GAME", "toys", "950490", "CN"}, {"CHRISTMAS", "seasonal/christmas", "950510", "CN"}, {"NECKLACE", "jewellery", "711719", "IN"},
	{"BRACELET", "jewellery", "711719", "IN"}, {"EARRING", "jewellery", "711719", "IN"}, {"CUSHION", "textiles", "940490", "IN"}, {"GARDEN", "garden", "820190", "CN"},
}

func kindOf(title string) kind {
	upper := strings.ToUpper(title)
	for _, k := range kinds {
		if strings.Contains(upper, k.word) {
			return k
		}
	}
	return kind{category: "gifts", hs: "442090", origin: "CN"}
}

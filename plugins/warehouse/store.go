package main

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// move is one entry of the ledger.
type move struct {
	bun.BaseModel `bun:"table:stock_move"`

	ID                  int64
	SKU, Site, Merchant string
	Lot, Unit           string
	Authenticated       bool
	FromDisposition     string
	ToDisposition       string
	Quantity            int64
	Reason, Reference   string
	CaseID              string
	At                  time.Time
}

// posted is where a row of post is scanned into: the entry's document and
// quantity, and what stands there after it.
func posted(reference *string, quantity *int64, l *warehousev1.StockLevel) []any {
	return []any{
		reference, quantity, new(string), &l.Sku, &l.Site, &l.MerchantId, &l.Sellable, &l.Reserved, &l.Quarantine, &l.Damaged, &l.Destroyed, &l.Version,
		&l.Lot, &l.ExpiresOn, &l.Authenticated,
	}
}

// asGoodsGo sorts what post answers, as e, in the order in which goods go: that
// of promisable.
const asGoodsGo = `e.sku, e.site <> 'main', e.site, e.expires_on = '', e.expires_on, e.lot, e.authenticated`

// scan reads every row of an answer and closes it.
func scan(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// fromJSON scans a JSON value into what it points to.
type fromJSON struct{ into any }

// Scan implements sql.Scanner.
func (j fromJSON) Scan(v any) error {
	switch v := v.(type) {
	case []byte:
		return json.Unmarshal(v, j.into)
	case string:
		return json.Unmarshal([]byte(v), j.into)
	}
	return fmt.Errorf("no JSON in a %T", v)
}

// quantities are amounts by sku, in the order of skus.
type quantities struct {
	skus    []string
	amounts []int64
}

// ordered makes quantities of a sum by sku.
func ordered(sum map[string]int64) quantities {
	q := quantities{skus: make([]string, 0, len(sum)), amounts: make([]int64, 0, len(sum))}
	for sku := range sum {
		q.skus = append(q.skus, sku)
	}
	slices.SortFunc(q.skus, cmp.Compare)
	for _, sku := range q.skus {
		q.amounts = append(q.amounts, sum[sku])
	}
	return q
}

// SQLSTATEs with which the ledger refuses.
const (
	stateShort     = "WH001" // less is there than asked for
	stateNoWay     = "WH002" // the reason opens no such way
	stateElsewhere = "WH004" // a serial is not there
	stateNoPass    = "WH005" // no inspection let it through
)

// outOfStock is the refusal for want of goods: what there is, per sku.
func outOfStock(available map[string]int64) error {
	q := ordered(available)
	pairs := make([]string, 0, 2*len(q.skus))
	for i, sku := range q.skus {
		pairs = append(pairs, sku, fmt.Sprint(q.amounts[i]))
	}
	return fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "there is not enough in stock", pairs...)
}

// shortage turns the ledger's refusal into words; other errors pass.
func shortage(err error) error {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return err
	}
	var d struct {
		SKU       string `json:"sku"`
		Unit      string `json:"unit"`
		Available int64  `json:"available"`
	}
	switch pe.Code {
	case stateNoWay:
		return fault.New(connect.CodeFailedPrecondition, "NO_SUCH_WAY", "goods do not go that way").WithCause(err)
	case stateShort, stateElsewhere, stateNoPass:
		if jerr := json.Unmarshal([]byte(pe.Detail), &d); jerr != nil {
			return err
		}
	}
	switch pe.Code {
	case stateShort:
		return outOfStock(map[string]int64{d.SKU: d.Available})
	case stateElsewhere:
		return fault.New(connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", "this serialised good does not stand there", "sku", d.SKU, "unit", d.Unit)
	case stateNoPass:
		return fault.New(connect.CodeFailedPrecondition, "NOT_PASSED", "no inspection let this much of these goods through", "sku", d.SKU, "unit", d.Unit)
	}
	return err
}

func skuUnknown(code connect.Code, skus ...string) error {
	pairs := make([]string, 0, 2*len(skus))
	for _, sku := range skus {
		pairs = append(pairs, sku, "unknown")
	}
	return fault.New(code, "SKU_UNKNOWN", "the warehouse does not know this sku as one of the merchant's; a new one is known moments after the catalog has it", pairs...)
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// text is a text in one language.
type text struct {
	Language string `json:"language"`
	Text     string `json:"text"`
}

type product struct {
	bun.BaseModel `bun:"table:product"`

	ID            string `bun:"id,pk"`
	Merchant      string
	Titles        []text `bun:"type:jsonb"`
	Descriptions  []text `bun:"type:jsonb"`
	Brand         string
	Category      string
	OriginCountry string
	HSCode        string `bun:"hs_code"`
	UpdatedAt     time.Time
	Variants      []*variant `bun:"rel:has-many,join:id=product_id"`
}

type variant struct {
	bun.BaseModel `bun:"table:variant"`

	SKU         string `bun:"sku,pk"`
	ProductID   string
	N           int16
	Merchant    string
	MerchantSKU string            `bun:"merchant_sku"`
	GTIN        string            `bun:"gtin"`
	Attributes  map[string]string `bun:"type:jsonb"`
	WeightGrams int32
	Retired     bool
}

func texts(in []*typev1.LocalizedText) []text {
	out := make([]text, len(in))
	for i, t := range in {
		out[i] = text{t.GetLanguage(), t.GetText()}
	}
	return out
}

func localized(in []text) []*typev1.LocalizedText {
	out := make([]*typev1.LocalizedText, len(in))
	for i, t := range in {
		out[i] = &typev1.LocalizedText{Language: t.Language, Text: t.Text}
	}
	return out
}

// proto is the product as its merchant sees it: without retired variants.
func (p *product) proto() *catalogv1.Product {
	out := &catalogv1.Product{
		ProductId: p.ID, MerchantId: p.Merchant, Titles: localized(p.Titles), Descriptions: localized(p.Descriptions),
		Brand: p.Brand, Category: p.Category, OriginCountry: p.OriginCountry, HsCode: p.HSCode, UpdatedAt: timestamppb.New(p.UpdatedAt),
	}
	for _, v := range p.Variants {
		if !v.Retired {
			out.Variants = append(out.Variants, &catalogv1.Variant{
				Sku: v.SKU, MerchantSku: v.MerchantSKU, Gtin: v.GTIN, Attributes: v.Attributes, WeightGrams: v.WeightGrams,
			})
		}
	}
	return out
}

// skus that can be bought.
func (p *product) skus() []string {
	var out []string
	for _, v := range p.Variants {
		if !v.Retired {
			out = append(out, v.SKU)
		}
	}
	return out
}

// goods are the facts of what can be bought, for handling it.
func (p *product) goods() []*catalogv1.GoodsFacts {
	var out []*catalogv1.GoodsFacts
	for _, v := range p.Variants {
		if !v.Retired {
			out = append(out, &catalogv1.GoodsFacts{
				Sku: v.SKU, Gtin: v.GTIN, WeightGrams: v.WeightGrams, Category: p.Category, HsCode: p.HSCode, OriginCountry: p.OriginCountry,
			})
		}
	}
	return out
}

func byPlace(q *bun.SelectQuery) *bun.SelectQuery { return q.Order("n") }

// alone makes the transaction the only one that writes goods of a merchant:
// what consumers see is made of product and price together, and neither may
// change while it is made.
func alone(ctx context.Context, tx *store.Tx, merchant string) error {
	_, err := tx.Do(ctx, `SELECT pg_advisory_xact_lock(7204, hashtext($1))`, merchant)
	return err
}

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

// raw runs a fixed statement and hands over its rows undecoded; they are good
// until the next.
func raw(ctx context.Context, db *store.DB, statement string, args []any, each func(row [][]byte)) error {
	conn, err := db.DB.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return conn.Raw(func(driver any) error {
		rows, err := driver.(*stdlib.Conn).Conn().Query(ctx, statement, append([]any{pgx.QueryExecModeCacheStatement}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			each(rows.RawValues())
		}
		return rows.Err()
	})
}

// fromJSON scans a jsonb column.
type fromJSON struct{ into any }

// Scan implements sql.Scanner.
func (f fromJSON) Scan(src any) error {
	switch v := src.(type) {
	case []byte:
		return json.Unmarshal(v, f.into)
	case string:
		return json.Unmarshal([]byte(v), f.into)
	}
	return fmt.Errorf("jsonb came as %T", src)
}

// set is a set of skus.
type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// aboutSKUs refuses a request for some of its skus: they stand in the
// metadata.
func aboutSKUs(code connect.Code, reason, message string, skus []string) error {
	return fault.New(code, reason, message, "skus", strings.Join(skus, ","))
}

// unknown refuses skus that are not the merchant's; another's looks like one
// that is not.
func unknown(skus []string) error {
	return aboutSKUs(connect.CodeNotFound, "SKU_UNKNOWN", "no such skus among the merchant's", skus)
}

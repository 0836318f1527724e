package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// digest is what two requests under one id are compared by.
func digest(req proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	sum := sha256.Sum256(b)
	return sum[:], err
}

// firstTime books a document, by its kind and id, and checks in the same
// statement that every sku of it is the merchant's; merchant "" is staff, for
// whom any known sku will do. One that is there answers first = false, if its
// request was the same, else the refusal "<KIND>_DIFFERS". A caller who comes
// at the same moment waits.
func firstTime(ctx context.Context, tx *store.Tx, kind, id, merchant string, req proto.Message, skus []string) (first bool, err error) {
	sum, err := digest(req)
	if err != nil {
		return false, err
	}
	var strange []string
	err = tx.Row(ctx, `WITH made AS (INSERT INTO booked (kind, id, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id)
		SELECT EXISTS (SELECT FROM made), (SELECT coalesce(jsonb_agg(DISTINCT u.sku), '[]') FROM unnest($4::text[]) u(sku)
		  LEFT JOIN stock_item i ON i.sku = u.sku AND ($5 = '' OR i.merchant = $5) WHERE i.sku IS NULL)`,
		kind, scoped(merchant, id), sum, skus, merchant).Scan(&first, fromJSON{&strange})
	switch {
	case err != nil:
		return false, err
	case len(strange) > 0:
		return false, skuUnknown(connect.CodeFailedPrecondition, strange...)
	case first:
		return true, nil
	}
	// A statement of its own: it sees what it waited for.
	var same bool
	if err := tx.Row(ctx, `SELECT digest = $3 FROM booked WHERE kind = $1 AND id = $2`, kind, scoped(merchant, id), sum).Scan(&same); err != nil {
		return false, err
	}
	if !same {
		return false, differs(kind)
	}
	return false, nil
}

// scoped is a document's number among everybody's: members number their own.
func scoped(merchant, id string) string {
	if merchant == "" {
		return id
	}
	return merchant + "/" + id
}

func differs(kind string) error {
	return fault.New(connect.CodeAlreadyExists, strings.ToUpper(strings.ReplaceAll(kind, "-", "_"))+"_DIFFERS",
		"this number was used with other content; take another")
}

// levelsOf are the levels that a document's entries brought about, as its
// first answer told them.
func levelsOf(ctx context.Context, tx *store.Tx, reason, reference string) ([]*warehousev1.StockLevel, error) {
	var levels []*warehousev1.StockLevel
	rows, err := tx.Rows(ctx, entriesOf+` WHERE m.reference = $1 AND m.reason = $2 ORDER BY m.id`, reference, reason)
	err = scan(rows, err, func(rows *sql.Rows) error {
		l := &warehousev1.StockLevel{}
		levels = append(levels, l)
		return rows.Scan(posted(new(string), new(int64), l)...)
	})
	return newest(levels), err
}

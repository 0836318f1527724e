package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// A page token is the id of the last row shown, opaque to clients.
func nextPage(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

func pageAfter(token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !strings.HasPrefix(string(b), "ful_") {
		return "", fault.Field("page_token", "not one of this list")
	}
	return string(b), nil
}

// free is what a reservation holds and nobody has taken over yet, in the order
// in which goods go.
const free = `SELECT h.sku, h.site, h.lot, h.authenticated, h.quantity - coalesce(t.quantity, 0) FROM (
    SELECT m.sku, m.site, m.lot, m.authenticated, sum(CASE WHEN m.to_disposition = 'reserved' THEN m.quantity ELSE -m.quantity END)::bigint AS quantity
      FROM stock_move m WHERE m.reference = $1 AND 'reserved' IN (m.from_disposition, m.to_disposition) GROUP BY 1, 2, 3, 4) h
  LEFT JOIN (SELECT l.sku, f.site, l.lot, l.authenticated, sum(l.quantity - l.picked)::bigint AS quantity
      FROM fulfilment f JOIN fulfilment_line l ON l.fulfilment_id = f.id WHERE f.reservation_id = $1 AND f.state <= 2 GROUP BY 1, 2, 3, 4) t
    USING (sku, site, lot, authenticated)
 WHERE h.quantity > coalesce(t.quantity, 0) ORDER BY h.sku, h.site <> 'main', h.site, h.lot, h.authenticated`

type heldLine struct {
	sku, site, lot string
	authenticated  bool
	quantity       int64
}

func readHeld(ctx context.Context, tx *store.Tx, reservation string) (all []heldLine, err error) {
	rows, err := tx.Rows(ctx, free, reservation)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var h heldLine
		if err := rows.Scan(&h.sku, &h.site, &h.lot, &h.authenticated, &h.quantity); err != nil {
			return err
		}
		all = append(all, h)
		return nil
	})
	return all, err
}

// RequestFulfilment takes reserved lines over, as one fulfilment for each site.
func (f *floor) RequestFulfilment(ctx context.Context, req *warehousev1.RequestFulfilmentRequest) (*warehousev1.RequestFulfilmentResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.RequestFulfilmentResponse, error) {
		made, err := tx.Do(ctx, `INSERT INTO fulfilment_request (id, reference, reservation_id, merchant) SELECT $1, $2, $3, $4
			WHERE NOT EXISTS (SELECT FROM fulfilment_halt h WHERE h.reference = $2) ON CONFLICT DO NOTHING`,
			req.GetRequestId(), req.GetReference(), req.GetReservationId(), req.GetMerchantId())
		if err != nil {
			return nil, err
		}
		if n, err := made.RowsAffected(); err != nil || n == 0 {
			return f.requestedBefore(ctx, tx, req)
		}
		var state int16
		err = tx.Row(ctx, `SELECT state FROM reservation WHERE id = $1 FOR NO KEY UPDATE`, req.GetReservationId()).Scan(&state)
		if errors.Is(err, sql.ErrNoRows) || err == nil && state != 1 && state != 4 {
			return nil, fault.New(connect.CodeFailedPrecondition, "RESERVATION_ENDED", "nothing is reserved under this reservation")
		}
		if err != nil {
			return nil, err
		}
		held, err := readHeld(ctx, tx, req.GetReservationId())
		if err != nil {
			return nil, err
		}
		bySite, err := allot(req.GetLines(), held)
		if err != nil {
			return nil, err
		}
		res := &warehousev1.RequestFulfilmentResponse{}
		for _, site := range sortedKeys(bySite) {
			one := &fulfilment{
				id: id.New("ful"), request: req.GetRequestId(), reservation: req.GetReservationId(), reference: req.GetReference(),
				merchant: req.GetMerchantId(), market: req.GetMarket(), site: site, state: stateOpen, lines: bySite[site],
			}
			if err := one.insert(ctx, tx); err != nil {
				return nil, err
			}
			res.FulfilmentIds = append(res.FulfilmentIds, one.id)
			if err := tx.Publish(&warehousev1.FulfilmentOpened{
				FulfilmentId: one.id, RequestId: one.request, Reference: one.reference, MerchantId: one.merchant, Site: site, Lines: one.linesProto(),
			}); err != nil {
				return nil, err
			}
		}
		_, err = tx.Do(ctx, `UPDATE reservation SET state = 4, ended_at = now(), reason = 'taken over' WHERE id = $1 AND state = 1 AND $2`,
			req.GetReservationId(), taken(held, bySite))
		return res, err
	})
}

// requestedBefore answers a repetition, and refuses what comes after the halt.
func (f *floor) requestedBefore(ctx context.Context, tx *store.Tx, req *warehousev1.RequestFulfilmentRequest) (*warehousev1.RequestFulfilmentResponse, error) {
	res := &warehousev1.RequestFulfilmentResponse{}
	var reference, reservation string
	err := tx.Row(ctx, `SELECT reference, reservation_id FROM fulfilment_request WHERE id = $1`, req.GetRequestId()).Scan(&reference, &reservation)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fault.New(connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", "nothing more of this goes out")
	case err != nil:
		return nil, err
	case reference != req.GetReference() || reservation != req.GetReservationId():
		return nil, fault.New(connect.CodeAlreadyExists, "REQUEST_DIFFERS", "this request is of something else; take another id")
	}
	rows, err := tx.Rows(ctx, `SELECT id FROM fulfilment WHERE request_id = $1 AND split_from = '' ORDER BY id`, req.GetRequestId())
	return res, scan(rows, err, func(rows *sql.Rows) error {
		var one string
		if err := rows.Scan(&one); err != nil {
			return err
		}
		res.FulfilmentIds = append(res.FulfilmentIds, one)
		return nil
	})
}

// allot finds the asked lines among what is held.
func allot(lines []*warehousev1.FulfilmentLine, held []heldLine) (map[string][]fline, error) {
	left := slices.Clone(held)
	out := map[string][]fline{}
	// Lines that must be authenticated choose first.
	lines = slices.Clone(lines)
	slices.SortStableFunc(lines, func(a, b *warehousev1.FulfilmentLine) int {
		switch {
		case a.GetAuthenticated() == b.GetAuthenticated():
			return 0
		case a.GetAuthenticated():
			return -1
		}
		return 1
	})
	for _, l := range lines {
		want := l.GetQuantity()
		for i := range left {
			h := &left[i]
			if want == 0 || h.sku != l.GetSku() || h.quantity == 0 || l.GetAuthenticated() && !h.authenticated {
				continue
			}
			n := min(want, h.quantity)
			h.quantity, want = h.quantity-n, want-n
			out[h.site] = addLine(out[h.site], fline{SKU: h.sku, Lot: h.lot, Authenticated: h.authenticated, Quantity: n})
		}
		if want > 0 {
			return nil, fault.New(connect.CodeFailedPrecondition, "NOT_RESERVED", "the reservation does not hold as much", "sku", l.GetSku())
		}
	}
	return out, nil
}

func addLine(lines []fline, l fline) []fline {
	for i := range lines {
		if lines[i].SKU == l.SKU && lines[i].Lot == l.Lot && lines[i].Authenticated == l.Authenticated {
			lines[i].Quantity += l.Quantity
			return lines
		}
	}
	return append(lines, l)
}

// taken tells whether nothing of what was held is left.
func taken(held []heldLine, bySite map[string][]fline) bool {
	var n int64
	for _, h := range held {
		n += h.quantity
	}
	for _, lines := range bySite {
		for _, l := range lines {
			n -= l.Quantity
		}
	}
	return n == 0
}

func sortedKeys(m map[string][]fline) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// insert writes a new fulfilment with its lines.
func (f *fulfilment) insert(ctx context.Context, tx *store.Tx) error {
	skus, lots, kinds := make([]string, len(f.lines)), make([]string, len(f.lines)), make([]bool, len(f.lines))
	quantities, picked := make([]int64, len(f.lines)), make([]int64, len(f.lines))
	for i, l := range f.lines {
		skus[i], lots[i], kinds[i], quantities[i], picked[i] = l.SKU, l.Lot, l.Authenticated, l.Quantity, l.Picked
	}
	_, err := tx.Do(ctx, `WITH f AS (INSERT INTO fulfilment (id, request_id, reservation_id, reference, merchant, market, site, state, split_from)
		  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id)
		INSERT INTO fulfilment_line (fulfilment_id, sku, lot, authenticated, quantity, picked) SELECT f.id, u.sku, u.lot, u.authenticated, u.quantity, u.picked
		  FROM f, unnest($10::text[], $11::text[], $12::boolean[], $13::bigint[], $14::bigint[]) u(sku, lot, authenticated, quantity, picked)`,
		f.id, f.request, f.reservation, f.reference, f.merchant, f.market, f.site, f.state, f.splitFrom, skus, lots, kinds, quantities, picked)
	return err
}

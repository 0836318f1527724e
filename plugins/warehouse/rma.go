package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// States of a return, as the contract numbers them.
const (
	rmaAuthorised = int16(warehousev1.Return_STATE_AUTHORISED)
	rmaReceived   = int16(warehousev1.Return_STATE_RECEIVED)
	rmaGraded     = int16(warehousev1.Return_STATE_GRADED)
	rmaClosed     = int16(warehousev1.Return_STATE_CLOSED)
	rmaCancelled  = int16(warehousev1.Return_STATE_CANCELLED)
)

// rma is a return merchandise authorisation, locked by who changes it.
type rma struct {
	id, reference, merchant, site, market string
	state                                 int16
	digest                                []byte
}

// lockReturn reads a return and locks it; nil when there is none.
func lockReturn(ctx context.Context, tx *store.Tx, id string) (*rma, error) {
	r := &rma{id: id}
	err := tx.Row(ctx, `SELECT reference, merchant, site, market, state, digest FROM rma WHERE id = $1 FOR UPDATE`, id).
		Scan(&r.reference, &r.merchant, &r.site, &r.market, &r.state, &r.digest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return r, err
}

func returnUnknown() error {
	return fault.New(connect.CodeNotFound, "RETURN_UNKNOWN", "no such return")
}

// allow takes what may come back off what was shipped and is not authorised
// yet, what expires first first, the serials that are named and no others
// where some are. It answers, per sku, how much is missing.
const allow = `WITH want AS MATERIALIZED (SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[]) u(sku, lot, unit, quantity)),
left_over AS MATERIALIZED (SELECT s.sku, s.lot, s.unit, s.quantity - s.allowed AS n FROM shipped s JOIN stock_item i ON i.sku = s.sku AND i.merchant = $7
  WHERE s.reference = $2 AND s.quantity > s.allowed AND s.sku = ANY ($3)),
take AS MATERIALIZED (SELECT o.sku, o.lot, o.unit, least(o.n, o.wanted - o.before) AS n FROM
  (SELECT l.*, w.quantity AS wanted, coalesce(sum(l.n) OVER (PARTITION BY w.sku, w.lot, w.unit ORDER BY l.lot, l.unit ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS before
     FROM want w JOIN left_over l ON l.sku = w.sku AND (w.lot = '' OR l.lot = w.lot) AND (w.unit = '' OR l.unit = w.unit)) o WHERE o.before < o.wanted),
kept AS (INSERT INTO return_allowed (return_id, sku, lot, unit, quantity) SELECT $1, sku, lot, unit, n FROM take),
taken AS (UPDATE shipped s SET allowed = s.allowed + t.n FROM take t WHERE s.reference = $2 AND s.sku = t.sku AND s.lot = t.lot AND s.unit = t.unit),
line AS (INSERT INTO return_line (return_id, sku, lot, quantity)
  SELECT $1, sku, CASE WHEN count(DISTINCT lot) = 1 THEN min(lot) ELSE '' END, sum(n) FROM take GROUP BY sku)
SELECT w.sku, (w.n - coalesce(t.n, 0))::bigint FROM (SELECT sku, sum(quantity) AS n FROM want GROUP BY sku) w
  LEFT JOIN (SELECT sku, sum(n) AS n FROM take GROUP BY sku) t ON t.sku = w.sku WHERE w.n > coalesce(t.n, 0)`

// AuthoriseReturn says which goods of an order may come back: no more than was
// shipped of it and is not authorised yet.
func (s *service) AuthoriseReturn(ctx context.Context, req *warehousev1.AuthoriseReturnRequest) (*warehousev1.AuthoriseReturnResponse, error) {
	skus, names, units, amounts, err := asked(req.GetLines())
	if err != nil {
		return nil, err
	}
	sum, err := digest(req)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.AuthoriseReturnResponse, error) {
		done, err := tx.Do(ctx, `INSERT INTO rma (id, reference, merchant, site, market, reason, state, digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			req.GetReturnId(), req.GetReference(), req.GetMerchantId(), site(req.GetSite()), call.From(ctx).Market, req.GetReason(), rmaAuthorised, sum)
		if err != nil {
			return nil, err
		}
		if n, err := done.RowsAffected(); err != nil {
			return nil, err
		} else if n == 0 {
			return authorisedBefore(ctx, tx, req.GetReturnId(), sum)
		}
		// Who authorises of the same order waits here.
		if _, err := tx.Do(ctx, `SELECT FROM shipped WHERE reference = $1 AND sku = ANY ($2) ORDER BY sku, lot, unit FOR UPDATE`, req.GetReference(), skus); err != nil {
			return nil, err
		}
		var short []string
		rows, err := tx.Rows(ctx, allow, req.GetReturnId(), req.GetReference(), skus, names, units, amounts, req.GetMerchantId())
		err = scan(rows, err, func(rows *sql.Rows) error {
			var sku, missing string
			err := rows.Scan(&sku, &missing)
			short = append(short, sku, missing)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case len(short) > 0:
			return nil, fault.New(connect.CodeFailedPrecondition, "NOT_SHIPPED", "more than was shipped of this order and may still come back", short...)
		}
		r, err := readReturn(ctx, tx, req.GetReturnId(), "")
		return &warehousev1.AuthoriseReturnResponse{Return: r}, err
	})
}

// asked are a return's lines as columns: a row for each serial that is named.
func asked(lines []*warehousev1.ReturnLine) (skus, names, units []string, amounts []int64, err error) {
	seen := make(map[[2]string]bool, len(lines))
	for i, l := range lines {
		if seen[[2]string{l.GetSku(), l.GetLot()}] {
			return nil, nil, nil, nil, fault.Field(lineField(i), "each sku and lot once")
		}
		seen[[2]string{l.GetSku(), l.GetLot()}] = true
		if n := len(l.GetUnitIds()); n > 0 && int64(n) != l.GetQuantity() {
			return nil, nil, nil, nil, fault.Field(lineField(i)+".unit_ids", "as many as the quantity, or none")
		}
		for _, u := range l.GetUnitIds() {
			skus, names, units, amounts = append(skus, l.GetSku()), append(names, l.GetLot()), append(units, u), append(amounts, 1)
		}
		if len(l.GetUnitIds()) == 0 {
			skus, names, units, amounts = append(skus, l.GetSku()), append(names, l.GetLot()), append(units, ""), append(amounts, l.GetQuantity())
		}
	}
	return skus, names, units, amounts, nil
}

func authorisedBefore(ctx context.Context, tx *store.Tx, id string, sum []byte) (*warehousev1.AuthoriseReturnResponse, error) {
	r, err := lockReturn(ctx, tx, id)
	switch {
	case err != nil:
		return nil, err
	case r.state == rmaCancelled:
		return nil, fault.New(connect.CodeFailedPrecondition, "RETURN_CANCELLED", "this return was cancelled")
	case !bytes.Equal(r.digest, sum):
		return nil, differs("return")
	}
	res, err := readReturn(ctx, tx, id, "")
	return &warehousev1.AuthoriseReturnResponse{Return: res}, err
}

// CancelReturn takes an authorisation back of which nothing came. One that
// never was leaves a tombstone.
func (s *service) CancelReturn(ctx context.Context, req *warehousev1.CancelReturnRequest) (*warehousev1.CancelReturnResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.CancelReturnResponse, error) {
		res := &warehousev1.CancelReturnResponse{}
		if _, err := tx.Do(ctx, `INSERT INTO rma (id, reference, merchant, site, market, reason, state, digest) VALUES ($1, '', '', '', '', $2, $3, '') ON CONFLICT DO NOTHING`,
			req.GetReturnId(), req.GetReason(), rmaCancelled); err != nil {
			return nil, err
		}
		r, err := lockReturn(ctx, tx, req.GetReturnId())
		switch {
		case err != nil:
			return nil, err
		case r.state == rmaCancelled:
			return res, nil
		case r.state != rmaAuthorised:
			return nil, fault.New(connect.CodeFailedPrecondition, "RETURN_RECEIVED", "something of this return has come")
		}
		_, err = tx.Do(ctx, `WITH gone AS (UPDATE rma SET state = $2 WHERE id = $1 RETURNING reference)
			UPDATE shipped s SET allowed = s.allowed - a.quantity FROM gone, return_allowed a
			 WHERE a.return_id = $1 AND s.reference = gone.reference AND s.sku = a.sku AND s.lot = a.lot AND s.unit = a.unit`, r.id, rmaCancelled)
		return res, err
	})
}

const readReturns = `SELECT r.id, r.reference, r.merchant, r.site, r.state, r.authorised_at, r.received_at, r.fulfilment_id,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('sku', l.sku, 'lot', l.lot, 'quantity', l.quantity, 'received', l.received, 'graded', l.graded, 'restocked', l.restocked,
     'destroyed', l.destroyed, 'sent_back', l.sent_back, 'unit_ids', (SELECT coalesce(jsonb_agg(a.unit ORDER BY a.unit), '[]') FROM
       (SELECT p.unit FROM return_piece p WHERE p.return_id = r.id AND p.sku = l.sku AND p.unit <> ''
        UNION SELECT a.unit FROM return_allowed a WHERE l.received = 0 AND a.return_id = r.id AND a.sku = l.sku AND a.unit <> '') a)) ORDER BY l.sku), '[]')
   FROM return_line l WHERE l.return_id = r.id),
  (SELECT coalesce(jsonb_agg(jsonb_build_object('grading_id', g.id, 'sku', g.sku, 'lot', g.lot, 'quantity', g.quantity, 'unit_ids', to_jsonb(g.units),
     'grade', g.grade, 'answers', g.answers, 'blob_ids', to_jsonb(g.blobs), 'graded_by', g.graded_by, 'case_id', g.case_id,
     'at', jsonb_build_object('seconds', floor(extract(epoch FROM g.at))::bigint)) ORDER BY g.at, g.id), '[]')
   FROM return_grading g WHERE g.return_id = r.id)
 FROM rma r WHERE `

func scanReturn(row interface{ Scan(...any) error }) (*warehousev1.Return, error) {
	r := &warehousev1.Return{}
	var state int32
	var authorised time.Time
	var received *time.Time
	err := row.Scan(&r.ReturnId, &r.Reference, &r.MerchantId, &r.Site, &state, &authorised, &received, &r.FulfilmentId, fromJSON{&r.Lines}, fromJSON{&r.Gradings})
	r.State, r.AuthorisedAt = warehousev1.Return_State(state), timestamppb.New(authorised)
	if received != nil {
		r.ReceivedAt = timestamppb.New(*received)
	}
	return r, err
}

// readReturn reads a return of a merchant, or of anybody; not_found when there
// is none. A tombstone is none.
func readReturn(ctx context.Context, db reader, id, merchant string) (*warehousev1.Return, error) {
	r, err := scanReturn(db.Row(ctx, readReturns+`r.id = $1 AND r.merchant <> '' AND ($2 = '' OR r.merchant = $2)`, id, merchant))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, returnUnknown()
	}
	return r, err
}

// GetReturn tells one return.
func (s *service) GetReturn(ctx context.Context, req *warehousev1.GetReturnRequest) (*warehousev1.GetReturnResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	r, err := readReturn(ctx, s.db, req.GetReturnId(), merchant)
	if err != nil {
		return nil, store.Wrap(err)
	}
	return &warehousev1.GetReturnResponse{Return: r}, nil
}

// ListReturns pages through returns by falling id.
func (s *service) ListReturns(ctx context.Context, req *warehousev1.ListReturnsRequest) (*warehousev1.ListReturnsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	after, err := textPosition("rma", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	res := &warehousev1.ListReturnsResponse{}
	rows, err := s.db.Rows(ctx, readReturns+`r.merchant <> '' AND ($1 = '' OR r.merchant = $1) AND ($2 = 0 OR r.state = $2) AND ($3 = '' OR r.reference = $3)
		AND ($4 = '' OR r.id < $4) ORDER BY r.id DESC LIMIT $5`, merchant, int32(req.GetState()), req.GetReference(), after, size+1)
	err = scan(rows, err, func(rows *sql.Rows) error {
		r, err := scanReturn(rows)
		res.Returns = append(res.Returns, r)
		return err
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetReturns()) > size {
		res.Returns = res.GetReturns()[:size]
		res.NextPageToken = textToken("rma", res.GetReturns()[size-1].GetReturnId())
	}
	return res, nil
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// A count is of goods without serials: those are told one by one by their
// scans, and who finds one missing says so by MoveStock.

func countUnknown() error {
	return fault.New(connect.CodeNotFound, "COUNT_UNKNOWN", "no such count")
}

// OpenCount begins a count.
func (s *service) OpenCount(ctx context.Context, req *warehousev1.OpenCountRequest) (*warehousev1.OpenCountResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.OpenCountResponse, error) {
		first, err := firstTime(ctx, tx, "count", req.GetCountId(), "", req, req.GetSkus())
		if err != nil {
			return nil, err
		}
		if first {
			if _, err := tx.Do(ctx, `INSERT INTO stock_count (id, site, skus) VALUES ($1, $2, $3)`, req.GetCountId(), site(req.GetSite()), req.GetSkus()); err != nil {
				return nil, err
			}
		}
		c, _, err := readCount(ctx, tx, req.GetCountId())
		return &warehousev1.OpenCountResponse{Count: c}, err
	})
}

// submit writes what was found beside what the books say at this moment; lots
// that were not found count as none.
const submit = `WITH found AS (SELECT u.sku, u.lot, sum(u.counted)::bigint AS counted FROM unnest($2::text[], $3::text[], $4::bigint[]) u(sku, lot, counted) GROUP BY 1, 2),
booked AS (SELECT b.sku, b.lot, b.sellable FROM stock_balance b WHERE b.sku = ANY ($5) AND b.site = $6 AND NOT b.authenticated)
INSERT INTO stock_count_line (count_id, sku, lot, counted, expected)
SELECT $1, coalesce(f.sku, b.sku), coalesce(f.lot, b.lot), coalesce(f.counted, 0), coalesce(b.sellable, 0)
  FROM found f FULL JOIN booked b USING (sku, lot) WHERE f.sku IS NOT NULL OR b.sellable > 0`

// SubmitCount tells what was found. A count that agrees with the books is
// approved with that.
func (s *service) SubmitCount(ctx context.Context, req *warehousev1.SubmitCountRequest) (*warehousev1.SubmitCountResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	var skus, names []string
	var counted []int64
	for _, l := range req.GetLines() {
		skus, names, counted = append(skus, l.GetSku()), append(names, l.GetLot()), append(counted, l.GetCounted())
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.SubmitCountResponse, error) {
		c, asked, err := readCount(ctx, tx, req.GetCountId())
		switch {
		case err != nil:
			return nil, err
		case c == nil:
			return nil, countUnknown()
		case c.GetState() != warehousev1.Count_STATE_OPEN:
			if c.GetCountedBy() == who && sameCount(c, req) {
				return &warehousev1.SubmitCountResponse{Count: c}, nil
			}
			return nil, fault.New(connect.CodeFailedPrecondition, "COUNT_SUBMITTED", "this count was submitted")
		}
		for i, sku := range skus {
			if !slices.Contains(asked, sku) {
				return nil, fault.Field(lineField(i)+".sku", "this count is not of it")
			}
		}
		for _, sku := range asked {
			if !slices.Contains(skus, sku) {
				return nil, fault.Field("lines", "every sku of the count; missing is "+sku)
			}
		}
		if err := lock(ctx, tx, asked); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, submit, req.GetCountId(), skus, names, counted, asked, c.GetSite()); err != nil {
			return nil, err
		}
		_, err = tx.Do(ctx, `UPDATE stock_count SET counted_by = $2, state = CASE WHEN EXISTS (SELECT FROM stock_count_line l
			WHERE l.count_id = $1 AND l.counted <> l.expected) THEN 2 ELSE 3 END WHERE id = $1`, req.GetCountId(), who)
		if err != nil {
			return nil, err
		}
		c, _, err = readCount(ctx, tx, req.GetCountId())
		return &warehousev1.SubmitCountResponse{Count: c}, err
	})
}

func sameCount(c *warehousev1.Count, req *warehousev1.SubmitCountRequest) bool {
	sum := make(map[[2]string]int64)
	for _, l := range req.GetLines() {
		sum[[2]string{l.GetSku(), l.GetLot()}] += l.GetCounted()
	}
	for _, l := range c.GetLines() {
		if sum[[2]string{l.GetSku(), l.GetLot()}] != l.GetCounted() {
			return false
		}
		delete(sum, [2]string{l.GetSku(), l.GetLot()})
	}
	return len(sum) == 0
}

// ApproveCount posts the differences: by another person than the one who
// counted. What was sold since does not matter, as long as it leaves what is
// taken away.
func (s *service) ApproveCount(ctx context.Context, req *warehousev1.ApproveCountRequest) (*warehousev1.ApproveCountResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ApproveCountResponse, error) {
		c, asked, err := readCount(ctx, tx, req.GetCountId())
		switch {
		case err != nil:
			return nil, err
		case c == nil:
			return nil, countUnknown()
		case c.GetState() == warehousev1.Count_STATE_APPROVED:
			return &warehousev1.ApproveCountResponse{Count: c}, nil
		case c.GetState() == warehousev1.Count_STATE_OPEN:
			return nil, fault.New(connect.CodeFailedPrecondition, "COUNT_OPEN", "nobody has submitted this count")
		case c.GetCountedBy() == who:
			return nil, fault.New(connect.CodePermissionDenied, "SAME_PERSON", "another person approves than the one who counted")
		}
		if err := lock(ctx, tx, asked); err != nil {
			return nil, err
		}
		if err := correct(ctx, tx, c, req.GetCause()); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `UPDATE stock_count SET state = 3, approved_by = $2 WHERE id = $1`, req.GetCountId(), who); err != nil {
			return nil, err
		}
		c.State, c.ApprovedBy = warehousev1.Count_STATE_APPROVED, who
		return &warehousev1.ApproveCountResponse{Count: c}, nil
	})
}

// correct posts what a count found more and less, and tells it.
func correct(ctx context.Context, tx *store.Tx, c *warehousev1.Count, cause string) error {
	for _, w := range []way{
		{reason: "adjustment", from: "external", to: "sellable", cause: cause},
		{reason: "adjustment", from: "sellable", to: "external", cause: cause},
	} {
		var all []goods
		var sum int64
		for _, l := range c.GetLines() {
			n := l.GetCounted() - l.GetExpected()
			if w.from == "sellable" {
				n = -n
			}
			if n > 0 {
				all = append(all, goods{key: key{sku: l.GetSku(), site: c.GetSite(), lot: l.GetLot()}, quantity: n, reference: c.GetCountId()})
				sum += n
			}
		}
		levels, err := post(ctx, tx, w, all...)
		if err != nil {
			return err
		}
		if len(levels) == 0 {
			continue
		}
		if err := tx.Publish(&warehousev1.StockMoved{
			MoveId: c.GetCountId(), From: dispositions[w.from], To: dispositions[w.to], Quantity: sum, Levels: levels,
		}); err != nil {
			return err
		}
	}
	return nil
}

// readCount reads a count and locks it; nil when there is none. What the books
// say is told once it is submitted.
func readCount(ctx context.Context, tx *store.Tx, id string) (c *warehousev1.Count, skus []string, err error) {
	c = &warehousev1.Count{CountId: id}
	var state int32
	err = tx.Row(ctx, `SELECT site, state, counted_by, approved_by, to_jsonb(skus) FROM stock_count WHERE id = $1 FOR UPDATE`, id).
		Scan(&c.Site, &state, &c.CountedBy, &c.ApprovedBy, fromJSON{&skus})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	c.State = warehousev1.Count_State(state)
	rows, err := tx.Rows(ctx, `SELECT sku, lot, counted, expected FROM stock_count_line WHERE count_id = $1 ORDER BY sku, lot`, id)
	return c, skus, scan(rows, err, func(rows *sql.Rows) error {
		l := &warehousev1.CountLine{}
		c.Lines = append(c.Lines, l)
		return rows.Scan(&l.Sku, &l.Lot, &l.Counted, &l.Expected)
	})
}

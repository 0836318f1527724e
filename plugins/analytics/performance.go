package main

import (
	"context"
	"database/sql"
	"time"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const returnReasons = `SELECT reason, sum(units)::bigint, count(DISTINCT return_id) FROM returned_why
 WHERE day BETWEEN $1::date AND $2::date AND ($3 = '' OR market = $3) AND ($4 = '' OR merchant = $4) AND ($5 = '' OR sku = $5)
 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 200`

// ListReturnReasons counts what came back by why.
func (s *service) ListReturnReasons(ctx context.Context, req *analyticsv1.ListReturnReasonsRequest) (*analyticsv1.ListReturnReasonsResponse, error) {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return nil, err
	}
	res := &analyticsv1.ListReturnReasonsResponse{}
	rows, err := s.db.Rows(ctx, returnReasons, sc.from, sc.to, sc.market, sc.merchant, sc.sku)
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		r := &analyticsv1.ReturnReason{}
		res.Reasons = append(res.Reasons, r)
		return rows.Scan(&r.Reason, &r.Units, &r.Returns)
	}))
}

const carrierFigures = `WITH s AS (SELECT s.*, CASE WHEN $5 THEN coalesce((SELECT max(l.market) FROM sale_line l WHERE l.order_id = s.order_id), '') ELSE '' END AS m,
    CASE WHEN $6 THEN (s.booked_at AT TIME ZONE 'UTC')::date::text ELSE '' END AS d, s.delivered_at IS NOT NULL AND NOT s.failed AS delivered
  FROM shipment s WHERE NOT s.cancelled AND s.booked_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND s.booked_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
   AND ($4 = '' OR s.merchant = $4) AND ($3 = '' OR EXISTS (SELECT FROM sale_line l WHERE l.order_id = s.order_id AND l.market = $3)))
SELECT d, m, instance, service, count(*), count(*) FILTER (WHERE delivered), count(*) FILTER (WHERE failed), count(*) FILTER (WHERE troubled),
       coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY h) FILTER (WHERE delivered), 0), coalesce(percentile_disc(0.9) WITHIN GROUP (ORDER BY h) FILTER (WHERE delivered), 0)
  FROM (SELECT *, greatest(0, ceil(extract(epoch FROM delivered_at - booked_at) / 3600))::bigint AS h FROM s) s
 WHERE (d, m, instance, service) > ($7, $8, $9, $10) OR $11
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4 LIMIT $12`

// ListCarrierFigures tells how carriers did.
func (s *service) ListCarrierFigures(ctx context.Context, req *analyticsv1.ListCarrierFiguresRequest) (*analyticsv1.ListCarrierFiguresResponse, error) {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return nil, err
	}
	if sc.sku != "" {
		return nil, fault.Field("scope.sku", "carriers carry parcels; leave it out")
	}
	after, err := readToken("carriers", req.GetPageToken(), 4)
	if err != nil {
		return nil, err
	}
	first := after == nil
	if first {
		after = make([]string, 4)
	}
	size := pageSize(req.GetPageSize())
	res := &analyticsv1.ListCarrierFiguresResponse{}
	rows, err := s.db.Rows(ctx, carrierFigures, sc.from, sc.to, sc.market, sc.merchant, req.GetByMarket(), req.GetByDay(),
		after[0], after[1], after[2], after[3], first, size+1)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		f := &analyticsv1.CarrierFigure{}
		err := rows.Scan(&f.Day, &f.Market, &f.Instance, &f.Service, &f.Shipments, &f.Delivered, &f.Failed, &f.Troubled, &f.MedianHours, &f.NinthDecileHours)
		f.DeliveryRate = ratio(f.GetDelivered(), f.GetDelivered()+f.GetFailed(), 4)
		res.Figures = append(res.Figures, f)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetFigures()) > size {
		res.Figures = res.GetFigures()[:size]
		last := res.GetFigures()[size-1]
		res.NextPageToken = token("carriers", last.GetDay(), last.GetMarket(), last.GetInstance(), last.GetService())
	}
	return res, nil
}

// What stood there at the end of a day stands until the next day on which it
// changed: each level counts for as many of the days as it was so.
const stockTurns = `WITH l AS (SELECT sku, merchant, units, day, coalesce(lead(day) OVER (PARTITION BY sku, site, lot, authenticated ORDER BY day), 'infinity'::date) AS until
    FROM stock_day WHERE day <= $2::date AND ($3 = '' OR merchant = $3) AND ($4 = '' OR sku = $4) AND sku > $5),
stock AS (SELECT sku, max(merchant) AS merchant, sum(units * greatest(0, least(until, $2::date + 1) - greatest(day, $1::date)))::bigint AS unit_days,
    coalesce(sum(units) FILTER (WHERE until > $2::date), 0)::bigint AS closing FROM l GROUP BY sku),
sales AS (SELECT sku, max(merchant) AS merchant, sum(sold - cancelled)::bigint AS units FROM figure_day
  WHERE sku <> '' AND day BETWEEN $1::date AND $2::date AND ($3 = '' OR merchant = $3) AND ($4 = '' OR sku = $4) AND sku > $5 GROUP BY sku)
SELECT coalesce(t.sku, s.sku), coalesce(t.merchant, s.merchant, ''), coalesce(s.units, 0), coalesce(t.unit_days, 0), coalesce(t.closing, 0)
  FROM stock t FULL JOIN sales s ON s.sku = t.sku ORDER BY 1 LIMIT $6`

// ListStockTurn tells how often stock was sold.
func (s *service) ListStockTurn(ctx context.Context, req *analyticsv1.ListStockTurnRequest) (*analyticsv1.ListStockTurnResponse, error) {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return nil, err
	}
	if sc.market != "" {
		return nil, fault.Field("scope.market", "stock serves all markets; leave it out")
	}
	after, err := readToken("turns", req.GetPageToken(), 1)
	if err != nil {
		return nil, err
	}
	if after == nil {
		after = []string{""}
	}
	size := pageSize(req.GetPageSize())
	res := &analyticsv1.ListStockTurnResponse{}
	if !sc.until(time.Now()) {
		return res, nil
	}
	rows, err := s.db.Rows(ctx, stockTurns, sc.from, sc.to, sc.merchant, sc.sku, after[0], size+1)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		t := &analyticsv1.StockTurn{}
		var unitDays int64
		err := rows.Scan(&t.Sku, &t.MerchantId, &t.Units, &unitDays, &t.ClosingStock)
		t.AverageStock = ratio(unitDays, int64(sc.days), 2)
		t.Turn = ratio(t.GetUnits()*int64(sc.days), unitDays, 2)
		res.Turns = append(res.Turns, t)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetTurns()) > size {
		res.Turns = res.GetTurns()[:size]
		res.NextPageToken = token("turns", res.GetTurns()[size-1].GetSku())
	}
	return res, nil
}

// GetFunnel counts how far sessions came.
func (s *service) GetFunnel(ctx context.Context, req *analyticsv1.GetFunnelRequest) (*analyticsv1.GetFunnelResponse, error) {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int64)
	rows, err := s.db.Rows(ctx, `SELECT step, sum(sessions)::bigint FROM funnel_day WHERE day BETWEEN $1::date AND $2::date AND ($3 = '' OR market = $3)
		AND sku = $5 AND (merchant = $4 OR $4 = '' AND $5 <> '') GROUP BY step`, sc.from, sc.to, sc.market, sc.merchant, sc.sku)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var step string
		var n int64
		err := rows.Scan(&step, &n)
		counts[step] = n
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	names := []string{"visited", "viewed", "added", "checkout", "ordered"}
	if sc.merchant != "" || sc.sku != "" {
		names = []string{"viewed", "added", "ordered"}
	}
	res := &analyticsv1.GetFunnelResponse{}
	for _, name := range names {
		res.Steps = append(res.Steps, &analyticsv1.FunnelStep{Name: name, Sessions: counts[name]})
	}
	return res, nil
}

package main

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

// velocityDays is the time over which sales are counted.
const velocityDays = 28

// What waits for stock is short, whatever came meanwhile.
const listGaps = `WITH gaps AS (SELECT merchant, sku, market, since FROM gap WHERE merchant = $1
  UNION ALL SELECT q.merchant, q.sku, q.market, q.since FROM backlog q WHERE q.merchant = $1 AND q.waiting > 0
    AND NOT EXISTS (SELECT FROM gap WHERE gap.merchant = $1 AND gap.sku = q.sku AND gap.market = q.market))
SELECT g.sku, g.market, g.since, coalesce(d.attempts, 0), coalesce(d.missing, 0),
  (SELECT count(*) FROM waiter w WHERE w.sku = g.sku AND w.market = g.market AND NOT w.arrived), coalesce(v.sold, 0),
  coalesce((SELECT q.waiting FROM backlog q WHERE q.sku = g.sku AND q.market = g.market), 0)
  FROM gaps g
  LEFT JOIN (SELECT s.sku, s.market, sum(s.attempts)::bigint AS attempts, sum(s.missing)::bigint AS missing FROM shortage s
     WHERE s.merchant = $1 AND s.day > current_date - 28 GROUP BY 1, 2) d ON d.sku = g.sku AND d.market = g.market
  LEFT JOIN (SELECT l.sku, o.market, sum(l.quantity)::bigint AS sold FROM consignment c JOIN orders o ON o.id = c.order_id
     JOIN order_line l ON l.order_id = o.id AND l.merchant = c.merchant
     WHERE c.merchant = $1 AND o.state IN (2, 3, 7, 8) AND o.placed_at > now() - interval '28 days' AND l.sku IN (SELECT sku FROM gaps)
     GROUP BY 1, 2) v ON v.sku = g.sku AND v.market = g.market
 WHERE g.merchant = $1 AND ($2 = '' OR g.market = $2) ORDER BY g.since, g.sku, g.market LIMIT 200`

// ListReplenishment tells what a merchant is short of and how much to order.
func (s *service) ListReplenishment(ctx context.Context, req *orderv1.ListReplenishmentRequest) (*orderv1.ListReplenishmentResponse, error) {
	res := &orderv1.ListReplenishmentResponse{}
	rows, err := s.db.Rows(ctx, listGaps, call.From(ctx).Principal.Merchant, req.GetMarket())
	err = each(rows, err, func(rows *sql.Rows) error {
		r := &orderv1.Replenishment{}
		var since time.Time
		if err := rows.Scan(&r.Sku, &r.Market, &since, &r.Attempts, &r.Missing, &r.Waiting, &r.Sold_28Days, &r.Backordered); err != nil {
			return err
		}
		r.ShortSince = timestamppb.New(since)
		res.Replenishments = append(res.Replenishments, r)
		return nil
	})
	if err != nil || len(res.GetReplenishments()) == 0 {
		return res, store.Wrap(err)
	}
	if err := s.atHand(ctx, res.GetReplenishments()); err != nil {
		return nil, err
	}
	lead, cover := cmp.Or(req.GetLeadDays(), 14), cmp.Or(req.GetCoverDays(), 28)
	for _, r := range res.GetReplenishments() {
		r.Suggested = suggest(r, int64(lead+cover))
	}
	return res, nil
}

// suggest is what to order to serve who waits and sell on for so many days, at
// least what was missing, less what there is and comes.
func suggest(r *orderv1.Replenishment, days int64) int64 {
	wanted := max((r.GetSold_28Days()*days+velocityDays-1)/velocityDays, r.GetMissing())
	return max(0, wanted+r.GetBackordered()-r.GetAvailable()-r.GetIncoming())
}

// atHand asks the warehouse what there is, market by market, and what comes.
func (s *service) atHand(ctx context.Context, all []*orderv1.Replenishment) error {
	byMarket, skus := make(map[string][]string), []string{}
	for _, r := range all {
		byMarket[r.GetMarket()], skus = append(byMarket[r.GetMarket()], r.GetSku()), append(skus, r.GetSku())
	}
	available := make(map[[2]string]int64)
	for market, skus := range byMarket {
		res, err := s.stock.GetAvailability(ctx, &warehousev1.GetAvailabilityRequest{Market: market, Skus: skus})
		if err != nil {
			return err
		}
		for _, a := range res.GetAvailabilities() {
			available[[2]string{market, a.GetSku()}] = a.GetAvailable()
		}
	}
	slices.Sort(skus)
	levels, err := s.stock.GetStock(ctx, &warehousev1.GetStockRequest{Skus: slices.Compact(skus)})
	if err != nil {
		return err
	}
	incoming := make(map[string]int64)
	for _, l := range levels.GetLevels() {
		incoming[l.GetSku()] += l.GetFurther()["incoming"] + l.GetFurther()["receiving"]
	}
	for _, r := range all {
		r.Available, r.Incoming = available[[2]string{r.GetMarket(), r.GetSku()}], incoming[r.GetSku()]
	}
	return nil
}

const sumShortages = `SELECT coalesce(sum(attempts), 0)::bigint, coalesce(sum(missing), 0)::bigint,
  (SELECT count(*) FROM gap WHERE $1 = '' OR merchant = $1),
  (SELECT count(*) FROM waiter w WHERE NOT w.arrived AND ($1 = '' OR EXISTS (SELECT FROM gap g WHERE g.merchant = $1 AND g.market = w.market AND g.sku = w.sku)))
  FROM shortage WHERE $1 = '' OR merchant = $1`

// SumShortages counts for reports; a merchant's own only, to its members.
func (s *service) SumShortages(ctx context.Context, _ *orderv1.SumShortagesRequest) (*orderv1.SumShortagesResponse, error) {
	res := &orderv1.SumShortagesResponse{}
	err := s.db.Row(ctx, sumShortages, call.From(ctx).Principal.Merchant).Scan(&res.Attempts, &res.Missing, &res.ShortNow, &res.Waiting)
	return res, store.Wrap(err)
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// mostDays that a question may be about.
const mostDays = 400

// scope is a checked Scope.
type scope struct {
	from, to, market, merchant, sku string
	first, last                     time.Time
	days                            int
}

func scopeOf(ctx context.Context, in *analyticsv1.Scope) (scope, error) {
	merchant, err := whose(ctx, in.GetMerchantId())
	if err != nil {
		return scope{}, err
	}
	from, err := time.Parse(time.DateOnly, in.GetFromDay())
	if err != nil {
		return scope{}, fault.Field("scope.from_day", "no day")
	}
	to, err := time.Parse(time.DateOnly, in.GetToDay())
	if err != nil {
		return scope{}, fault.Field("scope.to_day", "no day")
	}
	days := int(to.Sub(from).Hours()/24) + 1
	switch {
	case days < 1:
		return scope{}, fault.Field("scope.to_day", "before from_day")
	case days > mostDays:
		return scope{}, fault.Field("scope.to_day", "at most "+strconv.Itoa(mostDays)+" days at once")
	}
	return scope{in.GetFromDay(), in.GetToDay(), in.GetMarket(), merchant, in.GetSku(), from, to, days}, nil
}

// until cuts off the days after a moment: no stock stands there yet. It tells
// whether any are left.
func (s *scope) until(now time.Time) bool {
	if today := now.UTC().Truncate(24 * time.Hour); s.last.After(today) {
		s.last, s.to = today, day(today)
	}
	s.days = int(s.last.Sub(s.first).Hours()/24) + 1
	return s.days >= 1
}

// Orders stand in figure_day three times; which are meant depends on what the
// rows are told apart by. Rows by good have no money of payments.
const figures = `WITH f AS (
  SELECT CASE WHEN $1 THEN day::text ELSE '' END AS d, CASE WHEN $2 THEN market ELSE '' END AS m, CASE WHEN $3 THEN merchant ELSE '' END AS h,
         CASE WHEN $4 THEN sku ELSE '' END AS s, *,
         CASE $10 WHEN 'good' THEN sku <> '' WHEN 'merchant' THEN sku = '' AND merchant <> '' ELSE sku = '' AND merchant = '' END AS counts
    FROM figure WHERE day BETWEEN $5::date AND $6::date AND ($7 = '' OR market = $7) AND ($8 = '' OR merchant = $8) AND ($9 = '' OR sku = $9)
     AND ($10 <> 'good' OR sku <> '')),
c AS (SELECT d, m, h, s, currency, coalesce(sum(orders) FILTER (WHERE counts), 0)::bigint AS orders, sum(sold)::bigint AS sold, sum(cancelled)::bigint AS cancelled,
         sum(returned)::bigint AS returned, sum(genuine)::bigint AS genuine, sum(counterfeit)::bigint AS counterfeit, sum(inconclusive)::bigint AS inconclusive,
         sum(wrong_item)::bigint AS wrong_item, sum(damaged)::bigint AS damaged, sum(views)::bigint AS views,
         sum(sold_minor)::bigint AS sold_minor, sum(cancelled_minor)::bigint AS cancelled_minor, sum(captured_minor)::bigint AS captured_minor, sum(refunded_minor)::bigint AS refunded_minor
    FROM f GROUP BY 1, 2, 3, 4, 5)
SELECT d, m, h, s, sum(orders)::bigint, sum(sold)::bigint, sum(cancelled)::bigint, sum(returned)::bigint, sum(genuine)::bigint, sum(counterfeit)::bigint,
       sum(inconclusive)::bigint, sum(wrong_item)::bigint, sum(damaged)::bigint, sum(views)::bigint,
       coalesce(jsonb_agg(jsonb_build_array(currency, sold_minor, cancelled_minor, captured_minor, refunded_minor) ORDER BY currency)
         FILTER (WHERE currency <> '' AND (sold_minor, cancelled_minor, captured_minor, refunded_minor) <> (0, 0, 0, 0)), '[]')
  FROM c WHERE (d, m, h, s) > ($11, $12, $13, $14) OR $15
 GROUP BY 1, 2, 3, 4
HAVING bool_or((orders, sold, cancelled, returned, genuine, counterfeit, inconclusive, wrong_item, damaged, views, sold_minor, captured_minor, refunded_minor)
       <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
 ORDER BY 1, 2, 3, 4 LIMIT $16`

// level of the orders that are counted.
func level(sc scope, by []analyticsv1.Dimension) string {
	switch {
	case sc.sku != "" || slices.Contains(by, analyticsv1.Dimension_DIMENSION_PRODUCT):
		return "good"
	case sc.merchant != "" || slices.Contains(by, analyticsv1.Dimension_DIMENSION_MERCHANT):
		return "merchant"
	}
	return "shop"
}

// eachFigure hands over rows after a place, limit of them or, with none, all.
func (s *service) eachFigure(ctx context.Context, sc scope, by []analyticsv1.Dimension, after []string, limit *int, each func(*analyticsv1.Figure) error) error {
	has := func(d analyticsv1.Dimension) bool { return slices.Contains(by, d) }
	first := after == nil
	if first {
		after = make([]string, 4)
	}
	rows, err := s.db.Rows(ctx, figures, has(analyticsv1.Dimension_DIMENSION_DAY), has(analyticsv1.Dimension_DIMENSION_MARKET),
		has(analyticsv1.Dimension_DIMENSION_MERCHANT), has(analyticsv1.Dimension_DIMENSION_PRODUCT),
		sc.from, sc.to, sc.market, sc.merchant, sc.sku, level(sc, by), after[0], after[1], after[2], after[3], first, limit)
	return scan(rows, err, func(rows *sql.Rows) error {
		f := &analyticsv1.Figure{}
		var amounts []byte
		if err := rows.Scan(&f.Day, &f.Market, &f.MerchantId, &f.Sku, &f.Orders, &f.SoldUnits, &f.CancelledUnits, &f.ReturnedUnits, &f.GenuineUnits,
			&f.CounterfeitUnits, &f.InconclusiveUnits, &f.WrongItemUnits, &f.DamagedUnits, &f.Views, &amounts); err != nil {
			return err
		}
		var list []moneyRow
		if err := json.Unmarshal(amounts, &list); err != nil {
			return err
		}
		for _, a := range list {
			f.Amounts = append(f.Amounts, a.amounts())
		}
		good := f.GetGenuineUnits() + f.GetDamagedUnits()
		f.InspectedUnits = good + f.GetCounterfeitUnits() + f.GetInconclusiveUnits() + f.GetWrongItemUnits()
		f.AuthenticityRate = ratio(good, good+f.GetCounterfeitUnits(), 4)
		return each(f)
	})
}

// moneyRow is one currency of a row: [currency, sold, cancelled, captured,
// refunded].
type moneyRow struct {
	currency string
	minor    [4]int64
}

// UnmarshalJSON reads the array that the statement makes.
func (m *moneyRow) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&m.currency, &m.minor[0], &m.minor[1], &m.minor[2], &m.minor[3]})
}

func (m *moneyRow) amounts() *analyticsv1.Amounts {
	return &analyticsv1.Amounts{
		CurrencyCode: m.currency, SoldMinor: m.minor[0], CancelledMinor: m.minor[1], CapturedMinor: m.minor[2], RefundedMinor: m.minor[3],
	}
}

// ratio is a over b in decimals, rounded down; empty when b is not positive.
func ratio(a, b int64, places int) string {
	if b <= 0 {
		return ""
	}
	scale := int64(1)
	for range places {
		scale *= 10
	}
	sign := ""
	if a < 0 {
		sign, a = "-", -a
	}
	fraction := strconv.FormatInt(scale+a%b*scale/b, 10)[1:]
	return sign + strconv.FormatInt(a/b, 10) + "." + fraction
}

// GetFigures pages through rows.
func (s *service) GetFigures(ctx context.Context, req *analyticsv1.GetFiguresRequest) (*analyticsv1.GetFiguresResponse, error) {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return nil, err
	}
	after, err := readToken("figures", req.GetPageToken(), 4)
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	limit := size + 1
	res := &analyticsv1.GetFiguresResponse{}
	if err := s.eachFigure(ctx, sc, req.GetBy(), after, &limit, func(f *analyticsv1.Figure) error {
		res.Figures = append(res.Figures, f)
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetFigures()) > size {
		res.Figures = res.GetFigures()[:size]
		last := res.GetFigures()[size-1]
		res.NextPageToken = token("figures", last.GetDay(), last.GetMarket(), last.GetMerchantId(), last.GetSku())
	}
	return res, nil
}

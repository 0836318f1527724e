package main

import (
	"context"
	"database/sql"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot/entrepot/plugins/analytics/recommend"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// recommendations when nobody says how many.
	defaultLimit = 12
	// spare goods are asked of the model beyond the limit: some may have been
	// sold since it looked.
	spare = 8
	// watchEvery bounds how often a stream looks when much happens.
	watchEvery = time.Second
)

// served counts recommendations by kind.
type served struct {
	kinds [5]atomic.Int64
}

var kinds = map[analyticsv1.RecommendationKind]recommend.Kind{
	analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL:        recommend.Personal,
	analyticsv1.RecommendationKind_RECOMMENDATION_KIND_SIMILAR:         recommend.Similar,
	analyticsv1.RecommendationKind_RECOMMENDATION_KIND_BOUGHT_TOGETHER: recommend.Together,
	analyticsv1.RecommendationKind_RECOMMENDATION_KIND_TRENDING:        recommend.Trends,
}

var codes = map[recommend.Why]analyticsv1.Reason_Code{
	recommend.BoughtByOthers:    analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS,
	recommend.InOneBasket:       analyticsv1.Reason_CODE_IN_ONE_BASKET,
	recommend.Trending:          analyticsv1.Reason_CODE_TRENDING,
	recommend.TrendingElsewhere: analyticsv1.Reason_CODE_TRENDING_ELSEWHERE,
	recommend.Newest:            analyticsv1.Reason_CODE_NEW,
}

// Recommend answers from memory, and asks the tables once whether each good
// can still be sold.
func (s *service) Recommend(ctx context.Context, req *analyticsv1.RecommendRequest) (*analyticsv1.RecommendResponse, error) {
	out, err := s.recommend(ctx, req)
	if err != nil {
		return nil, err
	}
	s.served.kinds[req.GetKind()].Add(int64(len(out)))
	return &analyticsv1.RecommendResponse{Recommendations: out, AsOf: s.asOf()}, nil
}

func (s *service) asOf() *timestamppb.Timestamp {
	if at := s.model.AsOf(); !at.IsZero() {
		return timestamppb.New(at)
	}
	return nil
}

func (s *service) recommend(ctx context.Context, req *analyticsv1.RecommendRequest) ([]*analyticsv1.Recommendation, error) {
	kind := kinds[req.GetKind()]
	if (kind == recommend.Similar || kind == recommend.Together) && len(req.GetSkus()) == 0 {
		return nil, fault.Field("skus", "goods to go by")
	}
	q := recommend.Query{Kind: kind, Seeds: req.GetSkus(), Market: call.From(ctx).Market, Limit: int(req.GetLimit()), Now: time.Now()}
	if q.Limit == 0 {
		q.Limit = defaultLimit
	}
	var err error
	if kind == recommend.Personal {
		if q.Person, err = s.person(ctx, req.GetVisitorId()); err != nil {
			return nil, store.Wrap(err)
		}
	}
	out, err := s.answer(ctx, q)
	return out, store.Wrap(err)
}

// answer confirms what the model picks. What cannot be sold any more is left
// out and the next asked for.
func (s *service) answer(ctx context.Context, q recommend.Query) ([]*analyticsv1.Recommendation, error) {
	limit, gone := q.Limit, make(map[string]bool)
	q.Skip = func(sku string) bool { return gone[sku] }
	for range 3 {
		q.Limit = limit + spare
		picks := s.model.Answer(q)
		out, err := s.confirm(ctx, q.Market, picks)
		if err != nil {
			return nil, err
		}
		if len(out) >= limit || len(picks) < q.Limit {
			return out[:min(limit, len(out))], nil
		}
		for _, p := range picks {
			gone[p.SKU] = true
		}
		for _, r := range out {
			delete(gone, r.GetSku())
		}
	}
	picks := s.model.Answer(q)
	out, err := s.confirm(ctx, q.Market, picks)
	return out[:min(limit, len(out))], err
}

const offered = `SELECT o.market, o.sku, o.merchant, o.price, o.currency FROM offer o
 WHERE (o.market, o.sku) IN (SELECT * FROM unnest($1::text[], $2::text[]))`

// offers are goods that can be sold in a market, as the tables say, by market
// and sku.
type offers map[[2]string]*analyticsv1.Recommendation

type queryer interface {
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

func offersOf(ctx context.Context, db queryer, markets, skus []string) (offers, error) {
	out := make(offers, len(skus))
	rows, err := db.Rows(ctx, offered, markets, skus)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		r := &analyticsv1.Recommendation{Price: &typev1.Money{}}
		var market string
		err := rows.Scan(&market, &r.Sku, &r.MerchantId, &r.Price.MinorUnits, &r.Price.CurrencyCode)
		out[[2]string{market, r.GetSku()}] = r
		return err
	})
}

// confirmed are the picks that can be sold.
func (o offers) confirmed(market string, picks []recommend.Pick) []*analyticsv1.Recommendation {
	var out []*analyticsv1.Recommendation
	for _, p := range picks {
		if r := o[[2]string{market, p.SKU}]; r != nil {
			out = append(out, &analyticsv1.Recommendation{
				Sku: r.GetSku(), MerchantId: r.GetMerchantId(), Price: r.GetPrice(), Reason: &analyticsv1.Reason{Code: codes[p.Why], Skus: p.Because},
			})
		}
	}
	return out
}

func (s *service) confirm(ctx context.Context, market string, picks []recommend.Pick) ([]*analyticsv1.Recommendation, error) {
	if len(picks) == 0 {
		return nil, nil
	}
	markets, skus := make([]string, len(picks)), make([]string, len(picks))
	for i, p := range picks {
		markets[i], skus[i] = market, p.SKU
	}
	o, err := offersOf(ctx, s.db, markets, skus)
	return o.confirmed(market, picks), err
}

// person is who is asked for: the consumer who is logged in, unless they do
// not want it, else a visitor; empty for a stranger.
func (s *service) person(ctx context.Context, visitor string) (person string, err error) {
	name := visitor
	if p := call.From(ctx).Principal; p.Kind == call.Consumer {
		name = p.Account
	}
	if name == "" {
		return "", nil
	}
	err = s.db.Row(ctx, `SELECT coalesce((SELECT person FROM pseudonym WHERE name = $1
		AND NOT EXISTS (SELECT FROM preference WHERE account = $1 AND not_personal)), '')`, name).Scan(&person)
	return person, err
}

// WatchRecommendations streams the answer whenever it has changed.
func (s *service) WatchRecommendations(ctx context.Context, req *analyticsv1.WatchRecommendationsRequest, stream analyticsv1connect.RecommendationServiceWatchRecommendationsServerStream) error {
	select {
	case s.watching <- struct{}{}:
		defer func() { <-s.watching }()
	default:
		return fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_WATCH", "too many watch at this moment; ask again"), 5*time.Second)
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last []*analyticsv1.Recommendation
	for first := true; ; first = false {
		// Taken before the look, so that nothing that comes during it is missed.
		news := s.follower.changes()
		out, err := s.recommend(ctx, req.GetRequest())
		if err != nil {
			return err
		}
		if first || !slices.EqualFunc(out, last, func(a, b *analyticsv1.Recommendation) bool { return proto.Equal(a, b) }) {
			last = out
			s.served.kinds[req.GetRequest().GetKind()].Add(int64(len(out)))
			if err := stream.Send(&analyticsv1.WatchRecommendationsResponse{Recommendations: out, AsOf: s.asOf()}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// GetModel tells what the recommendations rest on.
func (s *service) GetModel(context.Context, *analyticsv1.GetModelRequest) (*analyticsv1.GetModelResponse, error) {
	size := s.model.Size()
	out := &analyticsv1.GetModelResponse{
		Lines: size.Lines, Goods: size.Goods, People: size.People, Baskets: size.Baskets, Bytes: size.Bytes,
		Served: make(map[string]int64), AsOf: s.asOf(),
	}
	for kind, name := range map[analyticsv1.RecommendationKind]string{
		analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL: "personal", analyticsv1.RecommendationKind_RECOMMENDATION_KIND_SIMILAR: "similar",
		analyticsv1.RecommendationKind_RECOMMENDATION_KIND_BOUGHT_TOGETHER: "bought_together", analyticsv1.RecommendationKind_RECOMMENDATION_KIND_TRENDING: "trending",
	} {
		out.Served[name] = s.served.kinds[kind].Load()
	}
	return out, nil
}

// GetPreferences tells the caller's.
func (s *service) GetPreferences(ctx context.Context, _ *analyticsv1.GetPreferencesRequest) (*analyticsv1.GetPreferencesResponse, error) {
	p := &analyticsv1.Preferences{}
	rows, err := s.db.Rows(ctx, `SELECT not_personal, notify FROM preference WHERE account = $1`, call.From(ctx).Principal.Account)
	if err := scan(rows, err, func(rows *sql.Rows) error { return rows.Scan(&p.NotPersonal, &p.Notify) }); err != nil {
		return nil, store.Wrap(err)
	}
	return &analyticsv1.GetPreferencesResponse{Preferences: p}, nil
}

// SetPreferences keeps the caller's.
func (s *service) SetPreferences(ctx context.Context, req *analyticsv1.SetPreferencesRequest) (*analyticsv1.SetPreferencesResponse, error) {
	p := req.GetPreferences()
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*analyticsv1.SetPreferencesResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO preference (account, not_personal, notify) VALUES ($1, $2, $3)
			ON CONFLICT (account) DO UPDATE SET not_personal = EXCLUDED.not_personal, notify = EXCLUDED.notify`,
			call.From(ctx).Principal.Account, p.GetNotPersonal(), p.GetNotify())
		return &analyticsv1.SetPreferencesResponse{Preferences: p}, err
	})
}

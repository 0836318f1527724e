package main

import (
	"context"
	"log/slog"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/plugins/analytics/recommend"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"

	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// mostWatch bounds the streams of recommendations at one time.
const mostWatch = 2000

// service serves entrepot.analytics.v1. Safe for concurrent use.
type service struct {
	db  *store.DB
	log *slog.Logger

	keepViews, keepPurchases, pushEvery time.Duration

	model    *recommend.Model
	follower *follower
	served   served
	watching chan struct{}
}

func register(_ context.Context, in *plugin.Instance) error {
	c, err := configured(in)
	if err != nil {
		return err
	}
	s := &service{
		db: in.DB, log: in.Log, keepViews: c.keepViews, keepPurchases: c.keepPurchases, pushEvery: c.pushEvery,
		model: recommend.New(recommend.Options{}), watching: make(chan struct{}, mostWatch),
	}
	s.follower = follow(s.db, s.model, in.Log, c.follow)
	in.Close, in.Check = s.follower.close, s.follower.check
	analyticsv1connect.RegisterBeaconServiceHandler(in.Server, s)
	analyticsv1connect.RegisterRecommendationServiceHandler(in.Server, s)
	analyticsv1connect.RegisterFigureServiceHandler(in.Server, s)
	for name, handlers := range map[string][]event.Handler{
		"goods": {
			event.OnBatch(onProducts), event.OnBatch(onListings), event.OnBatch(onAdjusted), event.OnBatch(onPolicies),
			event.OnBatch(onLevels[*warehousev1.StockReceived]), event.OnBatch(onLevels[*warehousev1.StockReserved]),
			event.OnBatch(onLevels[*warehousev1.ReservationReleased]), event.OnBatch(onLevels[*warehousev1.StockPutAway]),
			event.OnBatch(onLevels[*warehousev1.StockMoved]),
		},
		"sales": {event.OnBatch(onPlaced), event.On(onEdited), event.OnBatch(onCancelled), event.OnBatch(onAuthorized), event.OnBatch(onCaptured), event.On(onRefunded)},
		"hands": {event.OnBatch(onApplied), event.OnBatch(onReturned), event.OnBatch(onVerdicts), event.OnBatch(onBooked), event.OnBatch(onUnbooked), event.OnBatch(onMoved)},
		"views": {event.OnBatch(s.onViews)},

		"schedules": {event.On(s.onTick)},
	} {
		if err := in.Subscribe(name, handlers...); err != nil {
			return err
		}
	}
	return nil
}

var (
	_ analyticsv1connect.BeaconServiceHandler         = (*service)(nil)
	_ analyticsv1connect.RecommendationServiceHandler = (*service)(nil)
	_ analyticsv1connect.FigureServiceHandler         = (*service)(nil)
)

// config of an instance, with its defaults.
type config struct{ keepViews, keepPurchases, pushEvery, follow time.Duration }

func configured(in *plugin.Instance) (config, error) {
	var raw struct {
		KeepViews     string `json:"keep_views"`
		KeepPurchases string `json:"keep_purchases"`
		PushEvery     string `json:"push_every"`
		Follow        string `json:"follow"`
	}
	if err := in.Config(&raw); err != nil {
		return config{}, err
	}
	c := config{90 * 24 * time.Hour, 2 * 365 * 24 * time.Hour, 24 * time.Hour, 500 * time.Millisecond}
	for _, f := range []struct {
		text string
		into *time.Duration
	}{{raw.KeepViews, &c.keepViews}, {raw.KeepPurchases, &c.keepPurchases}, {raw.PushEvery, &c.pushEvery}, {raw.Follow, &c.follow}} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil {
			return config{}, err
		}
		if d > 0 {
			*f.into = d
		}
	}
	return c, nil
}

// whose is the merchant that figures are about: a member's own, or the one
// that staff and operators name; empty for all.
func whose(ctx context.Context, named string) (string, error) {
	switch p := call.From(ctx).Principal; {
	case p.Kind == call.Staff || p.Kind == call.Operator:
		return named, nil
	case p.Kind != call.Merchant || p.Merchant == "":
		return "", fault.New(connect.CodePermissionDenied, "NOT_A_MERCHANT", "only members of a merchant, staff and operators see figures")
	case named != "" && named != p.Merchant:
		return "", fault.Field("scope.merchant_id", "members see their own merchant's figures; leave it out")
	default:
		return p.Merchant, nil
	}
}

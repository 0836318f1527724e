package main

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/proto"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

// What a terminal's clock may be off, and how late it may tell.
const (
	clockSkew = 5 * time.Minute
	tellsFor  = 24 * time.Hour
)

// RecordViews puts a visitor's acts on the bus; the module's copy is made from
// there.
func (s *service) RecordViews(ctx context.Context, req *analyticsv1.RecordViewsRequest) (*analyticsv1.RecordViewsResponse, error) {
	if c := req.GetConsent(); c != analyticsv1.Consent_CONSENT_MEASUREMENT && c != analyticsv1.Consent_CONSENT_PERSONALISATION {
		return &analyticsv1.RecordViewsResponse{Refused: map[string]int32{"NO_CONSENT": int32(len(req.GetViews()))}}, nil
	}
	market := call.From(ctx).Market
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*analyticsv1.RecordViewsResponse, error) {
		answer, listed, err := beaconed(ctx, tx, req, market)
		if err != nil || answer != nil {
			return answer, err
		}
		res, taken := judge(req.GetViews(), listed, time.Now())
		person, err := personOf(ctx, tx, req)
		if err != nil {
			return nil, err
		}
		b, err := proto.Marshal(res)
		if err != nil {
			return nil, err
		}
		// A batch that comes twice at once waits here for the other.
		made, err := tx.Do(ctx, `INSERT INTO batch (id, answer) VALUES ($1, $2) ON CONFLICT DO NOTHING`, req.GetBatchId(), b)
		if err != nil {
			return nil, err
		}
		if n, err := made.RowsAffected(); err != nil || n == 0 {
			answer, _, err = beaconed(ctx, tx, req, market)
			return answer, err
		}
		if len(taken) == 0 {
			return res, nil
		}
		return res, tx.Publish(&analyticsv1.ViewsRecorded{
			SessionId: req.GetSessionId(), BatchId: req.GetBatchId(), Market: market, PersonId: person, Views: taken,
		})
	})
}

// beaconed answers what was answered when the batch came before, else which of
// its goods are listed in the market.
func beaconed(ctx context.Context, tx *store.Tx, req *analyticsv1.RecordViewsRequest, market string) (*analyticsv1.RecordViewsResponse, map[string]bool, error) {
	var skus []string
	for _, v := range req.GetViews() {
		skus = append(skus, v.GetSku())
	}
	var before, names []byte
	err := tx.Row(ctx, `SELECT (SELECT answer FROM batch WHERE id = $1),
		(SELECT coalesce(jsonb_agg(sku), '[]') FROM listing WHERE market = $2 AND sku = ANY ($3::text[]) AND listed)`, req.GetBatchId(), market, skus).Scan(&before, &names)
	if err != nil {
		return nil, nil, err
	}
	if before != nil {
		res := &analyticsv1.RecordViewsResponse{}
		return res, nil, proto.Unmarshal(before, res)
	}
	var list []string
	if err := json.Unmarshal(names, &list); err != nil {
		return nil, nil, err
	}
	listed := make(map[string]bool, len(list))
	for _, sku := range list {
		listed[sku] = true
	}
	return nil, listed, nil
}

// judge takes the acts that can be, each with what belongs to it and no more.
func judge(views []*analyticsv1.View, listed map[string]bool, now time.Time) (*analyticsv1.RecordViewsResponse, []*analyticsv1.View) {
	res := &analyticsv1.RecordViewsResponse{Refused: make(map[string]int32)}
	var taken []*analyticsv1.View
	for _, v := range views {
		at := v.GetAt().AsTime()
		out := &analyticsv1.View{Kind: v.GetKind(), At: v.GetAt()}
		refusal := ""
		switch v.GetKind() {
		case analyticsv1.View_KIND_LISTING, analyticsv1.View_KIND_ADDED_TO_CART, analyticsv1.View_KIND_REMOVED_FROM_CART, analyticsv1.View_KIND_RECOMMENDATION:
			out.Sku = v.GetSku()
			switch {
			case out.GetSku() == "":
				refusal = "SKU_MISSING"
			case !listed[out.GetSku()]:
				refusal = "SKU_NOT_LISTED"
			}
		case analyticsv1.View_KIND_ORDERED:
			if out.OrderId = v.GetOrderId(); out.GetOrderId() == "" {
				refusal = "ORDER_MISSING"
			}
		}
		switch {
		case at.After(now.Add(clockSkew)):
			refusal = "IN_THE_FUTURE"
		case at.Before(now.Add(-tellsFor)):
			refusal = "TOO_OLD"
		}
		if refusal != "" {
			res.Refused[refusal]++
			continue
		}
		res.Recorded++
		taken = append(taken, out)
	}
	return res, taken
}

// personOf is whom the acts are kept under: the consumer who is logged in,
// else the visitor, with consent; empty for nobody.
func personOf(ctx context.Context, tx *store.Tx, req *analyticsv1.RecordViewsRequest) (string, error) {
	if req.GetConsent() != analyticsv1.Consent_CONSENT_PERSONALISATION {
		return "", nil
	}
	name := req.GetVisitorId()
	if p := call.From(ctx).Principal; p.Kind == call.Consumer {
		name = p.Account
	}
	if name == "" {
		return "", nil
	}
	known, err := recognise(ctx, tx, []string{name})
	return known.of(name, time.Now()), err
}

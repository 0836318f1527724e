package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"strings"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// ListCases pages through cases, newest first: ids rise with time.
func (s *service) ListCases(ctx context.Context, req *aftersalev1.ListCasesRequest) (*aftersalev1.ListCasesResponse, error) {
	after, err := pageToken("afs_", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = 50
	}
	var found []*caseFile
	q := s.db.NewSelect().Model(&found).OrderExpr("c.id DESC").Limit(int64(size) + 1)
	switch p := call.From(ctx).Principal; p.Kind {
	case call.Consumer:
		q = q.Where("c.account = ?", p.Account)
	case call.Merchant:
		q = q.Where("c.merchant = ?", p.Merchant)
	}
	for _, w := range []struct {
		want bool
		sql  string
		arg  any
	}{
		{after != "", "c.id < ?", after}, {req.GetState() != 0, "c.state = ?", int16(req.GetState())}, {req.GetKind() != 0, "c.kind = ?", int16(req.GetKind())},
		{req.GetOrderId() != "", "c.order_id = ?", req.GetOrderId()}, {req.GetEscalated(), "c.escalated = ?", true},
	} {
		if w.want {
			q = q.Where(w.sql, w.arg)
		}
	}
	if err := q.Scan(ctx); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, store.Wrap(err)
	}
	res := &aftersalev1.ListCasesResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(found[size-1].ID))
	}
	if err := readLines(ctx, s.db, found); err != nil {
		return nil, store.Wrap(err)
	}
	for _, c := range found {
		res.Cases = append(res.Cases, c.proto())
	}
	return res, nil
}

func pageToken(prefix, token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !strings.HasPrefix(string(b), prefix) {
		return "", fault.Field("page_token", "is not one that this method gave")
	}
	return string(b), nil
}

// SumCases counts for reconciliation.
func (s *service) SumCases(ctx context.Context, _ *aftersalev1.SumCasesRequest) (*aftersalev1.SumCasesResponse, error) {
	res := &aftersalev1.SumCasesResponse{
		Cases: map[string]int64{}, RefundedMinor: map[string]int64{}, PlannedMinor: map[string]int64{}, Claimed: map[string]int64{}, Replaced: map[string]int64{},
	}
	var messages []struct{ N int64 }
	if err := s.db.NewRaw(`SELECT count(*) AS n FROM message`).Scan(ctx, &messages); err != nil {
		return nil, store.Wrap(err)
	}
	res.Messages = messages[0].N
	var counts []struct {
		Kind, State int16
		N           int64
	}
	if err := s.db.NewRaw(`SELECT kind, state, count(*) AS n FROM case_file GROUP BY 1, 2`).Scan(ctx, &counts); err != nil {
		return nil, store.Wrap(err)
	}
	for _, c := range counts {
		res.Cases[kindName(c.Kind)+"/"+strings.ToLower(strings.TrimPrefix(aftersalev1.Case_State(c.State).String(), "STATE_"))] = c.N
	}
	var sums []struct {
		Currency    string
		RefundState int16
		N           int64
	}
	if err := s.db.NewRaw(`SELECT currency, refund_state, sum(refund)::bigint AS n FROM case_file WHERE refund_state IN (1, 2) GROUP BY 1, 2`).Scan(ctx, &sums); err != nil {
		return nil, store.Wrap(err)
	}
	for _, m := range sums {
		if m.RefundState == refundPaid {
			res.RefundedMinor[m.Currency] = m.N
		} else {
			res.PlannedMinor[m.Currency] = m.N
		}
	}
	var pieces []struct {
		SKU               string `bun:"sku"`
		Claimed, Replaced int64
	}
	if err := s.db.NewRaw(`SELECT sku, sum(claimed)::bigint AS claimed, sum(replaced)::bigint AS replaced FROM purchase_line WHERE claimed > 0 OR replaced > 0 GROUP BY 1`).
		Scan(ctx, &pieces); err != nil {
		return nil, store.Wrap(err)
	}
	for _, p := range pieces {
		res.Claimed[p.SKU], res.Replaced[p.SKU] = p.Claimed, p.Replaced
	}
	return res, nil
}

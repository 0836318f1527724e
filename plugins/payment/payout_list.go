package main

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// ListPayouts tells payouts, the newest first.
func (s *service) ListPayouts(ctx context.Context, req *paymentv1.ListPayoutsRequest) (*paymentv1.ListPayoutsResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	after, err := pageToken("pot_", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	states := make([]int16, len(req.GetStates()))
	for i, state := range req.GetStates() {
		states[i] = int16(state)
	}
	size := pageSize(req.GetPageSize())
	found, err := payouts(s.db.Rows(ctx, `SELECT `+payoutColumns+` FROM payout o
		WHERE ($1 = '' OR o.merchant = $1) AND ($2::int2[] = '{}' OR o.state = ANY ($2::int2[])) AND (o.at, o.id) < ($3, $4)
		ORDER BY o.at DESC, o.id DESC LIMIT $5`, merchant, states, after.at, after.id, size+1))
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &paymentv1.ListPayoutsResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = place{found[size-1].at, found[size-1].id}.token()
	}
	for _, p := range found {
		res.Payouts = append(res.Payouts, p.proto())
	}
	return res, nil
}

func pageSize(asked int32) int {
	if asked == 0 {
		return 50
	}
	return int(asked)
}

// place is where a page of what is listed newest first has ended.
type place struct {
	at time.Time
	id string
}

// token is the place, opaque to clients.
func (p place) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at.UnixMicro(), 10) + " " + p.id))
}

// pageToken reads a token of ids with a prefix; without one it is the place
// before the newest.
func pageToken(prefix, token string) (place, error) {
	if token == "" {
		return place{at: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	micros, id, ok := strings.Cut(string(b), " ")
	at, perr := strconv.ParseInt(micros, 10, 64)
	if err != nil || !ok || perr != nil || at < 0 || at > 253_000_000_000_000_000 || !strings.HasPrefix(id, prefix) || strings.ContainsRune(id, 0) {
		return place{}, fault.Field("page_token", "is not one that this method gave")
	}
	return place{time.UnixMicro(at), id}, nil
}

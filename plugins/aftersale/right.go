package main

import (
	"context"
	"database/sql"
	"errors"
	"time"
	_ "time/tzdata" // periods end with the day of the market

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// usual are the terms where neither a merchant nor staff says anything.
var usual = &aftersalev1.Policy{ReturnDays: 30, MissingDays: 14, DecideHours: 48, RespondHours: 24}

// zones are those of the capitals; another market's days are counted in UTC.
var zones = map[string]string{
	"AT": "Europe/Vienna", "BE": "Europe/Brussels", "BG": "Europe/Sofia", "CY": "Asia/Nicosia", "CZ": "Europe/Prague", "DE": "Europe/Berlin",
	"DK": "Europe/Copenhagen", "EE": "Europe/Tallinn", "ES": "Europe/Madrid", "FI": "Europe/Helsinki", "FR": "Europe/Paris", "GR": "Europe/Athens",
	"HR": "Europe/Zagreb", "HU": "Europe/Budapest", "IE": "Europe/Dublin", "IT": "Europe/Rome", "LT": "Europe/Vilnius", "LU": "Europe/Luxembourg",
	"LV": "Europe/Riga", "MT": "Europe/Malta", "NL": "Europe/Amsterdam", "PL": "Europe/Warsaw", "PT": "Europe/Lisbon", "RO": "Europe/Bucharest",
	"SE": "Europe/Stockholm", "SI": "Europe/Ljubljana", "SK": "Europe/Bratislava", "GB": "Europe/London", "JP": "Asia/Tokyo",
}

// lastMoment is when a period of days from a delivery is over. The day of the
// delivery does not count, the last day counts whole, and where it is a
// Saturday or a Sunday the next working day is the last (Regulation 1182/71,
// article 3). Public holidays are not known here.
func lastMoment(delivered time.Time, days int32, market string) time.Time {
	zone, err := time.LoadLocation(zones[market])
	if err != nil {
		zone = time.UTC
	}
	d := delivered.In(zone)
	end := time.Date(d.Year(), d.Month(), d.Day()+int(days), 0, 0, 0, 0, zone)
	switch end.Weekday() {
	case time.Saturday:
		end = end.AddDate(0, 0, 2)
	case time.Sunday:
		end = end.AddDate(0, 0, 1)
	}
	return end.AddDate(0, 0, 1)
}

// right is what the law gives, and where it is written.
type right struct {
	days   int32
	source string
}

// terms are what decides about an order's lines of one merchant.
type terms struct {
	market     string
	policy     *aftersalev1.Policy
	withdrawal right
	conformity right
}

// readTerms reads what holds for an order of a day.
func readTerms(ctx context.Context, db reader, market string, placed time.Time, merchant string) (*terms, error) {
	t := &terms{market: market}
	var own, ours []byte
	err := db.Row(ctx, `SELECT (SELECT terms FROM policy WHERE merchant = $3), (SELECT terms FROM policy WHERE merchant = ''),
		coalesce(w.days, 0), coalesce(w.source, ''), coalesce(c.days, 0), coalesce(c.source, '') FROM (SELECT) one
		LEFT JOIN LATERAL (SELECT days, source FROM consumer_right WHERE market = $1 AND what = 1 AND valid_from <= $2 ORDER BY valid_from DESC LIMIT 1) w ON true
		LEFT JOIN LATERAL (SELECT days, source FROM consumer_right WHERE market = $1 AND what = 2 AND valid_from <= $2 ORDER BY valid_from DESC LIMIT 1) c ON true`,
		market, placed, merchant).Scan(&own, &ours, &t.withdrawal.days, &t.withdrawal.source, &t.conformity.days, &t.conformity.source)
	if err != nil {
		return nil, err
	}
	t.policy, err = mergePolicies(own, ours)
	return t, err
}

// reader is a transaction, or the database outside of one.
type reader interface {
	Row(ctx context.Context, statement string, args ...any) *sql.Row
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// mergePolicies fills what a merchant does not say with the marketplace's
// terms, and what that does not say with the usual ones.
func mergePolicies(own, ours []byte) (*aftersalev1.Policy, error) {
	out := proto.CloneOf(usual)
	for _, b := range [][]byte{ours, own} {
		if b == nil {
			continue
		}
		p := &aftersalev1.Policy{}
		if err := proto.Unmarshal(b, p); err != nil {
			return nil, err
		}
		for _, f := range []struct{ into, from *int32 }{
			{&out.ReturnDays, &p.ReturnDays}, {&out.MissingDays, &p.MissingDays}, {&out.DecideHours, &p.DecideHours}, {&out.RespondHours, &p.RespondHours},
		} {
			if *f.from != 0 {
				*f.into = *f.from
			}
		}
		out.OpenedDeduction, out.DamagedDeduction, out.Rules = p.GetOpenedDeduction(), p.GetDamagedDeduction(), p.GetRules()
	}
	return out, nil
}

// atFault tells whether a reason says that something is wrong with the goods
// or the delivery.
func atFault(r aftersalev1.Reason) bool {
	return r >= aftersalev1.Reason_REASON_WRONG_ITEM && r <= aftersalev1.Reason_REASON_NOT_ARRIVED
}

// period is how long delivered goods can be applied for, and where that is
// from; no days: never.
func (t *terms) period(kind aftersalev1.Kind, reason aftersalev1.Reason) right {
	own := right{t.policy.GetReturnDays(), "merchant's terms"}
	switch {
	case kind == aftersalev1.Kind_KIND_WITHDRAWAL:
		return t.withdrawal
	case kind == aftersalev1.Kind_KIND_REPAIR, kind == aftersalev1.Kind_KIND_MISSING, kind == aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, atFault(reason):
		if t.conformity.days > own.days {
			return t.conformity
		}
	}
	return own
}

// verdictOn tells whether a number of pieces of a line can be applied for now:
// a refusal of Apply, or none, and until when. wasDelivered is false for goods
// that never arrived.
func (t *terms) verdictOn(l *purchaseLine, kind aftersalev1.Kind, reason aftersalev1.Reason, quantity int64, at time.Time) (refusal string, until time.Time, source string, wasDelivered bool) {
	if kind == aftersalev1.Kind_KIND_MISSING && l.inTransit() >= quantity {
		missing := l.HandedOverAt.AddDate(0, 0, int(t.policy.GetMissingDays()))
		if l.Lost || !at.Before(missing) {
			return "", time.Time{}, "merchant's terms", false
		}
		return "NOT_MISSING_YET", missing, "merchant's terms", false
	}
	r := t.period(kind, reason)
	switch {
	case r.days == 0:
		return "NO_RIGHT", time.Time{}, "", true
	case l.Delivered == 0:
		return "NOT_DELIVERED", time.Time{}, r.source, true
	}
	until = lastMoment(l.DeliveredAt, r.days, t.market)
	switch {
	case !at.Before(until):
		return "OUT_OF_PERIOD", until, r.source, true
	case l.free() < quantity && l.Delivered-l.ComingBack < quantity && l.Delivered < l.HandedOver:
		return "NOT_DELIVERED", until, r.source, true
	case l.free() < quantity:
		return "CLAIMED_BEFORE", until, r.source, true
	}
	return "", until, r.source, true
}

// PutPolicy sets a merchant's terms.
func (s *service) PutPolicy(ctx context.Context, req *aftersalev1.PutPolicyRequest) (*aftersalev1.PutPolicyResponse, error) {
	p := call.From(ctx).Principal
	merchant := req.GetMerchantId()
	if p.Kind == call.Merchant {
		if merchant != "" && merchant != p.Merchant {
			return nil, fault.Field("merchant_id", "is another merchant's")
		}
		merchant = p.Merchant
	}
	doc, err := proto.Marshal(req.GetPolicy())
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.PutPolicyResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO policy (merchant, terms, set_by) VALUES ($1, $2, $3)
			ON CONFLICT (merchant) DO UPDATE SET terms = EXCLUDED.terms, set_by = EXCLUDED.set_by, set_at = now()`, merchant, doc, p.String())
		return &aftersalev1.PutPolicyResponse{}, err
	})
}

// GetPolicy tells the terms as they hold.
func (s *service) GetPolicy(ctx context.Context, req *aftersalev1.GetPolicyRequest) (*aftersalev1.GetPolicyResponse, error) {
	t, err := readTerms(ctx, s.db, "", now(), req.GetMerchantId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	return &aftersalev1.GetPolicyResponse{Policy: t.policy}, nil
}

// PutRight sets what a market's law gives from a day on.
func (s *service) PutRight(ctx context.Context, req *aftersalev1.PutRightRequest) (*aftersalev1.PutRightResponse, error) {
	r := req.GetRight()
	if err := r.GetValidFrom().CheckValid(); err != nil {
		return nil, fault.Field("right.valid_from", "is no time")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.PutRightResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO consumer_right (market, what, valid_from, days, source) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (market, what, valid_from) DO UPDATE SET days = EXCLUDED.days, source = EXCLUDED.source`,
			r.GetMarket(), int16(r.GetWhat()), r.GetValidFrom().AsTime(), r.GetDays(), r.GetSource())
		return &aftersalev1.PutRightResponse{}, err
	})
}

// ListRights tells what the law gives, by market and day.
func (s *service) ListRights(ctx context.Context, req *aftersalev1.ListRightsRequest) (*aftersalev1.ListRightsResponse, error) {
	res := &aftersalev1.ListRightsResponse{}
	rows, err := s.db.Rows(ctx, `SELECT market, what, valid_from, days, source FROM consumer_right WHERE $1 = '' OR market = $1 ORDER BY 1, 2, 3 LIMIT 2000`, req.GetMarket())
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		r := &aftersalev1.Right{}
		var what int32
		var from time.Time
		err := rows.Scan(&r.Market, &what, &from, &r.Days, &r.Source)
		r.What, r.ValidFrom = aftersalev1.Right_What(what), timestamppb.New(from)
		res.Rights = append(res.Rights, r)
		return err
	}))
}

// matches tells whether a merchant's rule approves an application.
func matches(r *aftersalev1.ApprovalRule, c *caseFile, worth int64, delivered time.Time) bool {
	kind, reason := aftersalev1.Kind(c.Kind), aftersalev1.Reason(c.Reason)
	switch {
	case len(r.GetKinds()) == 0 && kind == aftersalev1.Kind_KIND_MISSING, len(r.GetKinds()) > 0 && !contains(r.GetKinds(), kind):
		return false
	case len(r.GetReasons()) > 0 && !contains(r.GetReasons(), reason):
		return false
	case r.GetAtMost() != nil && (r.GetAtMost().GetCurrencyCode() != c.Currency || worth > r.GetAtMost().GetMinorUnits()):
		return false
	case r.GetWithinDays() > 0 && (delivered.IsZero() || !now().Before(lastMoment(delivered, r.GetWithinDays(), c.Market))):
		return false
	case r.GetKeepGoods() && c.Remedy == remedyRepair:
		return false
	}
	return true
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

// noRows makes a missing row another error.
func noRows(err, other error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return other
	}
	return err
}

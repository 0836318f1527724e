package main

import (
	"context"
	"strings"
	"time"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// lastDay is the last day that an interval may name. Every month has the 28th.
var lastDay = map[paymentv1.PayoutSchedule_Interval]int32{
	paymentv1.PayoutSchedule_INTERVAL_WEEKLY:  7,
	paymentv1.PayoutSchedule_INTERVAL_MONTHLY: 28,
}

// PutPayoutSchedule has what is available of a merchant, or of every merchant
// without a schedule of its own, paid out by itself. What is put again as it
// is goes on to hold.
func (s *service) PutPayoutSchedule(ctx context.Context, req *paymentv1.PutPayoutScheduleRequest) (*paymentv1.PutPayoutScheduleResponse, error) {
	p := req.GetSchedule()
	merchant, err := whose(ctx, p.GetMerchantId())
	if err != nil {
		return nil, err
	}
	minimum, err := money.FromProto(p.GetMinimum())
	switch last := lastDay[p.GetInterval()]; {
	case strings.ContainsAny(merchant, ":/\x00"):
		return nil, fault.Field("schedule.merchant_id", "is no merchant's id")
	case err != nil:
		return nil, fault.Field("schedule.minimum.currency_code", "is no currency of ISO 4217")
	case minimum.Minor < 0:
		return nil, fault.Field("schedule.minimum.minor_units", "must not be less than zero")
	case last == 0 && p.GetDay() != 0:
		return nil, fault.Field("schedule.day", "is of a weekly or monthly schedule")
	case last > 0 && (p.GetDay() < 1 || p.GetDay() > last):
		return nil, fault.Field("schedule.day", "is no day that every such interval has")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.PutPayoutScheduleResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO payout_schedule AS s (merchant, currency, every, day, minimum, first_day, set_by)
			VALUES ($1, $2, $3, $4, $5, (now() AT TIME ZONE 'UTC')::date + 1, $6)
			ON CONFLICT (merchant, currency) DO UPDATE SET every = excluded.every, day = excluded.day, minimum = excluded.minimum, first_day = excluded.first_day,
			  set_by = excluded.set_by
			WHERE (s.every, s.day, s.minimum) <> (excluded.every, excluded.day, excluded.minimum)`,
			merchant, minimum.Currency, int16(p.GetInterval()), int16(p.GetDay()), minimum.Minor, call.From(ctx).Principal.String())
		return &paymentv1.PutPayoutScheduleResponse{}, err
	})
}

// ListPayoutSchedules tells a merchant's own and those of every merchant.
func (s *service) ListPayoutSchedules(ctx context.Context, req *paymentv1.ListPayoutSchedulesRequest) (*paymentv1.ListPayoutSchedulesResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	res := &paymentv1.ListPayoutSchedulesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT merchant, currency, every, day, minimum, first_day FROM payout_schedule WHERE $1 = '' OR merchant IN ('', $1)
		ORDER BY merchant, currency LIMIT 10000`, merchant)
	return res, store.Wrap(each(rows, err, func() error {
		p := &paymentv1.PayoutSchedule{Minimum: &typev1.Money{}}
		var first time.Time
		res.Schedules = append(res.Schedules, p)
		if err := rows.Scan(&p.MerchantId, &p.Minimum.CurrencyCode, &p.Interval, &p.Day, &p.Minimum.MinorUnits, &first); err != nil {
			return err
		}
		p.FirstDay = first.Format(time.DateOnly)
		return nil
	}))
}

const (
	// scheduleDay is what the caller says, else the database's day: processes
	// whose clocks differ agree.
	scheduleDay = `coalesce(nullif($1::text, '')::date, (now() AT TIME ZONE 'UTC')::date)`
	// payoutsDue writes payouts that are due, with their posting, as
	// payoutIntent does. A schedule names a day; a day before, whose payout the
	// company never saw, is made up for. What the company never saw is tried
	// again after ten minutes, six times. Whoever comes second writes nothing:
	// the index payout_of_a_day.
	payoutsDue = `WITH due AS (
  SELECT m.merchant, b.instance, b.currency, least(b.amount, $3::int8) AS amount, x.day, row_number() OVER (ORDER BY b.account, b.currency, b.instance) AS n
    FROM (SELECT ` + scheduleDay + ` AS day) d CROSS JOIN balance b
    CROSS JOIN LATERAL (SELECT split_part(b.account, ':', 2) AS merchant) m
    LEFT JOIN payout_schedule own ON own.merchant = m.merchant AND own.currency = b.currency AND own.merchant <> ''
    LEFT JOIN payout_schedule every ON every.merchant = '' AND every.currency = b.currency
    CROSS JOIN LATERAL (SELECT coalesce(own.every, every.every) AS every, CASE WHEN own.every IS NULL THEN every.day ELSE own.day END AS day,
      coalesce(own.minimum, every.minimum) AS minimum, coalesce(own.first_day, every.first_day) AS first) s
    CROSS JOIN LATERAL (SELECT CASE WHEN CASE s.every WHEN 2 THEN true WHEN 3 THEN s.day = extract(isodow FROM d.day) ELSE s.day = extract(day FROM d.day) END THEN d.day
      ELSE (SELECT max(o.scheduled_on) FROM payout o WHERE o.merchant = m.merchant AND o.currency = b.currency AND o.instance = b.instance AND o.scheduled_on < d.day) END AS day) x
    CROSS JOIN LATERAL (SELECT count(*) AS tries, coalesce(bool_or(o.state <> 3 OR o.code <> '` + neverSeen + `'), false) AS made, max(o.ended_at) AS ended
      FROM payout o WHERE o.merchant = m.merchant AND o.currency = b.currency AND o.instance = b.instance AND o.scheduled_on = x.day) o
   WHERE b.account LIKE 'merchant:%:available' AND s.every > 1 AND b.amount >= greatest(s.minimum, 1) AND x.day >= s.first
     AND NOT o.made AND o.tries < 6 AND (o.tries = 0 OR o.ended < now() - interval '10 min')
   ORDER BY b.account, b.currency, b.instance LIMIT cardinality($2::text[])),
made AS (INSERT INTO payout (id, merchant, instance, currency, amount, scheduled_on)
  SELECT ($2::text[])[n], merchant, instance, currency, amount, day FROM due ORDER BY n ON CONFLICT DO NOTHING RETURNING *),
posted AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT 'payout', id, 'merchant:' || merchant || ':available', 'merchant:' || merchant || ':payout', currency, amount, instance, id FROM made)
SELECT ` + payoutColumns + ` FROM made o ORDER BY o.merchant, o.currency, o.instance`
)

// payDue makes the payouts of a day, of today when it is empty, and sends
// them. Of one that is not sent, or not answered, askPayouts finds out.
func (s *service) payDue(ctx context.Context, day string) error {
	for {
		began := time.Now()
		made, err := s.writeDue(ctx, day)
		if store.SQLState(err) == overdrawn {
			return nil // a refund took some of it just now; the next tick sees what is left
		}
		if err != nil {
			return store.Wrap(err)
		}
		for _, p := range made {
			// Whoever comes late in the round is written again before it is sent.
			fresh := time.Since(began) < patience/2
			if err := s.pay(ctx, p, fresh, began); err != nil {
				s.log.WarnContext(ctx, "a scheduled payout is not answered", "payout", p.id, "instance", p.instance, "error", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(made) < payoutBatch {
			return nil
		}
	}
}

// writeDue writes what is due, and what it takes from balances.
func (s *service) writeDue(ctx context.Context, day string) ([]*payout, error) {
	ids := make([]string, payoutBatch)
	for i := range ids {
		ids[i] = id.New("pot")
	}
	return payouts(s.db.Rows(ctx, payoutsDue, day, ids, int64(maxMinor)))
}

package main

import (
	"context"
	"database/sql"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// A merchant's part of an order may travel in several fulfilments. Their
// events have the order as key: they are heard in the order they happened.

func opened(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentOpened]) error {
	_, err := tx.Do(ctx, `INSERT INTO part (fulfilment, reference, merchant) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		e.Body.GetFulfilmentId(), e.Body.GetReference(), e.Body.GetMerchantId())
	return err
}

func split(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentSplit]) error {
	_, err := tx.Do(ctx, `INSERT INTO part (fulfilment, reference, merchant) SELECT $1::text, reference, merchant FROM part WHERE fulfilment = $2
		ON CONFLICT DO NOTHING`, e.Body.GetRestId(), e.Body.GetFulfilmentId())
	return err
}

func (s *service) delivered(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentDelivered]) error {
	return s.arrive(ctx, tx, `INSERT INTO part (fulfilment, reference, merchant, state) VALUES ($1, $2, $3, 2)
		ON CONFLICT (fulfilment) DO UPDATE SET state = 2 RETURNING reference, merchant`,
		e.Body.GetFulfilmentId(), e.Body.GetReference(), e.Body.GetMerchantId())
}

func (s *service) cancelled(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentCancelled]) error {
	return s.arrive(ctx, tx, `UPDATE part SET state = 3 WHERE fulfilment = $1 AND state = 1 RETURNING reference, merchant`, e.Body.GetFulfilmentId())
}

// arrive notes the end of a part. When none is on its way any more and one has
// arrived, the holding period begins.
func (s *service) arrive(ctx context.Context, tx *store.Tx, end string, args ...any) error {
	var reference, merchant string
	if err := tx.Row(ctx, end, args...).Scan(&reference, &merchant); err != nil {
		return missingIsFine(err)
	}
	var due time.Time
	err := tx.Row(ctx, `INSERT INTO delivery (reference, merchant, due)
		SELECT $1::text, $2::text, now() + make_interval(secs => $3::int8) FROM part WHERE reference = $1 AND merchant = $2
		HAVING bool_and(state <> 1) AND bool_or(state = 2)
		ON CONFLICT DO NOTHING RETURNING due`, reference, merchant, int64(s.holding.Seconds())).Scan(&due)
	if err != nil {
		return missingIsFine(err)
	}
	return tx.SetTimer(reference+"/"+merchant, due, &paymentv1.ReleaseDue{OrderId: reference, MerchantId: merchant})
}

func missingIsFine(err error) error {
	if err == sql.ErrNoRows { //nolint:errorlint // of Scan itself
		return nil
	}
	return err
}

func caseOpened(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.ApplicationOpened]) error {
	_, err := tx.Do(ctx, `INSERT INTO claim (case_id, reference, merchant, ended) VALUES ($1, $2, $3, false) ON CONFLICT DO NOTHING`,
		e.Body.GetCaseId(), e.Body.GetOrderId(), e.Body.GetMerchantId())
	return err
}

// caseSettled lets go what the case held: its goods were inspected and its
// refund was made before.
func caseSettled(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.CaseSettled]) error {
	if _, err := tx.Do(ctx, `INSERT INTO claim (case_id, reference, merchant, ended) VALUES ($1, $2, $3, true)
		ON CONFLICT (case_id) DO UPDATE SET ended = true`, e.Body.GetCaseId(), e.Body.GetOrderId(), e.Body.GetMerchantId()); err != nil {
		return err
	}
	return release(ctx, tx, e.Body.GetOrderId(), e.Body.GetMerchantId())
}

// saleDoubted holds a share while an inspection asks whether what was sold is
// what it was sold as. Both words of a doubt have the order as key: they are
// heard as they were said, and the last one stands.
func saleDoubted(ctx context.Context, tx *store.Tx, e event.Of[*inspectionv1.SaleDoubted]) error {
	_, err := tx.Do(ctx, `INSERT INTO claim (case_id, reference, merchant, ended) VALUES ($1, $2, $3, false)
		ON CONFLICT (case_id) DO UPDATE SET ended = false`, doubtOf(e.Body), e.Body.GetOrderId(), e.Body.GetMerchantId())
	return err
}

// saleCleared lets go what a doubt held.
func saleCleared(ctx context.Context, tx *store.Tx, e event.Of[*inspectionv1.SaleCleared]) error {
	if _, err := tx.Do(ctx, `INSERT INTO claim (case_id, reference, merchant, ended) VALUES ($1, $2, $3, true)
		ON CONFLICT (case_id) DO UPDATE SET ended = true`, doubtOf(e.Body), e.Body.GetOrderId(), e.Body.GetMerchantId()); err != nil {
		return err
	}
	return release(ctx, tx, e.Body.GetOrderId(), e.Body.GetMerchantId())
}

// doubtOf names a doubt: a case may be about several units, and about a unit in
// one order after another.
func doubtOf(e interface {
	GetCaseId() string
	GetUnitId() string
	GetOrderId() string
}) string {
	return e.GetCaseId() + "/" + e.GetUnitId() + "/" + e.GetOrderId()
}

func releaseDue(ctx context.Context, tx *store.Tx, e event.Of[*paymentv1.ReleaseDue]) error {
	return release(ctx, tx, e.Body.GetOrderId(), e.Body.GetMerchantId())
}

// releasable locks the payments of an order of which a merchant's share may be
// released: refunds wait, so that what is read next stays right.
const releasable = `SELECT p.id FROM payment p WHERE p.reference = $1
  AND EXISTS (SELECT FROM delivery d WHERE d.reference = $1 AND d.merchant = $2 AND d.due <= now())
  AND NOT EXISTS (SELECT FROM claim c WHERE c.reference = $1 AND c.merchant = $2 AND NOT c.ended)
  AND NOT EXISTS (SELECT FROM part x WHERE x.reference = $1 AND x.merchant = $2 AND x.state = 1)
 ORDER BY p.id FOR UPDATE`

// releases moves what is pending of those payments to what is available, the
// commission from there to the marketplace, and what is kept back of the rest
// to the reserve. The commission's rule is that of the day of the first
// capture, the reserve's that of the release.
const releases = `WITH held AS (SELECT p.id, p.currency, p.instance, p.market, min(t.at) FILTER (WHERE t.kind = 'share') AS taken,
    count(*) FILTER (WHERE t.kind = 'release') AS n, sum(CASE WHEN t.credit = $3::text THEN t.amount ELSE -t.amount END)::bigint AS net
    FROM payment p JOIN transfer t ON t.payment = p.id AND $3::text IN (t.debit, t.credit) WHERE p.id = ANY ($1) GROUP BY p.id),
due AS (SELECT held.*, least(net, coalesce(round(net::numeric * r.basis_points / 10000) + CASE held.n WHEN 0 THEN r.fixed ELSE 0 END, 0))::bigint AS fee
    FROM held LEFT JOIN LATERAL (SELECT c.basis_points, c.fixed FROM commission_rule c WHERE c.merchant IN ('', $2::text) AND c.market IN ('', held.market)
      AND c.currency IN ('', held.currency) AND c.valid_from <= held.taken
      ORDER BY c.merchant DESC, c.market DESC, c.valid_from DESC, c.currency DESC LIMIT 1) r ON true WHERE net > 0),
parts AS (SELECT due.*, coalesce(round((net - fee)::numeric * r.basis_points / 10000), 0)::bigint AS kept, now() + make_interval(days => r.days) AS until
    FROM due LEFT JOIN LATERAL (SELECT v.basis_points, v.days FROM reserve_rule v WHERE v.merchant IN ('', $2::text) AND v.market IN ('', due.market)
      AND v.valid_from <= now() ORDER BY v.merchant DESC, v.market DESC, v.valid_from DESC LIMIT 1) r ON true),
hold AS (INSERT INTO reserve_hold (payment, n, merchant, currency, instance, amount, kept, due)
  SELECT id, n, $2::text, currency, instance, kept, kept, until FROM parts WHERE kept > 0),
made AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT e.kind, p.id || '/' || $2::text || '/' || p.n, e.debit, e.credit, p.currency, e.amount, p.instance, p.id
    FROM parts p, LATERAL (VALUES (1, 'release', $3::text, $4::text, net), (2, 'commission', $4::text, 'platform:fees', fee),
      (3, 'reserve', $4::text, $5::text, kept)) e(n, kind, debit, credit, amount)
   WHERE e.amount > 0 ORDER BY p.id, e.n)
SELECT id, currency, net, fee, kept, until FROM parts ORDER BY id`

// release makes available what a merchant has pending of an order, if nothing
// stands against it. It may be asked any number of times.
func release(ctx context.Context, tx *store.Tx, reference, merchant string) error {
	var payments []string
	rows, err := tx.Rows(ctx, releasable, reference, merchant)
	if err := each(rows, err, func() error {
		var id string
		err := rows.Scan(&id)
		payments = append(payments, id)
		return err
	}); err != nil || len(payments) == 0 {
		return err
	}
	var told []proto.Message
	rows, err = tx.Rows(ctx, releases, payments, merchant, pendingOf(merchant), availableOf(merchant), reserveOf(merchant))
	if err := each(rows, err, func() error {
		var id, currency string
		var net, fee, kept int64
		var until sql.NullTime
		err := rows.Scan(&id, &currency, &net, &fee, &kept, &until)
		e := &paymentv1.BalanceReleased{
			MerchantId: merchant, OrderId: reference, PaymentId: id,
			Amount: &typev1.Money{CurrencyCode: currency, MinorUnits: net}, Commission: &typev1.Money{CurrencyCode: currency, MinorUnits: fee},
		}
		if kept > 0 {
			e.Reserved, e.ReservedUntil = &typev1.Money{CurrencyCode: currency, MinorUnits: kept}, timestamppb.New(until.Time)
		}
		told = append(told, e)
		return err
	}); err != nil {
		return err
	}
	return tx.Publish(told...)
}

// each reads rows to their end.
func each(rows *sql.Rows, err error, read func() error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := read(); err != nil {
			return err
		}
	}
	return rows.Err()
}

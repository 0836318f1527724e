package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// listed is how many differences an answer names.
const listed = 100

const (
	reconciling          = paymentv1.Reconciliation_STATE_RUNNING
	reconciled           = paymentv1.Reconciliation_STATE_ENDED
	reconciliationFailed = paymentv1.Reconciliation_STATE_FAILED
)

// reconciliation is a row of the table reconciliation.
type reconciliation struct {
	id, instance    string
	scheduled       bool
	state           paymentv1.Reconciliation_State
	startedAt       time.Time
	endedAt         sql.NullTime
	compared, total int64
	counts          map[difference]int64
	code            string
}

const reconciliationColumns = `r.id, r.instance, r.day IS NOT NULL, r.state, r.started_at, r.ended_at, r.compared, r.total, r.counts, r.code`

func (r *reconciliation) scan(row interface{ Scan(...any) error }) error {
	var counts []byte
	if err := row.Scan(&r.id, &r.instance, &r.scheduled, &r.state, &r.startedAt, &r.endedAt, &r.compared, &r.total, &counts, &r.code); err != nil {
		return err
	}
	return json.Unmarshal(counts, &r.counts)
}

func (r *reconciliation) proto() *paymentv1.Reconciliation {
	return &paymentv1.Reconciliation{
		ReconciliationId: r.id, Instance: r.instance, State: r.state, Scheduled: r.scheduled, StartedAt: timestamppb.New(r.startedAt), EndedAt: stamp(r.endedAt),
		Compared: r.compared, Total: r.total, Counts: differenceCounts(r.counts), Code: r.code,
	}
}

// differenceCounts lists the kinds that there are, in their order.
func differenceCounts(counts map[difference]int64) (out []*paymentv1.DifferenceCount) {
	for kind := missingAtProvider; int(kind) < len(paymentv1.Difference_Kind_name); kind++ {
		if counts[kind] > 0 {
			out = append(out, &paymentv1.DifferenceCount{Kind: kind, Count: counts[kind]})
		}
	}
	return out
}

// ReconcilePayments makes a reconciliation, or tells the one of that id. What
// was sent since the report began is left for the next one.
func (s *service) ReconcilePayments(ctx context.Context, req *paymentv1.ReconcilePaymentsRequest) (*paymentv1.ReconcilePaymentsResponse, error) {
	name := req.GetReconciliationId()
	if name == "" {
		name = id.New("rec")
	}
	// One that failed, or whose process is gone, is made anew.
	r := &reconciliation{}
	err := r.scan(s.db.Row(ctx, `INSERT INTO reconciliation AS r (id, instance) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE
		SET state = 1, started_at = now(), ended_at = NULL, code = '', tries = r.tries + 1
		WHERE r.instance = $2 AND (r.state = 3 OR r.state = 1 AND r.started_at < now() - interval '1 hour') RETURNING `+reconciliationColumns, name, req.GetInstance()))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if r, err = s.reconciliation(ctx, name); err != nil {
			return nil, err
		}
		switch {
		case r.instance != req.GetInstance():
			return nil, fault.New(connect.CodeAlreadyExists, "RECONCILIATION_DIFFERS", "this reconciliation is of another instance; take another id")
		case r.state != reconciled:
			return nil, fault.Retry(fault.New(connect.CodeAborted, "RECONCILIATION_RUNNING", "this reconciliation is running; ask for it later"), 5*time.Second)
		}
	case err != nil:
		return nil, store.Wrap(err)
	default:
		if err := s.reconcile(ctx, r); err != nil {
			return nil, err
		}
	}
	found, err := s.differencesOf(ctx, r.id, 0, listed)
	return &paymentv1.ReconcilePaymentsResponse{ReconciliationId: r.id, Compared: r.compared, Total: r.total, Differences: found}, err
}

// reconcile compares, and writes down what came of it.
func (s *service) reconcile(ctx context.Context, r *reconciliation) error {
	c := newComparison(s.db, r.instance, r.startedAt)
	if err := s.compare(ctx, c); err != nil {
		code := fault.Reason(err)
		if code == "" {
			code = connect.CodeOf(err).String()
		}
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if _, werr := s.db.Do(wctx, `UPDATE reconciliation SET state = 3, ended_at = now(), code = $3 WHERE id = $1 AND state = 1 AND started_at = $2`,
			r.id, r.startedAt, clip(code, 100)); werr != nil {
			s.log.WarnContext(ctx, "a failed reconciliation is not noted", "reconciliation", r.id, "error", werr)
		}
		return err
	}
	r.state, r.compared, r.total, r.counts = reconciled, c.compared, c.total, c.counts
	counts, err := json.Marshal(c.counts)
	if err != nil {
		return err
	}
	n := len(c.differences)
	kinds, keys, subjects, ours, theirs := make([]int16, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, d := range c.differences {
		kinds[i], keys[i], subjects[i], ours[i], theirs[i] = int16(d.GetKind()), d.GetKey(), d.GetSubjectId(), d.GetOurs(), d.GetTheirs()
	}
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		res, err := tx.Do(ctx, `UPDATE reconciliation SET state = 2, ended_at = now(), compared = $3, total = $4, counts = $5::jsonb
			WHERE id = $1 AND state = 1 AND started_at = $2`, r.id, r.startedAt, c.compared, c.total, string(counts))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // another process took it over
		}
		if _, err := tx.Do(ctx, `INSERT INTO reconciliation_difference (reconciliation, n, kind, key, subject, ours, theirs)
			SELECT $1::text, x.n, x.kind, x.key, x.subject, x.ours, x.theirs FROM unnest($2::int2[], $3::text[], $4::text[], $5::text[], $6::text[])
			WITH ORDINALITY x(kind, key, subject, ours, theirs, n)`, r.id, kinds, keys, subjects, ours, theirs); err != nil {
			return err
		}
		return tx.Publish(&paymentv1.ReconciliationEnded{
			Instance: r.instance, ReconciliationId: r.id, Scheduled: r.scheduled, Compared: r.compared, Total: r.total, Counts: differenceCounts(r.counts),
		})
	}); err != nil {
		return store.Wrap(err)
	}
	if c.total > 0 {
		s.log.WarnContext(ctx, "a payment company tells otherwise than the ledger", "instance", r.instance, "reconciliation", r.id, "differences", c.total)
	}
	// A webhook that never came is made up for.
	for _, t := range c.news {
		if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
			return s.hearDispute(ctx, tx, r.instance, t.GetReference(), t.GetPaymentReference(), t)
		}); err != nil {
			return store.Wrap(err)
		}
	}
	return nil
}

// compare reads the company's report to its end.
func (s *service) compare(ctx context.Context, c *comparison) error {
	stream, err := s.providers.client.Report(host.ToInstance(ctx, c.instance), &providerv1.ReportRequest{})
	if err != nil {
		return host.Relay(err)
	}
	for {
		page, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return host.Relay(err)
		}
		if err := c.operations(ctx, page.GetOutcomes()); err != nil {
			return err
		}
		if err := c.disputes(ctx, page.GetDisputes()); err != nil {
			return err
		}
	}
	return errors.Join(c.missing(ctx), c.missingDisputes(ctx))
}

const (
	// dueInstances are the instances of which the day's reconciliation was not
	// made, or failed: that is tried again after ten minutes, six times. The
	// instances are those that hold payments, each found by one step in the
	// index.
	dueInstances = `WITH RECURSIVE i AS ((SELECT instance FROM payment WHERE provider_reference <> '' ORDER BY instance LIMIT 1)
  UNION ALL SELECT (SELECT p.instance FROM payment p WHERE p.provider_reference <> '' AND p.instance > i.instance ORDER BY p.instance LIMIT 1) FROM i WHERE i.instance IS NOT NULL)
SELECT i.instance FROM i LEFT JOIN reconciliation r ON r.instance = i.instance AND r.day = ` + today + `
 WHERE i.instance IS NOT NULL AND (r.id IS NULL OR ` + stale + `) ORDER BY 1`
	claimDay = `INSERT INTO reconciliation AS r (id, instance, day) VALUES ($2, $3, ` + today + `) ON CONFLICT (instance, day) DO UPDATE
  SET state = 1, started_at = now(), ended_at = NULL, code = '', tries = r.tries + 1 WHERE ` + stale + ` RETURNING ` + reconciliationColumns
	// today begins $1 seconds after midnight, UTC.
	today = `((now() AT TIME ZONE 'UTC') - make_interval(secs => $1::int8))::date`
	stale = `(r.state = 3 AND r.tries < 6 AND r.ended_at < now() - interval '10 min' OR r.state = 1 AND r.started_at < now() - interval '1 hour')`
)

// reconcileDue makes the day's reconciliation of each instance, once, whatever
// process is first.
func (s *service) reconcileDue(ctx context.Context) error {
	if s.reconcileAt < 0 {
		return nil
	}
	due, err := texts(s.db.Rows(ctx, dueInstances, int64(s.reconcileAt.Seconds())))
	if err != nil {
		return store.Wrap(err)
	}
	for _, instance := range due {
		r := &reconciliation{}
		err := r.scan(s.db.Row(ctx, claimDay, int64(s.reconcileAt.Seconds()), id.New("rec"), instance))
		if errors.Is(err, sql.ErrNoRows) {
			continue // another process has it
		}
		if err != nil {
			return store.Wrap(err)
		}
		if err := s.reconcile(ctx, r); err != nil {
			s.log.WarnContext(ctx, "a reconciliation failed", "reconciliation", r.id, "instance", instance, "error", err)
		}
	}
	return nil
}

// texts reads rows of one text each.
func texts(rows *sql.Rows, err error) (out []string, _ error) {
	return out, each(rows, err, func() error {
		var text string
		err := rows.Scan(&text)
		out = append(out, text)
		return err
	})
}

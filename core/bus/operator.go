package bus

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Operator serves entrepot.operator.v1.BusService.
type Operator struct {
	bus    *Bus
	sagas  SagaCounts
	schema Message
}

// SagaCounts counts sagas by state, as one transaction sees them.
type SagaCounts func(context.Context, pgx.Tx) (map[string]int64, error)

var _ operatorv1connect.BusServiceHandler = (*Operator)(nil)

// NewOperator makes the service. schema makes payloads readable.
func NewOperator(b *Bus, sagas SagaCounts, schema Message) *Operator {
	return &Operator{bus: b, sagas: sagas, schema: schema}
}

// unavailable is the answer when the database does not answer; its text stays
// in the log.
func (o *Operator) unavailable(ctx context.Context, err error) error {
	o.bus.trouble(ctx, "an operator's request", err)
	return fault.New(connect.CodeUnavailable, "BUS_UNAVAILABLE", "the database does not answer; try again").WithCause(err)
}

func unknownSubscription(name string) error {
	return fault.New(connect.CodeNotFound, "SUBSCRIPTION_UNKNOWN", "there is no such subscription; it is written <plugin>/<name>", "subscription", name)
}

// maxLag is as far as a lag is counted: beyond it the number would say no
// more and cost more.
const maxLag = 100_000

// GetBus tells how far each subscription is, all of one moment: what nobody
// has to do any more then, nobody has to do until somebody asks for something
// or a timer comes due. The lag is counted in the log itself, up to 100,000.
func (o *Operator) GetBus(ctx context.Context, _ *operatorv1.GetBusRequest) (*operatorv1.GetBusResponse, error) {
	res := &operatorv1.GetBusResponse{}
	tctx, cancel := context.WithTimeout(ctx, 4*statement)
	defer cancel()
	err := pgx.BeginTxFunc(tctx, o.bus.c.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if err = tx.QueryRow(tctx, `SELECT (SELECT count(*) FROM bus.outbox), coalesce((SELECT max(pos) FROM bus.log), 0), count(*), count(*) FILTER (WHERE due <= now())
			FROM bus.timer`).Scan(&res.Outbox, &res.Head, &res.Timers, &res.DueTimers); err != nil {
			return err
		}
		if res.Subscriptions, err = subscriptions(tctx, tx); err != nil {
			return err
		}
		res.Sagas, err = o.sagas(tctx, tx)
		return err
	})
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	return res, nil
}

func subscriptions(ctx context.Context, tx pgx.Tx) ([]*operatorv1.SubscriptionStatus, error) {
	rows, err := tx.Query(ctx, `SELECT s.name, s.topics, s.state,
		  (SELECT count(*) FROM (SELECT 1 FROM bus.cursor c JOIN bus.log l ON l.lane = c.lane AND l.pos > c.pos
		     WHERE c.sub = s.id AND l.topic = ANY (s.topics) AND (l.topic <> '`+topicTick+`' OR starts_with(l.key, s.plugin || '/')) LIMIT $1) x),
		  coalesce(p.waiting, 0), coalesce(p.dead, 0)
		 FROM bus.subscription s LEFT JOIN
		  (SELECT sub, count(*) FILTER (WHERE NOT dead) AS waiting, count(*) FILTER (WHERE dead) AS dead FROM bus.parked GROUP BY sub) p ON p.sub = s.id
		 ORDER BY s.name`, maxLag)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*operatorv1.SubscriptionStatus, error) {
		s := &operatorv1.SubscriptionStatus{}
		return s, row.Scan(&s.Subscription, &s.Topics, &s.State, &s.Lag, &s.Parked, &s.Dead)
	})
}

// RetryParked makes set-aside events due now. A dead one begins to count its
// attempts anew.
func (o *Operator) RetryParked(ctx context.Context, req *operatorv1.RetryParkedRequest) (*operatorv1.RetryParkedResponse, error) {
	id, err := o.find(ctx, req.GetSubscription())
	if err != nil {
		return nil, err
	}
	n, err := o.bus.exec(ctx, `UPDATE bus.parked SET due = now(), attempt = CASE WHEN dead THEN 0 ELSE attempt END, dead = false
		WHERE sub = $1 AND ($2::bigint = 0 OR pos = $2)`, id, req.GetPosition())
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	signal(o.bus.pokeRetry)
	return &operatorv1.RetryParkedResponse{Retried: n}, nil
}

// DiscardParked drops one set-aside event and keeps who did it and why.
func (o *Operator) DiscardParked(ctx context.Context, req *operatorv1.DiscardParkedRequest) (*operatorv1.DiscardParkedResponse, error) {
	id, err := o.find(ctx, req.GetSubscription())
	if err != nil {
		return nil, err
	}
	n, err := o.bus.exec(ctx, `WITH p AS (DELETE FROM bus.parked WHERE sub = $1 AND pos = $2 RETURNING *)
		INSERT INTO bus.discarded (sub, pos, key, error, reason, who) SELECT sub, pos, key, error, $3, $4 FROM p
		ON CONFLICT (sub, pos) DO UPDATE SET error = excluded.error, reason = excluded.reason, who = excluded.who, at = now()`,
		id, req.GetPosition(), req.GetReason(), call.From(ctx).Principal.String())
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	if n == 0 {
		return nil, fault.New(connect.CodeNotFound, "PARKED_UNKNOWN", "no event of the subscription is set aside at this position")
	}
	signal(o.bus.pokeRetry)
	return &operatorv1.DiscardParkedResponse{}, nil
}

// Replay sets a subscription's positions back. A delivery under way either
// commits before, and its events come again, or finds the position elsewhere.
// What is set aside beyond the position comes with the rest.
func (o *Operator) Replay(ctx context.Context, req *operatorv1.ReplayRequest) (*operatorv1.ReplayResponse, error) {
	id, err := o.find(ctx, req.GetSubscription())
	if err != nil {
		return nil, err
	}
	tctx, cancel := context.WithTimeout(ctx, 4*statement)
	defer cancel()
	err = pgx.BeginFunc(tctx, o.bus.c.Pool, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE bus.cursor SET pos = $2 WHERE sub = $1 AND pos > $2`, id, req.GetFromPosition())
		batch.Queue(`DELETE FROM bus.parked WHERE sub = $1 AND pos > $2`, id, req.GetFromPosition())
		batch.Queue(`UPDATE bus.subscription SET rev = rev + 1 WHERE id = $1`, id)
		return tx.SendBatch(tctx, batch).Close()
	})
	return &operatorv1.ReplayResponse{}, o.changed(ctx, err)
}

// SetSubscription pauses a subscription or lets it run.
func (o *Operator) SetSubscription(ctx context.Context, req *operatorv1.SetSubscriptionRequest) (*operatorv1.SetSubscriptionResponse, error) {
	id, err := o.find(ctx, req.GetSubscription())
	if err != nil {
		return nil, err
	}
	_, err = o.bus.exec(ctx, `UPDATE bus.subscription SET rev = rev + 1, state = CASE WHEN $2 THEN 'paused' ELSE 'on' END
		WHERE id = $1 AND state <> 'off'`, id, req.GetPaused())
	return &operatorv1.SetSubscriptionResponse{}, o.changed(ctx, err)
}

// changed makes this node take a change over now; the others do within a
// heartbeat.
func (o *Operator) changed(ctx context.Context, err error) error {
	if err == nil {
		err = o.bus.review(ctx)
	}
	if err != nil {
		return o.unavailable(ctx, err)
	}
	signal(o.bus.pokeRetry)
	return nil
}

func (o *Operator) find(ctx context.Context, name string) (id int16, err error) {
	err = o.bus.row(ctx, `SELECT id FROM bus.subscription WHERE name = $1`, name).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, unknownSubscription(name)
	}
	if err != nil {
		return 0, o.unavailable(ctx, err)
	}
	return id, nil
}

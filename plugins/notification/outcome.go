package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// final are codes by which a provider says that it did not and will not.
var final = []connect.Code{
	connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeUnimplemented, connect.CodePermissionDenied,
}

// settle writes down how a try ended. Only who made the try may: by its number.
func (s *service) settle(ctx context.Context, d *delivery, end *providerv1.Delivery, cause error) error {
	if cause != nil {
		var ce *connect.Error
		if !errors.As(cause, &ce) || !ce.IsRemote() || !slices.Contains(final, ce.Code()) {
			return s.unknown(ctx, d, cause)
		}
		if from, ok := fault.Detail[*typev1.ErrorSource](cause); ok && from.GetSource() == typev1.ErrorSource_SOURCE_KERNEL {
			s.in.Log.WarnContext(ctx, "the kernel refuses calls to a provider", "instance", d.instance, "reason", fault.Reason(cause))
			return s.wait(ctx, d, noProvider) // it is not the provider's word, and nothing has left
		}
		end = ended(providerv1.Delivery_STATE_REFUSED, fault.Reason(cause))
		if end.GetCode() == "" {
			end.Code = ce.Code().String()
		}
	}
	switch end.GetState() {
	case providerv1.Delivery_STATE_ACCEPTED:
		return s.over(ctx, d, notificationv1.Delivery_STATE_SENT, end)
	case providerv1.Delivery_STATE_DELIVERED:
		return s.over(ctx, d, notificationv1.Delivery_STATE_DELIVERED, end)
	case providerv1.Delivery_STATE_REFUSED:
		return s.over(ctx, d, notificationv1.Delivery_STATE_FAILED, end)
	case providerv1.Delivery_STATE_DEFERRED:
		return s.later(ctx, d, end)
	}
	return s.unknown(ctx, d, errors.New("the provider answered no state"))
}

// unknown keeps what may have left: it is asked for, then sent again.
func (s *service) unknown(ctx context.Context, d *delivery, cause error) error {
	s.in.Log.WarnContext(ctx, "it is not known whether a notification left", "delivery", d.delivery, "instance", d.instance,
		"code", connect.CodeOf(cause).String(), "reason", fault.Reason(cause))
	wait, more := pause(d.tries)
	if !more {
		return s.over(ctx, d, notificationv1.Delivery_STATE_FAILED, ended(providerv1.Delivery_STATE_REFUSED, "OUTCOME_UNKNOWN"))
	}
	_, err := s.db.Do(ctx, `UPDATE delivery SET state = $3, code = 'OUTCOME_UNKNOWN', due_at = now() + $4 * interval '1 microsecond' WHERE id = $1 AND state = 2 AND tries = $2`,
		d.delivery, d.tries, unknownState, wait.Microseconds())
	return store.Wrap(err)
}

// unready are ends of tries in which nobody outside was asked: they are no
// tries, and say nothing of an endpoint.
var unready = []string{noProvider, notPrepared}

const (
	noProvider  = "NO_PROVIDER"
	notPrepared = "NOT_PREPARED"
	exhausted   = "TRIES_EXHAUSTED"
	// bindingAwaited is how long a provider is waited for that is not bound, or
	// is down: as long as the tries take that one would have made.
	bindingAwaited = 76 * time.Hour
)

// wait leaves a delivery as it was found, for a while that grows with its age.
func (s *service) wait(ctx context.Context, d *delivery, code string) error {
	age := time.Since(d.since)
	if age > bindingAwaited {
		return s.over(ctx, d, notificationv1.Delivery_STATE_FAILED, ended(providerv1.Delivery_STATE_REFUSED, code))
	}
	was := d.was
	if was == sendingState {
		was = unknownState
	}
	_, err := s.db.Do(ctx, `UPDATE delivery SET state = $3, code = $4, instance = $5, tries = tries - 1, due_at = now() + $6 * interval '1 microsecond'
		WHERE id = $1 AND state = 2 AND tries = $2`, d.delivery, d.tries, was, code, d.instance, min(max(age/8, 5*time.Second), 30*time.Minute).Microseconds())
	return store.Wrap(err)
}

// later queues a delivery again.
func (s *service) later(ctx context.Context, d *delivery, end *providerv1.Delivery) error {
	if slices.Contains(unready, end.GetCode()) {
		return s.wait(ctx, d, end.GetCode())
	}
	pause, more := pause(d.tries)
	if !more {
		return s.over(ctx, d, notificationv1.Delivery_STATE_FAILED, ended(providerv1.Delivery_STATE_REFUSED, exhausted))
	}
	if asked := end.GetRetryAfter().AsDuration(); asked > pause {
		pause = min(asked, 24*time.Hour)
	}
	return s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		done, err := tx.Do(ctx, `UPDATE delivery SET state = $3, code = $4, instance = '', due_at = now() + $5 * interval '1 microsecond' WHERE id = $1 AND state = 2 AND tries = $2`,
			d.delivery, d.tries, queuedState, clip(end.GetCode(), 100), pause.Microseconds())
		if err != nil || d.channel != webhook {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return s.failing(ctx, tx, d.recipient)
	})
}

// over ends a delivery and tells of it.
func (s *service) over(ctx context.Context, d *delivery, state notificationv1.Delivery_State, end *providerv1.Delivery) error {
	return s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		done, err := tx.Do(ctx, `UPDATE delivery SET state = $3, code = $4, due_at = now(), ended_at = now() WHERE id = $1 AND state = 2 AND tries = $2`,
			d.delivery, d.tries, int16(state), clip(end.GetCode(), 100))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err // somebody else has found out
		}
		if state == notificationv1.Delivery_STATE_FAILED {
			if err := s.lost(ctx, tx, d, end); err != nil {
				return err
			}
			return tx.Publish(&notificationv1.NotificationFailed{
				NotificationId: d.id, DeliveryId: d.delivery, Topic: d.topic, Channel: d.channel, Code: clip(end.GetCode(), 100), Reference: d.reference, Category: d.category,
			})
		}
		if d.channel == webhook {
			if err := recovered(ctx, tx, d.recipient); err != nil {
				return err
			}
		}
		return tx.Publish(&notificationv1.NotificationSent{
			NotificationId: d.id, DeliveryId: d.delivery, Topic: d.topic, Channel: d.channel, Instance: d.instance, Reference: d.reference,
		})
	})
}

// lost draws what follows from a delivery that failed: a recipient that is no
// more is sent nothing else.
func (s *service) lost(ctx context.Context, tx *store.Tx, d *delivery, end *providerv1.Delivery) error {
	switch {
	case d.channel == webhook && end.GetGone():
		return s.disable(ctx, tx, d.recipient, "GONE")
	case d.channel == webhook && end.GetCode() == exhausted:
		return s.failing(ctx, tx, d.recipient)
	case d.channel == mail && (end.GetGone() || end.GetCode() == "ERASED"):
		_, err := tx.Do(ctx, `UPDATE account SET contact = 3 WHERE id = $1 AND email_ref = $2 AND contact = 2`, d.recipient, d.addressRef)
		return err
	}
	return nil
}

// onReceipt takes what a provider heard of a message after it was accepted. An
// instance speaks for what it was given.
func (s *service) onReceipt(ctx context.Context, tx *store.Tx, e event.Of[*providerv1.DeliveryUpdated]) error {
	end := e.Body.GetDelivery()
	state := notificationv1.Delivery_STATE_DELIVERED
	switch end.GetState() {
	case providerv1.Delivery_STATE_DELIVERED:
	case providerv1.Delivery_STATE_REFUSED:
		state = notificationv1.Delivery_STATE_FAILED
	default:
		return nil
	}
	id, _, _ := strings.Cut(e.Body.GetKey(), "/")
	d := &delivery{delivery: id}
	var way, category int32
	rows, err := tx.Rows(ctx, `WITH u AS (UPDATE delivery SET state = $3, code = $4, ended_at = now()
		WHERE id = $1 AND instance = $2 AND state IN (3, 4) AND state <> $3 RETURNING notification_id, channel, recipient, address_ref)
		SELECT u.channel, u.recipient, u.address_ref, n.id, n.topic, n.category, n.reference FROM u JOIN notification n ON n.id = u.notification_id`,
		id, e.Body.GetInstance(), int16(state), clip(end.GetCode(), 100))
	found := false
	if err := scan(rows, err, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(&way, &d.recipient, &d.addressRef, &d.id, &d.topic, &category, &d.reference)
	}); err != nil || !found || state == notificationv1.Delivery_STATE_DELIVERED {
		return err
	}
	d.channel, d.category = notificationv1.Channel(way), notificationv1.Category(category)
	if err := s.lost(ctx, tx, d, end); err != nil {
		return err
	}
	return tx.Publish(&notificationv1.NotificationFailed{
		NotificationId: d.id, DeliveryId: d.delivery, Topic: d.topic, Channel: d.channel, Code: clip(end.GetCode(), 100), Reference: d.reference, Category: d.category,
	})
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

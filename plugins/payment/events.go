package main

import (
	"context"
	"slices"
	"strings"
	"time"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onTransactionUpdated takes what companies told by webhook. Most of it is
// known already and passed over; what ends an open attempt is settled, in the
// order of payments so that two batches cannot deadlock.
func (s *service) onTransactionUpdated(ctx context.Context, tx *store.Tx, events []event.Of[*providerv1.TransactionUpdated]) error {
	keys := make([]string, len(events))
	for i, e := range events {
		keys[i] = e.Body.GetKey()
	}
	known, err := attempts(tx.Rows(ctx, `SELECT `+attemptColumns+` FROM attempt a JOIN payment p ON p.id = a.payment WHERE a.key = ANY ($1)`, keys))
	if err != nil {
		return err
	}
	byKey := make(map[string]*attempt, len(known))
	for _, a := range known {
		byKey[a.key] = a
	}
	paid, err := payouts(tx.Rows(ctx, `SELECT `+payoutColumns+` FROM payout o WHERE o.id = ANY ($1) ORDER BY o.id`, keys))
	if err != nil {
		return err
	}
	byID := make(map[string]*payout, len(paid))
	for _, p := range paid {
		byKey[p.id], byID[p.id] = p.told(), p
	}
	type word struct {
		a *attempt
		o *providerv1.Outcome
	}
	var words []word
	for _, e := range events {
		if a, o := s.heard(ctx, byKey[e.Body.GetKey()], e.Body); o != nil {
			words = append(words, word{a, o})
		}
	}
	slices.SortStableFunc(words, func(x, y word) int { return strings.Compare(x.a.payment, y.a.payment) })
	for _, w := range words {
		if p := byID[w.a.key]; p != nil {
			err = s.endPayout(ctx, tx, p, w.o, time.Time{})
		} else {
			_, err = w.a.settle(ctx, tx, w.o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// heard passes an outcome that ends an open attempt; nil otherwise. An
// instance speaks only for the attempts that it was sent.
func (s *service) heard(ctx context.Context, a *attempt, e *providerv1.TransactionUpdated) (*attempt, *providerv1.Outcome) {
	log := s.log.With("key", clip(e.GetKey(), 200), "instance", clip(e.GetInstance(), 64))
	if a == nil {
		log.WarnContext(ctx, "a provider told of an operation that was never asked for")
		return nil, nil
	}
	if a.instance != e.GetInstance() {
		log.ErrorContext(ctx, "a provider told of another's operation", "of", a.instance)
		return nil, nil
	}
	o, err := a.check(e.GetOutcome())
	switch {
	case err != nil:
		log.ErrorContext(ctx, "a provider told nonsense", "error", err)
		return nil, nil
	case o.GetStatus() == providerv1.Outcome_STATUS_PENDING:
		return nil, nil
	case a.open():
		return a, o
	case !a.agrees(o):
		log.ErrorContext(ctx, "a provider told another end of an operation than before", "ours", a.told(), "theirs", told(a.operation, o))
	}
	return nil, nil
}

// onDisputeUpdated takes what companies told of disputes. All payments are
// locked first, in order, so that two batches cannot deadlock.
func (s *service) onDisputeUpdated(ctx context.Context, tx *store.Tx, events []event.Of[*providerv1.DisputeUpdated]) error {
	instances, references := make([]string, len(events)), make([]string, len(events))
	for i, e := range events {
		instances[i], references[i] = clip(e.Body.GetInstance(), 64), clip(e.Body.GetDispute().GetPaymentReference(), 200)
	}
	if _, err := tx.Do(ctx, `SELECT FROM payment p JOIN unnest($1::text[], $2::text[]) u(instance, reference)
		ON p.instance = u.instance AND p.provider_reference = u.reference AND u.reference <> '' ORDER BY p.id FOR UPDATE OF p`, instances, references); err != nil {
		return err
	}
	for _, e := range events {
		t := e.Body.GetDispute()
		if err := sound(e.Body.GetInstance(), t); err != nil {
			s.log.ErrorContext(ctx, "a provider told nonsense", "instance", clip(e.Body.GetInstance(), 64), "error", err)
			continue
		}
		if err := s.hearDispute(ctx, tx, clip(e.Body.GetInstance(), 64), t.GetReference(), t.GetPaymentReference(), t); err != nil {
			return err
		}
	}
	return nil
}

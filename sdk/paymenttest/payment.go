package paymenttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
)

// payments are demands on holding, taking, giving up and returning money.
var payments = []check{
	{"", "declares what it cannot be without, and nothing that the contract does not know", declares},
	{"authorize", "declines are outcomes, and for good", declines},
	{"lookup", "tells what became of a key, and that one was never seen", looksUp},
	{"authorize", "a key is honoured, however many come at once", honours},
	{"capture", "never takes more than is held", takes},
	{"void", "gives up what is held, once", voids},
	{"partial-capture", "what is not captured is given up", givesUp},
	{"refund", "never returns more than was taken, however many come at once", returns},
	{"payout", "pays a merchant once", paysOut},
	{"report", "has every operation once, as it was answered", reports},
}

func declares(_ context.Context, k *kit) error {
	for _, c := range minimum {
		if !k.can(c) {
			return fmt.Errorf("it does not declare %q", c)
		}
	}
	for i, c := range k.Capabilities {
		if !slices.Contains(known, c) || slices.Contains(k.Capabilities[:i], c) {
			return fmt.Errorf("%q is no capability of the contract, or stands twice", c)
		}
	}
	return nil
}

func declines(ctx context.Context, k *kit) error {
	key := k.key()
	for range 2 {
		o, err := k.ask(ctx, authorize, key, k.Bad, 1000)
		if err != nil {
			return err
		}
		if o.GetStatus() != declined {
			return fmt.Errorf("a bad means of payment is %v", o.GetStatus())
		}
	}
	return k.sameLookup(ctx, key, declined)
}

func (k *kit) sameLookup(ctx context.Context, key string, status providerv1.Outcome_Status) error {
	res, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: key})
	if err == nil && (res.GetOutcome().GetStatus() != status || res.GetOutcome().GetKey() != key) {
		err = fmt.Errorf("a lookup of %s answers %v of %s, not %v", key, res.GetOutcome().GetStatus(), res.GetOutcome().GetKey(), status)
	}
	return err
}

func looksUp(ctx context.Context, k *kit) error {
	pay, err := k.taken(ctx, 1000)
	if err != nil {
		return err
	}
	key := k.key()
	told, err := k.ask(ctx, refund, key, pay, 1000)
	if err != nil {
		return err
	}
	res, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: key})
	if err != nil {
		return err
	}
	if !proto.Equal(told, res.GetOutcome()) {
		return fmt.Errorf("answered %v, looked up %v", told, res.GetOutcome())
	}
	if _, err = k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: k.key()}); connect.CodeOf(err) != connect.CodeNotFound {
		return fmt.Errorf("a key that was never used is %w", err)
	}
	return nil
}

func honours(ctx context.Context, k *kit) error {
	key := k.key()
	answers := make([]*providerv1.Outcome, 6)
	g, gctx := errgroup.WithContext(ctx)
	for i := range answers {
		g.Go(func() error {
			o, err := k.ask(gctx, authorize, key, k.Good, 1000)
			if connect.CodeOf(err) == connect.CodeUnavailable {
				return nil // the first of them is under way
			}
			answers[i] = o
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	last, err := k.ask(ctx, authorize, key, k.Good, 1000)
	if err != nil {
		return err
	}
	for _, o := range answers {
		if o != nil && !proto.Equal(o, last) {
			return fmt.Errorf("one key is answered %v and %v", o, last)
		}
	}
	if _, err := k.ask(ctx, authorize, key, k.Good, 2000); connect.CodeOf(err) != connect.CodeAlreadyExists {
		return fmt.Errorf("a key that was used for something else is answered %w", err)
	}
	return nil
}

func takes(ctx context.Context, k *kit) error {
	pay, err := k.held(ctx, 1000)
	if err != nil {
		return err
	}
	if err := k.mustNot(ctx, capture, pay, 1001); err != nil {
		return err
	}
	parts := []int64{1000}
	if k.can("partial-capture") && !k.OneCapture {
		parts = []int64{600, 400}
	}
	for _, part := range parts {
		if _, err := k.must(ctx, capture, pay, part); err != nil {
			return err
		}
	}
	if err := k.mustNot(ctx, capture, pay, 1); err != nil {
		return err
	}
	return k.mustNot(ctx, void, pay, 0)
}

func voids(ctx context.Context, k *kit) error {
	pay, err := k.held(ctx, 1000)
	if err != nil {
		return err
	}
	if _, err := k.must(ctx, void, pay, 1000); err != nil {
		return err
	}
	if err := k.mustNot(ctx, void, pay, 0); err != nil {
		return err
	}
	if err := k.mustNot(ctx, capture, pay, 1); err != nil {
		return err
	}
	return k.mustNot(ctx, refund, pay, 1)
}

func givesUp(ctx context.Context, k *kit) error {
	pay, err := k.held(ctx, 1000)
	if err != nil {
		return err
	}
	if _, err := k.must(ctx, capture, pay, 600); err != nil {
		return err
	}
	if _, err := k.must(ctx, void, pay, 400); err != nil {
		return err
	}
	return k.mustNot(ctx, capture, pay, 1)
}

func returns(ctx context.Context, k *kit) error {
	pay, err := k.taken(ctx, 1000)
	if err != nil {
		return err
	}
	part, most := int64(1000), int64(1)
	if k.can("partial-refund") {
		part, most = 300, 3
	}
	var returned atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range 6 {
		g.Go(func() error {
			o, err := k.ask(gctx, refund, k.key(), pay, part)
			if refusal(err) {
				return nil
			}
			if o.GetStatus() != declined && err == nil {
				returned.Add(1)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if returned.Load() != most {
		return fmt.Errorf("of 1000, %d was returned %d times", part, returned.Load())
	}
	return k.mustNot(ctx, refund, pay, 1000-part*most+1)
}

func paysOut(ctx context.Context, k *kit) error {
	key := k.key()
	first, err := k.ask(ctx, payout, key, k.Merchant, 500)
	if err != nil {
		return err
	}
	again, err := k.ask(ctx, payout, key, k.Merchant, 500)
	if err != nil {
		return err
	}
	if first.GetStatus() == declined || first.GetReference() == "" || !proto.Equal(first, again) {
		return fmt.Errorf("one payout is answered %v and %v", first, again)
	}
	return nil
}

func reports(ctx context.Context, k *kit) error {
	want := map[string]int64{}
	did := func(op providerv1.Operation, of string, minor int64) (*providerv1.Outcome, error) {
		o, err := k.must(ctx, op, of, minor)
		want[o.GetKey()] = minor
		return o, err
	}
	o, err := did(authorize, k.Good, 1000)
	if err != nil {
		return err
	}
	if _, err := did(capture, o.GetPaymentReference(), 1000); err != nil {
		return err
	}
	if _, err := did(refund, o.GetPaymentReference(), 1000); err != nil {
		return err
	}
	if o, err = did(authorize, k.Good, 700); err != nil {
		return err
	}
	if _, err := did(void, o.GetPaymentReference(), 700); err != nil {
		return err
	}
	seen := map[string]bool{}
	err = k.report(ctx, &providerv1.ReportRequest{}, func(o *providerv1.Outcome) error {
		minor, ours := want[o.GetKey()]
		switch {
		case seen[o.GetKey()]:
			return fmt.Errorf("%s is told twice", o.GetKey())
		case ours && (o.GetStatus() != succeeded || o.GetAmount().GetMinorUnits() != minor):
			return fmt.Errorf("%s of %d is told as %v", o.GetKey(), minor, o)
		case o.GetAt() == nil:
			return fmt.Errorf("%s has no time", o.GetKey())
		}
		seen[o.GetKey()] = true
		return nil
	})
	if err != nil {
		return err
	}
	for key := range want {
		if !seen[key] {
			return fmt.Errorf("%s is not told", key)
		}
	}
	return k.report(ctx, &providerv1.ReportRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}, func(o *providerv1.Outcome) error {
		return fmt.Errorf("%s is told of the time to come", o.GetKey())
	})
}

func (k *kit) report(ctx context.Context, req *providerv1.ReportRequest, tell func(*providerv1.Outcome) error) error {
	stream, err := k.Client.Report(ctx, req)
	if err != nil {
		return err
	}
	for {
		page, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, o := range page.GetOutcomes() {
			if err := tell(o); err != nil {
				return err
			}
		}
	}
}

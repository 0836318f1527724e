package carriertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// ways are demands on handing over and tracking.
var ways = []check{
	{"manifest", "takes over once", takesOver},
	{"pickup", "comes once", comes},
	{"track", "tells all that it knows, and forgets nothing", tracks},
	{"webhook", "tells what is signed, once", tells},
}

func takesOver(ctx context.Context, k *kit) error {
	one, err := k.booked(ctx)
	if err != nil {
		return err
	}
	two, err := k.booked(ctx)
	if err != nil {
		return err
	}
	req := &providerv1.CreateManifestRequest{Key: k.key(), References: []string{one.GetReference(), two.GetReference()}}
	first, err := k.Client.CreateManifest(ctx, req)
	if err != nil {
		return err
	}
	again, err := k.Client.CreateManifest(ctx, req)
	if err != nil || again.GetReference() != first.GetReference() {
		return fmt.Errorf("the same manifest again is %q, was %q: %w", again.GetReference(), first.GetReference(), orNothing(err))
	}
	if d := first.GetDocument(); len(d.GetContent()) > 0 {
		if _, _, err := Read(ctx, d.GetContent()); err != nil {
			return fmt.Errorf("the manifest's document: %w", err)
		}
	}
	_, err = k.Client.CreateManifest(ctx, &providerv1.CreateManifestRequest{Key: k.key(), References: []string{one.GetReference()}})
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		return fmt.Errorf("a booking is on two manifests: %w, want failed_precondition", orNothing(err))
	}
	_, err = k.Client.Cancel(ctx, &providerv1.CancelRequest{Key: k.key(), Reference: one.GetReference()})
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		return fmt.Errorf("what is handed over is cancelled: %w, want failed_precondition", orNothing(err))
	}
	off, err := k.booked(ctx)
	if err != nil {
		return err
	}
	if _, err := k.Client.Cancel(ctx, &providerv1.CancelRequest{Key: k.key(), Reference: off.GetReference()}); err != nil {
		return err
	}
	for what, reference := range map[string]string{"a cancelled booking": off.GetReference(), "a booking that never was": "no-such-booking"} {
		_, err = k.Client.CreateManifest(ctx, &providerv1.CreateManifestRequest{Key: k.key(), References: []string{reference}})
		if c := connect.CodeOf(err); c != connect.CodeNotFound && c != connect.CodeFailedPrecondition {
			return fmt.Errorf("%s is taken over: %w", what, orNothing(err))
		}
	}
	return nil
}

func comes(ctx context.Context, k *kit) error {
	from := time.Now().Add(time.Hour)
	req := &providerv1.SchedulePickupRequest{Key: k.key(), Place: k.end(sender, k.Home), Parcels: 3, From: timestamppb.New(from), Until: timestamppb.New(from.Add(time.Hour))}
	first, err := k.Client.SchedulePickup(ctx, req)
	if err != nil {
		return err
	}
	again, err := k.Client.SchedulePickup(ctx, req)
	if err != nil || first.GetReference() == "" || again.GetReference() != first.GetReference() {
		return fmt.Errorf("the same pickup again is %q, was %q: %w", again.GetReference(), first.GetReference(), orNothing(err))
	}
	return nil
}

// patience is how long a parcel may take to be seen first.
const patience = 20 * time.Second

func tracks(ctx context.Context, k *kit) error {
	if _, err := k.Client.Track(ctx, &providerv1.TrackRequest{Reference: "no-such-booking"}); connect.CodeOf(err) != connect.CodeNotFound {
		return fmt.Errorf("a booking that never was is tracked: %w, want not_found", orNothing(err))
	}
	b, err := k.handed(ctx)
	if err != nil {
		return err
	}
	numbers := map[string]bool{}
	for _, n := range b.GetTrackingNumbers() {
		numbers[n] = true
	}
	var before []*providerv1.Fact
	for end := time.Now().Add(patience); ; {
		res, err := k.Client.Track(ctx, &providerv1.TrackRequest{Reference: b.GetReference()})
		if err != nil {
			return err
		}
		now := map[string]*providerv1.Fact{}
		for _, f := range res.GetFacts() {
			if f.GetAt() == nil || !f.GetAt().IsValid() || !numbers[f.GetTrackingNumber()] {
				return fmt.Errorf("a fact is of no parcel or of no time: %v", f)
			}
			now[f.GetFactId()+"/"+f.GetTrackingNumber()+"/"+f.GetCode()+"/"+f.GetAt().String()] = f
		}
		for _, f := range before {
			if !proto.Equal(f, now[f.GetFactId()+"/"+f.GetTrackingNumber()+"/"+f.GetCode()+"/"+f.GetAt().String()]) {
				return fmt.Errorf("what was told is told no more, or otherwise: %v", f)
			}
		}
		if before = res.GetFacts(); len(before) > 1 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("of what was handed over %d facts are told", len(before))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func tells(ctx context.Context, k *kit) error {
	if k.Webhooks == nil || k.Webhook == nil || k.Published == nil {
		return errors.New("the kit is not told how the company's webhooks look")
	}
	b, err := k.booked(ctx)
	if err != nil {
		return err
	}
	heard := func() (n int, err error) {
		for _, e := range k.Published() {
			u, ok := e.(*providerv1.TrackingUpdated)
			if !ok {
				return 0, fmt.Errorf("it publishes %s", e.ProtoReflect().Descriptor().FullName())
			}
			if u.GetReference() == b.GetReference() {
				n++
				if u.GetInstance() == "" || len(u.GetFacts()) == 0 {
					return 0, errors.New("it does not say who speaks, or of what")
				}
			}
		}
		return n, nil
	}
	signed := k.Webhook(b)
	forged := proto.CloneOf(signed)
	forged.Body = append([]byte(" "), forged.GetBody()...)
	bare := proto.CloneOf(signed)
	bare.Headers = nil
	for what, req := range map[string]*pluginv1.HandleWebhookRequest{"forged": forged, "unsigned": bare} {
		res, err := k.Webhooks.HandleWebhook(ctx, req)
		if err == nil && res.GetStatus() < http.StatusBadRequest {
			return fmt.Errorf("a webhook that is %s is taken: %d", what, res.GetStatus())
		}
	}
	if n, err := heard(); err != nil || n != 0 {
		return fmt.Errorf("%d events of webhooks that nobody signed: %w", n, orNothing(err))
	}
	for range 2 {
		res, err := k.Webhooks.HandleWebhook(ctx, signed)
		if err != nil || res.GetStatus() >= http.StatusMultipleChoices {
			return fmt.Errorf("a signed webhook answers %d: %w", res.GetStatus(), orNothing(err))
		}
	}
	if n, err := heard(); err != nil || n != 1 {
		return fmt.Errorf("a webhook that came twice is told %d times: %w", n, orNothing(err))
	}
	return nil
}

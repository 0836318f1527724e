package carriertest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/money"
)

// bookings are demands on quoting, booking, looking up and calling off.
var bookings = []check{
	{"", "declares what it cannot be without, and nothing that the contract does not know", declares},
	{"quote", "prices what it carries", quotes},
	{"quote", "has no service for what nobody carries, and no error", quotesNothing},
	{"book", "numbers each parcel, and honours a key", books},
	{"book", "refuses for good", refuses},
	{"lookup", "tells what became of a key", looksUp},
	{"cancel", "gives back once, and for ever", cancels},
	{"return", "prices and books the way back", returns},
	{"customs-data", "requires a declaration at a border", declaredAtBorder},
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

func (k *kit) quote(ctx context.Context, req *providerv1.BookRequest) ([]*providerv1.Rate, error) {
	res, err := k.Client.Quote(ctx, &providerv1.QuoteRequest{
		From: &providerv1.Endpoint{CountryCode: req.GetFrom().GetCountryCode()}, To: &providerv1.Endpoint{CountryCode: req.GetTo().GetCountryCode()},
		Parcels: req.GetParcels(), Return: req.GetReturn(), CurrencyCode: "GBP",
	})
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	for _, r := range res.GetRates() {
		if _, known := money.Lookup(r.GetTotal().GetCurrencyCode()); !known || r.GetTotal().GetMinorUnits() <= 0 || r.GetService() == "" || r.GetTransitDays() < 0 {
			return nil, fmt.Errorf("a rate cannot be true: %v", r)
		}
	}
	return res.GetRates(), nil
}

func quotes(ctx context.Context, k *kit) error {
	for _, border := range []bool{false, k.can("customs-data")} {
		req := k.booking(border)
		rates, err := k.quote(ctx, req)
		if err != nil {
			return err
		}
		if len(rates) == 0 {
			return fmt.Errorf("no rate from %s to %s", req.GetFrom().GetCountryCode(), req.GetTo().GetCountryCode())
		}
		again, err := k.quote(ctx, req)
		if err != nil {
			return err
		}
		for i, r := range rates {
			if len(again) != len(rates) || !proto.Equal(r, again[i]) {
				return errors.New("the same question has two answers")
			}
			// What is quoted can be booked, at that price.
			req.Key, req.Service = k.key(), r.GetService()
			b, err := k.book(ctx, req)
			if err != nil {
				return err
			}
			if b.GetState() != providerv1.Booking_STATE_BOOKED {
				return fmt.Errorf("%s is quoted and not booked: %s", r.GetService(), b.GetCode())
			}
			if !proto.Equal(b.GetTotal(), r.GetTotal()) {
				return fmt.Errorf("%s is quoted at %v and booked at %v", r.GetService(), r.GetTotal(), b.GetTotal())
			}
		}
	}
	return nil
}

func quotesNothing(ctx context.Context, k *kit) error {
	for what, spoil := range map[string]func(*providerv1.BookRequest){
		"a ton":     func(r *providerv1.BookRequest) { r.Parcels[0].WeightGrams = 1_000_000 },
		"five yard": func(r *providerv1.BookRequest) { r.Parcels[0].LengthMm = 5_000 },
	} {
		req := k.booking(false)
		spoil(req)
		rates, err := k.quote(ctx, req)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if len(rates) > 0 {
			return fmt.Errorf("%s is quoted: %v", what, rates[0])
		}
	}
	return nil
}

// numbered requires a number for each parcel, each its own.
func numbered(req *providerv1.BookRequest, b *providerv1.Booking) error {
	seen := map[string]bool{}
	for _, p := range req.GetParcels() {
		n := b.GetTrackingNumbers()[p.GetParcelId()]
		if n == "" || len(n) > 64 || seen[n] {
			return fmt.Errorf("parcel %s has the number %q", p.GetParcelId(), n)
		}
		seen[n] = true
	}
	if len(b.GetTrackingNumbers()) != len(req.GetParcels()) {
		return errors.New("there are numbers of no parcel")
	}
	return nil
}

func books(ctx context.Context, k *kit) error {
	req := k.booking(false)
	first, err := k.book(ctx, req)
	if err != nil {
		return err
	}
	if err := numbered(req, first); err != nil {
		return err
	}
	// However often, and at once.
	g, gctx := errgroup.WithContext(ctx)
	for range 8 {
		g.Go(func() error {
			again, err := k.book(gctx, req)
			switch {
			case err != nil:
				return err
			case again.GetReference() != first.GetReference() || !proto.Equal(&providerv1.Booking{TrackingNumbers: again.GetTrackingNumbers()}, &providerv1.Booking{TrackingNumbers: first.GetTrackingNumbers()}):
				return errors.New("one key booked twice")
			case len(again.GetDocuments()) != len(first.GetDocuments()):
				return errors.New("documents are drawn once only: a key's are drawn again each time")
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fresh := k.key()
	ways := make([]string, 4)
	g, gctx = errgroup.WithContext(ctx)
	for i := range ways {
		g.Go(func() error {
			one := proto.CloneOf(req)
			one.Key = fresh
			b, err := k.book(gctx, one)
			ways[i] = b.GetReference()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(slices.Compact(ways)) != 1 {
		return fmt.Errorf("one key, four at once: %v", ways)
	}
	if ways[0] == first.GetReference() {
		return errors.New("two keys have one booking")
	}
	other := proto.CloneOf(req)
	other.Parcels = []*logisticsv1.Parcel{k.parcel("another", 300)}
	if _, err := k.Client.Book(ctx, other); connect.CodeOf(err) != connect.CodeAlreadyExists {
		return fmt.Errorf("a key that was used for something else answers %w, want already_exists", orNothing(err))
	}
	return nil
}

func refuses(ctx context.Context, k *kit) error {
	req := k.booking(false)
	req.Service = "no-such-service"
	var codes []string
	for range 2 {
		b, err := k.book(ctx, req)
		if err != nil {
			return fmt.Errorf("a refusal is an answer, no error: %w", err)
		}
		if b.GetState() != providerv1.Booking_STATE_REFUSED || b.GetCode() == "" || len(b.GetDocuments()) > 0 {
			return fmt.Errorf("a service that nobody sells: %v, code %q, %d documents", b.GetState(), b.GetCode(), len(b.GetDocuments()))
		}
		codes = append(codes, b.GetCode())
	}
	if codes[0] != codes[1] {
		return fmt.Errorf("a refusal is for good: %v", codes)
	}
	res, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: req.GetKey()})
	if err != nil || res.GetBooking().GetState() != providerv1.Booking_STATE_REFUSED {
		return fmt.Errorf("a refused booking looks up as %v: %w", res.GetBooking().GetState(), orNothing(err))
	}
	return nil
}

func looksUp(ctx context.Context, k *kit) error {
	if _, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: k.key()}); connect.CodeOf(err) != connect.CodeNotFound {
		return fmt.Errorf("a key that was never used answers %w, want not_found", orNothing(err))
	}
	b, err := k.booked(ctx)
	if err != nil {
		return err
	}
	res, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: b.GetKey()})
	if err != nil {
		return err
	}
	got := res.GetBooking()
	if got.GetKey() != b.GetKey() || got.GetReference() != b.GetReference() || got.GetState() != b.GetState() || len(got.GetTrackingNumbers()) != len(b.GetTrackingNumbers()) {
		return fmt.Errorf("booked as %s %v, looked up as %s %v", b.GetReference(), b.GetState(), got.GetReference(), got.GetState())
	}
	return nil
}

func cancels(ctx context.Context, k *kit) error {
	b, err := k.booked(ctx)
	if err != nil {
		return err
	}
	for _, key := range []string{"first", "first", "second"} {
		if _, err := k.Client.Cancel(ctx, &providerv1.CancelRequest{Key: b.GetKey() + "/" + key, Reference: b.GetReference()}); err != nil {
			return fmt.Errorf("what is cancelled stays so, and to ask again is no error: %w", err)
		}
	}
	res, err := k.Client.Lookup(ctx, &providerv1.LookupRequest{Key: b.GetKey()})
	if err != nil || res.GetBooking().GetState() != providerv1.Booking_STATE_CANCELLED {
		return fmt.Errorf("a cancelled booking looks up as %v: %w", res.GetBooking().GetState(), orNothing(err))
	}
	_, err = k.Client.Cancel(ctx, &providerv1.CancelRequest{Key: k.key(), Reference: "no-such-booking"})
	if connect.CodeOf(err) != connect.CodeNotFound {
		return fmt.Errorf("a booking that never was is cancelled: %w, want not_found", orNothing(err))
	}
	return nil
}

func returns(ctx context.Context, k *kit) error {
	req := k.booking(false)
	req.From, req.To, req.Return = k.end(addressee, k.Home), k.end(sender, k.Home), true
	rates, err := k.quote(ctx, req)
	if err != nil {
		return err
	}
	if len(rates) == 0 {
		return errors.New("no rate for the way back")
	}
	b, err := k.book(ctx, req)
	if err != nil {
		return err
	}
	if b.GetState() != providerv1.Booking_STATE_BOOKED {
		return fmt.Errorf("the way back is not booked: %s", b.GetCode())
	}
	return numbered(req, b)
}

func declaredAtBorder(ctx context.Context, k *kit) error {
	req := k.booking(true)
	b, err := k.book(ctx, req)
	if err != nil {
		return err
	}
	if b.GetState() != providerv1.Booking_STATE_BOOKED {
		return fmt.Errorf("what is declared is not taken: %s", b.GetCode())
	}
	req = k.booking(true)
	req.Customs = nil
	if b, err = k.book(ctx, req); err != nil {
		return err
	}
	if b.GetState() != providerv1.Booking_STATE_REFUSED {
		return errors.New("goods cross a border undeclared")
	}
	return nil
}

// orNothing makes an error of none, so that it can be shown.
func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

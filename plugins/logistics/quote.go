package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/money"
)

// breaker leaves a carrier alone for a moment that fails again and again. It is
// for quotes: a booking asks whom it must.
type breaker struct {
	mu       sync.Mutex
	failures map[string]int
	until    map[string]time.Time
}

const (
	tripAfter = 3
	tripFor   = 10 * time.Second
	// maxRates is how many one carrier may quote.
	maxRates = 50
	// maxCarriers bounds who is asked at once.
	maxCarriers = 32
)

func (b *breaker) open(instance string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.until[instance])
}

func (b *breaker) told(instance string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		delete(b.failures, instance)
		delete(b.until, instance)
		return
	}
	if b.failures[instance]++; b.failures[instance] >= tripAfter {
		b.until[instance] = time.Now().Add(tripFor)
	}
}

// QuoteShipment asks every carrier of the market at once.
func (s *service) QuoteShipment(ctx context.Context, req *logisticsv1.QuoteShipmentRequest) (*logisticsv1.QuoteShipmentResponse, error) {
	ends, err := s.ends(ctx, req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, err
	}
	return s.quote(ctx, call.From(ctx).Market, req.GetLeg(), ends, req.GetParcels(), req.GetRule())
}

func (s *service) quote(ctx context.Context, market string, leg logisticsv1.Leg, ends []end, parcels []*logisticsv1.Parcel, rule *logisticsv1.Rule) (*logisticsv1.QuoteShipmentResponse, error) {
	listed, err := s.host.Instances.ListInstances(ctx, &kernelv1.ListInstancesRequest{Contract: contract, Market: market})
	if err != nil {
		return nil, host.Relay(err)
	}
	back := leg == logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS
	q := &providerv1.QuoteRequest{
		From: &providerv1.Endpoint{CountryCode: ends[0].country, PostalCode: ends[0].postal}, To: &providerv1.Endpoint{CountryCode: ends[1].country, PostalCode: ends[1].postal},
		Parcels: parcels, Return: back, CurrencyCode: s.in.Markets[market].GetCurrencyCode(),
	}
	want := append([]string{"quote", "book", "lookup", "cancel"}, rule.GetCapabilities()...)
	if back {
		want = append(want, "return")
	}
	if s.border(ends[0].country, ends[1].country) {
		want = append(want, "customs-data")
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	res := &logisticsv1.QuoteShipmentResponse{}
	without := func(instance, reason string) {
		mu.Lock()
		defer mu.Unlock()
		res.Without = append(res.Without, &logisticsv1.NoQuote{Instance: instance, Reason: reason})
	}
	for _, i := range listed.GetInstances()[:min(len(listed.GetInstances()), maxCarriers)] {
		switch {
		case rule.GetInstance() != "" && rule.GetInstance() != i.GetInstance():
			continue
		case slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(i.GetCapabilities(), c) }) && i.GetReady():
			without(i.GetInstance(), "NOT_CAPABLE")
			continue
		case !i.GetReady() || s.breaker.open(i.GetInstance()):
			without(i.GetInstance(), "NOT_READY")
			continue
		}
		wg.Go(func() {
			rates, reason := s.ask(ctx, i.GetInstance(), q, rule)
			if reason != "" {
				without(i.GetInstance(), reason)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			res.Rates = append(res.Rates, rates...)
		})
	}
	wg.Wait()
	s.order(res, market, rule)
	return res, nil
}

// ask has one carrier quote, in its time, and believes only what can be true.
func (s *service) ask(ctx context.Context, instance string, q *providerv1.QuoteRequest, rule *logisticsv1.Rule) (rates []*logisticsv1.Rate, reason string) {
	caller := ctx
	ctx, cancel := context.WithTimeout(host.ToInstance(ctx, instance), s.quoteTimeout)
	defer cancel()
	answer, err := s.carriers.Quote(ctx, q)
	// That the caller has gone is not the carrier's fault.
	if err == nil || caller.Err() == nil {
		s.breaker.told(instance, err == nil)
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		return nil, "LATE"
	case err != nil:
		return nil, "FAILED"
	}
	if len(answer.GetRates()) > maxRates {
		return nil, "FAILED"
	}
	for _, r := range answer.GetRates() {
		if len(r.GetService()) > 64 || len(r.GetTitle()) > 800 || r.GetTransitDays() < 0 {
			return nil, "FAILED"
		}
		if _, known := money.Lookup(r.GetTotal().GetCurrencyCode()); !known || r.GetTotal().GetMinorUnits() < 0 || r.GetService() == "" {
			return nil, "FAILED"
		}
		if d := rule.GetMaxTransitDays(); d > 0 && r.GetTransitDays() > d || rule.GetService() != "" && rule.GetService() != r.GetService() {
			continue
		}
		rates = append(rates, &logisticsv1.Rate{
			Instance: instance, Service: r.GetService(), Title: r.GetTitle(), Total: r.GetTotal(), TransitDays: r.GetTransitDays(),
			MaxWeightGrams: r.GetMaxWeightGrams(), MaxLengthMm: r.GetMaxLengthMm(), MaxGirthMm: r.GetMaxGirthMm(),
		})
	}
	if len(rates) == 0 {
		return nil, "NO_SERVICE"
	}
	return rates, ""
}

// order puts the best first. Prices compare in the market's currency; one in
// another comes after all of them, since nobody said a rate.
func (s *service) order(res *logisticsv1.QuoteShipmentResponse, market string, rule *logisticsv1.Rule) {
	home := s.in.Markets[market].GetCurrencyCode()
	fastest := rule.GetPrefer()
	if fastest == logisticsv1.Rule_PREFER_UNSPECIFIED {
		fastest = s.prefer[market]
	}
	foreign := func(r *logisticsv1.Rate) int {
		if r.GetTotal().GetCurrencyCode() == home {
			return 0
		}
		return 1
	}
	slices.SortFunc(res.Rates, func(a, b *logisticsv1.Rate) int {
		price := cmp.Or(cmp.Compare(foreign(a), foreign(b)), cmp.Compare(a.GetTotal().GetMinorUnits(), b.GetTotal().GetMinorUnits()))
		days := cmp.Compare(a.GetTransitDays(), b.GetTransitDays())
		if fastest == logisticsv1.Rule_PREFER_FASTEST {
			price, days = days, price
		}
		return cmp.Or(price, days, cmp.Compare(a.GetInstance(), b.GetInstance()), cmp.Compare(a.GetService(), b.GetService()))
	})
	slices.SortFunc(res.Without, func(a, b *logisticsv1.NoQuote) int { return cmp.Compare(a.GetInstance(), b.GetInstance()) })
}

// choose is the carrier of a booking: the best quote.
func (s *service) choose(ctx context.Context, req *logisticsv1.BookShipmentRequest, market string, ends []end) (*logisticsv1.Rate, error) {
	res, err := s.quote(ctx, market, req.GetLeg(), ends, req.GetParcels(), req.GetRule())
	if err != nil {
		return nil, err
	}
	if len(res.GetRates()) > 0 {
		return res.GetRates()[0], nil
	}
	// One that could not be asked might have: that is no refusal.
	var pairs []string
	for _, w := range res.GetWithout() {
		if w.GetReason() == "LATE" || w.GetReason() == "FAILED" || w.GetReason() == "NOT_READY" {
			return nil, fault.Retry(fault.New(connect.CodeUnavailable, "CARRIERS_UNAVAILABLE", "no carrier of the market answers now", w.GetInstance(), w.GetReason()), time.Second)
		}
		pairs = append(pairs, w.GetInstance(), w.GetReason())
	}
	return nil, fault.New(connect.CodeFailedPrecondition, "NO_CARRIER", "no carrier of the market takes these parcels there", pairs...)
}

package main

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// BookShipment books once, with one carrier, whatever happens in between.
func (s *service) BookShipment(ctx context.Context, req *logisticsv1.BookShipmentRequest) (*logisticsv1.BookShipmentResponse, error) {
	one, err := readShipment(ctx, s.db, req.GetShipmentId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if one == nil {
		if one, err = s.intend(ctx, req); err != nil {
			return nil, err
		}
	}
	if m := owner(ctx); m != "" && one.merchant != m && one.booking != bookingCancelled {
		return nil, noShipment()
	}
	switch one.booking {
	case bookingCancelled:
		return nil, fault.New(connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", "this shipment was called off")
	case bookingRefused:
		return nil, refusal(one.code)
	case bookingAsked, bookingUnknown:
		if !same(one.request, req) {
			return nil, fault.New(connect.CodeAlreadyExists, "SHIPMENT_DIFFERS", "this shipment is of something else; take another id")
		}
		if err := s.settle(ctx, one); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.BookShipmentResponse, error) {
		now, err := readShipment(ctx, tx, one.id)
		if err != nil {
			return nil, err
		}
		if now.booking != bookingDone {
			return nil, fault.New(connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", "this shipment was called off")
		}
		return &logisticsv1.BookShipmentResponse{Shipment: now.proto()}, nil
	})
}

func refusal(code string) error {
	return fault.New(connect.CodeFailedPrecondition, "BOOKING_REFUSED", "the carrier does not take it", "code", code)
}

// same tells whether two requests ask for the same way; where a carrier's
// choice is left open it may have changed.
func same(a, b *logisticsv1.BookShipmentRequest) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Rule, b.Rule = nil, nil
	a.MerchantId, b.MerchantId, a.Market, b.Market = "", "", "", ""
	return proto.Equal(a, b)
}

// intend chooses a carrier and writes down that it will be asked.
func (s *service) intend(ctx context.Context, req *logisticsv1.BookShipmentRequest) (*shipment, error) {
	market, merchant := req.GetMarket(), req.GetMerchantId()
	if market == "" {
		market = call.From(ctx).Market
	}
	if m := owner(ctx); m != "" {
		merchant = m
	}
	seen := map[string]bool{}
	for _, p := range req.GetParcels() {
		if seen[p.GetParcelId()] {
			return nil, fault.Field("parcels", "each parcel_id once")
		}
		seen[p.GetParcelId()] = true
	}
	ends, err := s.ends(ctx, req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, err
	}
	if !ends[0].whole() || !ends[1].whole() {
		return nil, fault.Field("from, to", "a booking wants addresses, not countries")
	}
	if err := sides(req, owner(ctx)); err != nil {
		return nil, err
	}
	if err := s.declared(req, ends); err != nil {
		return nil, err
	}
	rate, err := s.choose(ctx, req, market, ends)
	if err != nil {
		return nil, err
	}
	doc, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	var one *shipment
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		// Whoever was first has chosen.
		_, err := tx.Do(ctx, `INSERT INTO shipment (id, leg, status, instance, service, reference, order_id, merchant, market, place, request)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`, req.GetShipmentId(), int16(req.GetLeg()),
			int16(logisticsv1.Status_STATUS_BOOKING), rate.GetInstance(), rate.GetService(), req.GetReference(), req.GetOrderId(), merchant, market,
			req.GetFrom().GetPlaceId(), doc)
		if err != nil {
			return err
		}
		one, err = readShipment(ctx, tx, req.GetShipmentId())
		return err
	})
	return one, err
}

// legs are who hands over and who takes, by the leg: kinds of places, and
// "person" for an address. Goods for repair go from a consumer to their
// merchant and back, where others go by the warehouse.
var legs = map[logisticsv1.Leg]struct{ from, to []string }{
	logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION:  {[]string{"merchant"}, []string{"inspection"}},
	logisticsv1.Leg_LEG_INSPECTION_TO_WAREHOUSE: {[]string{"inspection"}, []string{"warehouse"}},
	logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER:   {[]string{"warehouse", "merchant"}, []string{"person"}},
	logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS:     {[]string{"person"}, []string{"warehouse", "merchant", "inspection"}},
	logisticsv1.Leg_LEG_WAREHOUSE_TO_MERCHANT:   {[]string{"warehouse", "inspection"}, []string{"merchant"}},
	logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE:  {[]string{"warehouse"}, []string{"warehouse"}},
}

// sides requires that the parties are those of the leg, and that one of them
// is the member's who books.
func sides(req *logisticsv1.BookShipmentRequest, merchant string) error {
	kind := func(p *logisticsv1.Party) string {
		name, _, ok := strings.Cut(p.GetPlaceId(), "/")
		if !ok {
			return "person"
		}
		return name
	}
	leg := legs[req.GetLeg()]
	switch {
	case !slices.Contains(leg.from, kind(req.GetFrom())):
		return fault.Field("from", "this leg begins at: "+strings.Join(leg.from, ", "))
	case !slices.Contains(leg.to, kind(req.GetTo())):
		return fault.Field("to", "this leg ends at: "+strings.Join(leg.to, ", "))
	case merchant != "" && req.GetFrom().GetPlaceId() != "merchant/"+merchant && req.GetTo().GetPlaceId() != "merchant/"+merchant:
		return fault.New(connect.CodePermissionDenied, "NOT_YOUR_PLACE", "members book from or to their own merchant's place")
	}
	return nil
}

// declared requires what a customs office will ask for.
func (s *service) declared(req *logisticsv1.BookShipmentRequest, ends []end) error {
	if !s.border(ends[0].country, ends[1].country) {
		return nil
	}
	missing := func(field string) error {
		return fault.New(connect.CodeFailedPrecondition, "DECLARATION_MISSING", "what crosses a border is declared: this is missing", "field", field)
	}
	if req.GetCustoms().GetCategory() == logisticsv1.CustomsData_CATEGORY_UNSPECIFIED {
		return missing("customs.category")
	}
	for _, p := range req.GetParcels() {
		if len(p.GetItems()) == 0 {
			return missing("parcels.items")
		}
		for _, it := range p.GetItems() {
			switch {
			case it.GetDescription() == "":
				return missing("items.description")
			case it.GetValue() == nil:
				return missing("items.value")
			}
		}
	}
	return nil
}

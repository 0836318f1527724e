package main

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// GetWhereabouts asks logistics where the goods of a conversation are. What it
// does not answer now is told as it was heard last.
func (s *service) GetWhereabouts(ctx context.Context, req *aftersalev1.GetWhereaboutsRequest) (*aftersalev1.GetWhereaboutsResponse, error) {
	a, err := s.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	// A conversation about an order has no case: its ways are all out.
	c := &caseFile{OrderID: a.order, Merchant: a.merchant}
	if a.caseID != "" {
		if c, err = readCase(ctx, s.db, "c.id = ?", a.caseID); err != nil {
			return nil, store.Wrap(err)
		}
	}
	ways, _, err := s.story(ctx, c)
	if err != nil {
		return nil, err
	}
	res := &aftersalev1.GetWhereaboutsResponse{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, w := range ways[:min(len(ways), 20)] {
		one := &aftersalev1.Whereabouts{ShipmentId: w.GetShipmentId(), Way: w.GetWay(), Status: w.GetStatus(), Carrier: w.GetCarrier(), TrackingNumbers: w.GetTrackingNumbers()}
		res.Shipments = append(res.Shipments, one)
		if len(w.GetTrackingNumbers()) > 0 {
			g.Go(func() error {
				s.look(own(gctx, a.market), one)
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	res.Requests, err = s.carriageRequests(ctx, `order_id = $1 AND merchant = $2 AND case_id = $3 ORDER BY at DESC, id LIMIT 50`, a.order, a.merchant, a.caseID)
	return res, err
}

// look asks about a shipment's first parcel.
func (s *service) look(ctx context.Context, w *aftersalev1.Whereabouts) {
	res, err := s.tracking.GetTracking(ctx, &logisticsv1.GetTrackingRequest{TrackingNumber: w.GetTrackingNumbers()[0]})
	if err != nil {
		return
	}
	w.Status = statusName(int16(res.GetTracking().GetStatus()))
	for _, f := range slices.Backward(res.GetTracking().GetFacts()) {
		w.Sightings = append(w.Sightings, &aftersalev1.Sighting{
			Status: statusName(int16(f.GetStatus())), Text: f.GetText(), Place: f.GetPlace(), CountryCode: f.GetCountryCode(), At: f.GetAt(),
		})
	}
}

// underWay are statuses of goods that may be sent elsewhere.
var underWay = []int16{
	int16(logisticsv1.Status_STATUS_BOOKED), int16(logisticsv1.Status_STATUS_IN_TRANSIT), int16(logisticsv1.Status_STATUS_OUT_FOR_DELIVERY),
	int16(logisticsv1.Status_STATUS_READY_FOR_PICKUP), int16(logisticsv1.Status_STATUS_DELIVERY_FAILED), int16(logisticsv1.Status_STATUS_ON_HOLD),
}

// carriage is something that is asked of whoever carries a shipment.
type carriage struct {
	id, shipment, what string
	from, until        time.Time
	address            *kernelv1.SealResponse
}

// ask writes down what is asked, once for its id, and tells of it.
func (s *service) ask(ctx context.Context, req proto.Message, a *about, q carriage) (*aftersalev1.CarriageRequest, error) {
	_, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.CarriageRequest, error) {
		ref, err := keep(ctx, tx, a.order, q.address)
		if err != nil {
			return nil, err
		}
		var from, until *time.Time
		event := &aftersalev1.CarriageRequested{
			ShipmentId: q.shipment, CarriageRequestId: q.id, What: q.what, OrderId: a.order, MerchantId: a.merchant, CaseId: a.caseID, AddressRef: ref,
		}
		if !q.from.IsZero() {
			from, until = &q.from, &q.until
			event.From, event.Until = timestamppb.New(q.from), timestamppb.New(q.until)
		}
		done, err := tx.Do(ctx, `INSERT INTO carriage_request (id, order_id, merchant, case_id, shipment_id, what, address_ref, starts_at, ends_at, asked_by)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`, q.id, a.order, a.merchant, a.caseID, q.shipment, q.what, ref, from, until, a.who.who)
		if err != nil {
			return nil, err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return &aftersalev1.CarriageRequest{}, err
		}
		if a.caseID != "" {
			if err := (&caseFile{ID: a.caseID}).tell(ctx, tx, q.what+".asked", a.who.who, q.shipment); err != nil {
				return nil, err
			}
		}
		return &aftersalev1.CarriageRequest{}, tx.Publish(event)
	})
	if err != nil {
		return nil, err
	}
	return s.carriageRequest(ctx, q.id)
}

func (s *service) carriageRequest(ctx context.Context, requestID string) (*aftersalev1.CarriageRequest, error) {
	all, err := s.carriageRequests(ctx, `id = $1`, requestID)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

func (s *service) carriageRequests(ctx context.Context, where string, args ...any) ([]*aftersalev1.CarriageRequest, error) {
	var out []*aftersalev1.CarriageRequest
	rows, err := s.db.Rows(ctx, `SELECT id, shipment_id, what, state, starts_at, ends_at, at FROM carriage_request WHERE `+where, args...)
	err = scan(rows, err, func(rows *sql.Rows) error {
		r := &aftersalev1.CarriageRequest{}
		var state int32
		var from, until *time.Time
		var at time.Time
		if err := rows.Scan(&r.CarriageRequestId, &r.ShipmentId, &r.What, &state, &from, &until, &at); err != nil {
			return err
		}
		r.State, r.At = aftersalev1.CarriageRequest_State(state), timestamppb.New(at)
		if from != nil && until != nil {
			r.From, r.Until = timestamppb.New(*from), timestamppb.New(*until)
		}
		out = append(out, r)
		return nil
	})
	return out, store.Wrap(err)
}

// shipmentStatus is how far a shipment of an order is; 0: there is none.
func (s *service) shipmentStatus(ctx context.Context, shipment, order string, leg logisticsv1.Leg) (int16, error) {
	var status int16
	err := s.db.Row(ctx, `SELECT coalesce((SELECT status FROM shipment WHERE id = $1 AND order_id = $2 AND leg = $3), 0)`, shipment, order, int16(leg)).Scan(&status)
	return status, store.Wrap(err)
}

// RequestRedirect asks for another address.
func (s *service) RequestRedirect(ctx context.Context, req *aftersalev1.RequestRedirectRequest) (*aftersalev1.RequestRedirectResponse, error) {
	a, err := s.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	status, err := s.shipmentStatus(ctx, req.GetShipmentId(), a.order, logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(underWay, status) {
		return nil, fault.New(connect.CodeFailedPrecondition, "NOT_ON_THE_WAY", "this is not on its way to the consumer", "status", statusName(status))
	}
	address, err := proto.Marshal(req.GetAddress())
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, a.order, &kernelv1.SealItem{Kind: "address", Plaintext: address})
	if err != nil {
		return nil, err
	}
	out, err := s.ask(ctx, req, a, carriage{id: id.Derive("crq", a.id()+"/"+req.GetRequestKey()), shipment: req.GetShipmentId(), what: "redirect", address: sealed})
	return &aftersalev1.RequestRedirectResponse{Request: out}, err
}

// maxAhead is how far ahead a pickup may be asked for.
const maxAhead = 30 * 24 * time.Hour

// RequestPickup asks for a return to be fetched.
func (s *service) RequestPickup(ctx context.Context, req *aftersalev1.RequestPickupRequest) (*aftersalev1.RequestPickupResponse, error) {
	from, until := req.GetFrom().AsTime(), req.GetUntil().AsTime()
	if !from.Before(until) || from.Before(now()) || until.After(now().Add(maxAhead)) {
		return nil, fault.Field("from, until", "a time to come, within 30 days, that begins before it ends")
	}
	a, err := s.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	if a.caseID == "" {
		return nil, fault.Field("topic.case_id", "say of which case")
	}
	c, err := readCase(ctx, s.db, "c.id = ?", a.caseID)
	if err != nil {
		return nil, store.Wrap(err)
	}
	status, err := s.shipmentStatus(ctx, c.ShipmentID, a.order, logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS)
	if err != nil {
		return nil, err
	}
	if logisticsv1.Status(status) != logisticsv1.Status_STATUS_BOOKED {
		return nil, fault.New(connect.CodeFailedPrecondition, "NOT_TO_BE_FETCHED", "no return is booked, or it is on its way", "status", statusName(status))
	}
	out, err := s.ask(ctx, req, a, carriage{id: id.Derive("crq", a.id()+"/"+req.GetRequestKey()), shipment: c.ShipmentID, what: "pickup", from: from, until: until})
	return &aftersalev1.RequestPickupResponse{Request: out}, err
}

// ResolveCarriageRequest answers what was asked.
func (s *service) ResolveCarriageRequest(ctx context.Context, req *aftersalev1.ResolveCarriageRequestRequest) (*aftersalev1.ResolveCarriageRequestResponse, error) {
	p := call.From(ctx).Principal
	_, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.CarriageRequest, error) {
		r, err := lockRequest(ctx, tx, req.GetCarriageRequestId())
		unknown := fault.New(connect.CodeNotFound, "REQUEST_UNKNOWN", "there is no such request, or it is not yours")
		state := answered(req.GetArranged())
		switch {
		case err != nil:
			return nil, noRows(err, unknown)
		case p.Kind == call.Merchant && p.Merchant != r.merchant:
			return nil, unknown
		case r.state == state:
			return &aftersalev1.CarriageRequest{}, nil
		case r.state != aftersalev1.CarriageRequest_STATE_ASKED:
			return nil, fault.New(connect.CodeFailedPrecondition, "RESOLVED", "this was answered otherwise")
		}
		if err := r.answer(ctx, tx, state, p.String()); err != nil {
			return nil, err
		}
		return &aftersalev1.CarriageRequest{}, tx.Publish(&aftersalev1.CarriageResolved{
			ShipmentId: r.shipment, CarriageRequestId: r.id, Arranged: req.GetArranged(),
		})
	})
	if err != nil {
		return nil, err
	}
	out, err := s.carriageRequest(ctx, req.GetCarriageRequestId())
	return &aftersalev1.ResolveCarriageRequestResponse{Request: out}, err
}

// onAnswered hears from whoever asked the carrier. What was answered here
// before stays so.
func onAnswered(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.CarriageAnswered]) error {
	r, err := lockRequest(ctx, tx, e.Body.GetCarriageRequestId())
	if err != nil || r.state != aftersalev1.CarriageRequest_STATE_ASKED {
		return noRows(err, nil)
	}
	return r.answer(ctx, tx, answered(e.Body.GetArranged()), "logistics")
}

// asked is a request as it is answered.
type asked struct {
	id, merchant, caseID, shipment, what string
	state                                aftersalev1.CarriageRequest_State
}

func lockRequest(ctx context.Context, tx *store.Tx, requestID string) (*asked, error) {
	r := &asked{id: requestID}
	return r, tx.Row(ctx, `SELECT merchant, case_id, shipment_id, what, state FROM carriage_request WHERE id = $1 FOR UPDATE`, requestID).
		Scan(&r.merchant, &r.caseID, &r.shipment, &r.what, &r.state)
}

func answered(arranged bool) aftersalev1.CarriageRequest_State {
	if arranged {
		return aftersalev1.CarriageRequest_STATE_ARRANGED
	}
	return aftersalev1.CarriageRequest_STATE_REFUSED
}

// answer writes it, and tells of it in the case's history.
func (r *asked) answer(ctx context.Context, tx *store.Tx, state aftersalev1.CarriageRequest_State, who string) error {
	if _, err := tx.Do(ctx, `UPDATE carriage_request SET state = $2, resolved_by = $3 WHERE id = $1`, r.id, int16(state), who); err != nil || r.caseID == "" {
		return err
	}
	word := strings.ToLower(strings.TrimPrefix(state.String(), "STATE_"))
	return (&caseFile{ID: r.caseID}).tell(ctx, tx, r.what+"."+word, who, "")
}

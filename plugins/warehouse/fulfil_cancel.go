package main

import (
	"context"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// CancelFulfilment brings an order's goods back into its reservation, unless
// something of it is handed over: then nothing is cancelled.
func (f *floor) CancelFulfilment(ctx context.Context, req *warehousev1.CancelFulfilmentRequest) (*warehousev1.CancelFulfilmentResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.CancelFulfilmentResponse, error) {
		all, err := lockFulfilments(ctx, tx, `WHERE f.reference = $1 AND ($2 = '' OR f.request_id = $2)`, req.GetReference(), req.GetRequestId())
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			if one.left() {
				return nil, fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "a carrier has something of it", "fulfilment", one.id)
			}
		}
		if req.GetRequestId() == "" {
			if _, err := tx.Do(ctx, `INSERT INTO fulfilment_halt (reference) VALUES ($1) ON CONFLICT DO NOTHING`, req.GetReference()); err != nil {
				return nil, err
			}
		}
		for _, one := range all {
			if one.state == stateCancelled {
				continue
			}
			if err := one.cancel(ctx, tx, req.GetReason()); err != nil {
				return nil, err
			}
		}
		return &warehousev1.CancelFulfilmentResponse{}, nil
	})
}

// left tells whether anything of it is with a carrier.
func (f *fulfilment) left() bool {
	if f.state == stateGone || f.state == stateDelivered {
		return true
	}
	for _, p := range f.parcels {
		if p.Manifest != "" {
			return true
		}
	}
	return false
}

func (f *fulfilment) cancel(ctx context.Context, tx *store.Tx, reason string) error {
	// What is packed stands where the parcel stands, what is picked beside it.
	packed := "packed"
	if f.state == stateReady {
		packed = "outbound"
	}
	if err := f.back(ctx, tx, packed, func(l fline) int64 { return l.Packed }, func(u funit) bool { return u.Parcel != "" }); err != nil {
		return err
	}
	if err := f.back(ctx, tx, "picked", func(l fline) int64 { return l.Picked - l.Packed }, func(u funit) bool { return u.Parcel == "" }); err != nil {
		return err
	}
	// The reservation holds again what was taken over from it. One that was
	// made for this alone ends with it.
	if _, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 8 WHERE id = $1 RETURNING reservation_id),
		u AS (DELETE FROM fulfilment_unit WHERE fulfilment_id = $1)
		UPDATE reservation r SET state = 1, ended_at = NULL, reason = '' FROM f WHERE r.id = f.reservation_id AND r.state = 4`, f.id); err != nil {
		return err
	}
	var own bool
	if err := tx.Row(ctx, `SELECT q.reservation_id <> $2 FROM fulfilment_request q WHERE q.id = $1`, f.request, f.reservation).Scan(&own); err != nil {
		return err
	}
	if own && f.state != stateWaiting {
		gone, err := releaseNow(ctx, tx, f.reservation, "fulfilment cancelled")
		if err != nil {
			return err
		}
		for _, g := range gone {
			if err := tx.Publish(g.event()); err != nil {
				return err
			}
		}
	}
	return tx.Publish(&warehousev1.FulfilmentCancelled{FulfilmentId: f.id, RequestId: f.request, Reference: f.reference, Reason: reason})
}

// back moves goods from a disposition into the reservation.
func (f *fulfilment) back(ctx context.Context, tx *store.Tx, from string, count func(fline) int64, which func(funit) bool) error {
	var all []goods
	for _, l := range f.lines {
		all = append(all, f.goods(l, count(l), f.reservation, which)...)
	}
	_, err := post(ctx, tx, way{reason: "cancellation", from: from, to: "reserved"}, all...)
	return err
}

// goods are so many of a line, by their serials where they have some.
func (f *fulfilment) goods(l fline, n int64, reference string, which func(funit) bool) []goods {
	g := goods{key: key{sku: l.SKU, site: f.site, lot: l.Lot, authenticated: l.Authenticated}, quantity: n, reference: reference}
	if l.Authenticated {
		for _, u := range f.units {
			if u.SKU == l.SKU && u.Lot == l.Lot && which(u) {
				g.units = append(g.units, u.Unit)
			}
		}
		n = int64(len(g.units))
	}
	if n == 0 {
		return nil
	}
	return []goods{g}
}

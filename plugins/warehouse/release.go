package main

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// giveBack moves what the reservations of the CTE "ended" still hold back to
// sellable, and onto the merchant's shelf in the market, but for those of which
// the merchant has said since what is to stand there. The reservations are locked by a
// statement before it: one that waited would not see what somebody else took
// out of them meanwhile, and give back what others hold.
func giveBack(ended, reason string) string {
	return `WITH ended AS (` + ended + ` RETURNING r.id, r.reference, r.market, r.created_at, r.expires_at),
held AS (SELECT m.sku, m.site, m.lot, m.authenticated, ended.id, sum(CASE WHEN m.to_disposition = 'reserved' THEN m.quantity ELSE -m.quantity END)::bigint AS quantity
  FROM ended JOIN stock_move m ON m.reference = ended.id AND 'reserved' IN (m.from_disposition, m.to_disposition)
 GROUP BY m.sku, m.site, m.lot, m.authenticated, ended.id),
entry AS MATERIALIZED (SELECT p.* FROM (SELECT array_agg(h.sku) AS skus, array_agg(h.site) AS sites, array_agg(h.lot) AS lots,
    array_agg(h.authenticated) AS kinds, array_agg(h.quantity) AS quantities, array_agg(h.id) AS ids FROM held h WHERE h.quantity > 0) a,
  post('` + reason + `', 'reserved', 'sellable', a.skus, a.sites, a.lots, a.kinds, '{}', a.quantities, a.ids, '', '', $2) p),
shelf AS (UPDATE stock_policy p SET on_shelf = p.on_shelf + (SELECT sum(u.n) FROM unnest(g.quantities, g.made) u(n, at) WHERE u.at >= p.set_at)::bigint,
    version = p.version + 1
  FROM (SELECT e.sku, ended.market, array_agg(e.quantity) AS quantities, array_agg(ended.created_at) AS made, max(ended.created_at) AS last
          FROM entry e JOIN ended ON ended.id = e.reference WHERE ended.market <> '' GROUP BY 1, 2) g
 WHERE p.sku = g.sku AND p.market = g.market AND p.on_shelf IS NOT NULL AND p.set_at <= g.last
 RETURNING ` + policyColumns + `)
SELECT ended.reference, ended.created_at, ended.expires_at, e.*, h.* FROM entry e JOIN ended ON ended.id = e.reference
  LEFT JOIN shelf h ON h.p_sku = e.sku AND h.p_market = ended.market
 ORDER BY e.reference, ` + asGoodsGo
}

var release = giveBack(`UPDATE reservation r SET state = 2, ended_at = now(), reason = $3 WHERE r.id = ANY ($1::text[]) AND r.state = 1`, "release")

// lapsed locks what is due, to be ended by expire. Reservations that another
// transaction has at hand are left to it.
const lapsed = `SELECT id FROM reservation WHERE state = 1 AND expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED`

var expire = giveBack(`UPDATE reservation r SET state = 3, ended_at = now(), reason = 'expired' WHERE r.id = ANY ($1::text[]) AND r.state = 1`, "expiry")

// bury leaves a tombstone for a reservation that never was.
const bury = `INSERT INTO reservation (id, reference, state, ended_at, reason) VALUES ($1, '', 2, now(), $2) ON CONFLICT DO NOTHING`

// ended is a reservation that has just ended, what stands where its goods were,
// and the shelves that they were put on again.
type ended struct {
	*warehousev1.Reservation
	levels  []*warehousev1.StockLevel
	shelves shelves
}

// releaseNow locks a reservation and runs release.
func releaseNow(ctx context.Context, tx *store.Tx, reservation, reason string) ([]*ended, error) {
	if _, err := tx.Do(ctx, `SELECT FROM reservation WHERE id = $1 FOR NO KEY UPDATE`, reservation); err != nil {
		return nil, err
	}
	return end(ctx, tx, release, warehousev1.Reservation_STATE_RELEASED, []string{reservation}, actor(ctx), reason)
}

// end runs release or expire.
func end(ctx context.Context, tx *store.Tx, statement string, state warehousev1.Reservation_State, args ...any) ([]*ended, error) {
	var out []*ended
	rows, err := tx.Rows(ctx, statement, args...)
	err = scan(rows, err, func(rows *sql.Rows) error {
		e, l := &ended{Reservation: &warehousev1.Reservation{State: state}}, &warehousev1.StockLevel{}
		var created time.Time
		var expires *time.Time
		var quantity int64
		var p policyAfter
		if err := rows.Scan(slices.Concat([]any{&e.Reference, &created, &expires}, posted(&e.ReservationId, &quantity, l), p.columns())...); err != nil {
			return err
		}
		if n := len(out); n > 0 && out[n-1].GetReservationId() == e.GetReservationId() {
			e = out[n-1]
		} else {
			e.times(created, expires)
			out = append(out, e)
		}
		e.Lines = append(e.Lines, reservedLine(l, quantity))
		e.levels = append(e.levels, l)
		e.shelves.add(p)
		return nil
	})
	return out, err
}

func (e *ended) times(created time.Time, expires *time.Time) {
	e.CreatedAt = timestamppb.New(created)
	if expires != nil {
		e.ExpiresAt = timestamppb.New(*expires)
	}
}

func (e *ended) event() *warehousev1.ReservationReleased {
	return &warehousev1.ReservationReleased{
		ReservationId: e.GetReservationId(), Reference: e.GetReference(), Expired: e.GetState() == warehousev1.Reservation_STATE_EXPIRED,
		Levels: e.levels, Policies: e.shelves,
	}
}

// releaseAttempts bounds how often a release meets a reservation that is
// being made at the same moment.
const releaseAttempts = 3

// ReleaseReservation gives back what a reservation holds. Repeated, it finds
// it released.
func (s *service) ReleaseReservation(ctx context.Context, req *warehousev1.ReleaseReservationRequest) (*warehousev1.ReleaseReservationResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReleaseReservationResponse, error) {
		for range releaseAttempts {
			gone, err := releaseNow(ctx, tx, req.GetReservationId(), req.GetReason())
			if err != nil {
				return nil, err
			}
			if len(gone) > 0 {
				return &warehousev1.ReleaseReservationResponse{Reservation: gone[0].Reservation}, tx.Publish(gone[0].event())
			}
			r, err := load(ctx, tx, req.GetReservationId())
			switch {
			case err != nil:
				return nil, err
			case r != nil && r.GetState() != warehousev1.Reservation_STATE_HELD:
				return released(r), nil
			case r == nil:
				// A reservation that is being made right now makes this wait,
				// and then write nothing.
				done, err := tx.Do(ctx, bury, req.GetReservationId(), req.GetReason())
				if err != nil {
					return nil, err
				}
				if n, err := done.RowsAffected(); err != nil || n == 1 {
					return &warehousev1.ReleaseReservationResponse{}, err
				}
			}
		}
		return nil, fault.New(connect.CodeAborted, "RESERVATION_BUSY", "the reservation is being made at this moment; try again")
	})
}

// released is the answer for a reservation that has ended; of a tombstone
// there is nothing to tell.
func released(r *warehousev1.Reservation) *warehousev1.ReleaseReservationResponse {
	if len(r.GetLines()) == 0 {
		r = nil
	}
	return &warehousev1.ReleaseReservationResponse{Reservation: r}
}

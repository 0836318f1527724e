package main

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// reserve is the whole step in one statement. It locks what may be promised,
// takes it in the order in which goods go, and either makes the reservation
// with its moves or answers what is short. It answers nothing when there is a
// reservation of that id. What the merchant holds back in the market is not
// promised, and no more than it put on its shelf there: the rule of StockPolicy
// in the contract. The shelf always holds what is taken from it; but PostgreSQL
// holds the row's CHECK first against what the row was before the lock was
// waited for, and then makes it anew.
const reserve = `WITH want AS MATERIALIZED (SELECT u.sku, u.quantity, u.authenticated
  FROM unnest($2::text[], $3::bigint[], $7::boolean[]) u(sku, quantity, authenticated)),
fit AS MATERIALIZED (
  SELECT l.*, w.quantity AS wanted, coalesce(sum(l.sellable) OVER (PARTITION BY l.sku ORDER BY l.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS before
    FROM promisable($2, $8) WITH ORDINALITY l(sku, site, lot, authenticated, sellable, on_shelf, safety_stock, n)
    JOIN want w ON w.sku = l.sku WHERE l.sellable > 0 AND l.authenticated >= w.authenticated),
short AS MATERIALIZED (
  SELECT w.sku, greatest(least(coalesce(sum(f.sellable), 0) - coalesce(max(f.safety_stock), 0), max(f.on_shelf)), 0)::bigint AS available
    FROM want w LEFT JOIN fit f ON f.sku = w.sku
   GROUP BY w.sku, w.quantity HAVING least(coalesce(sum(f.sellable), 0) - coalesce(max(f.safety_stock), 0), max(f.on_shelf)) < w.quantity),
made AS (INSERT INTO reservation (id, reference, expires_at, market) SELECT $1, $4, $5::timestamptz, $8 WHERE NOT EXISTS (SELECT FROM short)
  ON CONFLICT DO NOTHING RETURNING id),
entry AS MATERIALIZED (SELECT p.* FROM made,
  (SELECT array_agg(f.sku) AS skus, array_agg(f.site) AS sites, array_agg(f.lot) AS lots, array_agg(f.authenticated) AS kinds,
          array_agg(least(f.sellable, f.wanted - f.before)) AS quantities, array_agg($1::text) AS ids
     FROM (SELECT * FROM fit WHERE before < wanted ORDER BY n) f) a,
  post('reservation', 'sellable', 'reserved', a.skus, a.sites, a.lots, a.kinds, '{}', a.quantities, a.ids, '', '', $6) p),
shelf AS (UPDATE stock_policy p SET on_shelf = greatest(p.on_shelf - f.wanted, 0), version = p.version + 1
  FROM made, (SELECT DISTINCT sku, wanted FROM fit WHERE on_shelf IS NOT NULL) f WHERE p.sku = f.sku AND p.market = $8
  RETURNING ` + policyColumns + `)
(SELECT true, now(), e.*, h.* FROM entry e LEFT JOIN shelf h ON h.p_sku = e.sku ORDER BY ` + asGoodsGo + `)
UNION ALL SELECT false, now(), '', s.available, '', s.sku, '', '', 0, 0, 0, 0, 0, 0, '', '', false, NULL, NULL, NULL, NULL, NULL, NULL FROM short s`

// ReserveStock promises all lines or none.
func (s *service) ReserveStock(ctx context.Context, req *warehousev1.ReserveStockRequest) (*warehousev1.ReserveStockResponse, error) {
	want := make(map[string]int64, len(req.GetLines()))
	strict := make(map[string]bool)
	for _, l := range req.GetLines() {
		if want[l.GetSku()] != 0 {
			return nil, fault.Field("lines", "each sku once")
		}
		want[l.GetSku()], strict[l.GetSku()] = l.GetQuantity(), l.GetAuthenticated()
	}
	lines := ordered(want)
	authenticated := make([]bool, len(lines.skus))
	for i, sku := range lines.skus {
		authenticated[i] = strict[sku]
	}
	market := req.GetMarket()
	if market == "" {
		market = call.From(ctx).Market
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReserveStockResponse, error) {
		r := &warehousev1.Reservation{
			ReservationId: req.GetReservationId(), Reference: req.GetReference(), State: warehousev1.Reservation_STATE_HELD, ExpiresAt: req.GetExpiresAt(),
		}
		short := make(map[string]int64)
		levels := make([]*warehousev1.StockLevel, 0, len(lines.skus))
		var after shelves
		rows, err := tx.Rows(ctx, reserve, r.GetReservationId(), lines.skus, lines.amounts, r.GetReference(), expiry(req), actor(ctx),
			authenticated, market)
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var taken bool
			var at time.Time
			var quantity int64
			var p policyAfter
			l := &warehousev1.StockLevel{}
			if err := rows.Scan(slices.Concat([]any{&taken, &at}, posted(new(string), &quantity, l), p.columns())...); err != nil {
				return err
			}
			after.add(p)
			if !taken {
				short[l.GetSku()] = quantity
				return nil
			}
			r.CreatedAt = timestamppb.New(at)
			r.Lines = append(r.Lines, reservedLine(l, quantity))
			levels = append(levels, l)
			return nil
		}); err != nil {
			return nil, err
		}
		if len(levels) == 0 {
			return reservedBefore(ctx, tx, req, want, strict, short)
		}
		return &warehousev1.ReserveStockResponse{Reservation: r}, tx.Publish(&warehousev1.StockReserved{
			ReservationId: r.GetReservationId(), Reference: r.GetReference(), Lines: r.GetLines(), Levels: levels, Policies: after,
		})
	})
}

func reservedLine(l *warehousev1.StockLevel, quantity int64) *warehousev1.ReservationLine {
	return &warehousev1.ReservationLine{Sku: l.GetSku(), Site: l.GetSite(), Quantity: quantity, Lot: l.GetLot(), Authenticated: l.GetAuthenticated()}
}

// expiry is when a reservation lapses; nil: never. One that lies in the past
// is made and lapses at the next tick: a late caller finds it gone.
func expiry(req *warehousev1.ReserveStockRequest) *time.Time {
	if req.GetExpiresAt() == nil {
		return nil
	}
	t := req.GetExpiresAt().AsTime()
	return &t
}

// reservedBefore answers a repetition as the first time, and refuses another
// request under the same id, one whose reservation has ended, and one for
// want of goods.
func reservedBefore(ctx context.Context, tx *store.Tx, req *warehousev1.ReserveStockRequest, want map[string]int64, strict map[string]bool, short map[string]int64) (*warehousev1.ReserveStockResponse, error) {
	r, err := load(ctx, tx, req.GetReservationId())
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, outOfStock(short)
	case r.GetState() != warehousev1.Reservation_STATE_HELD:
		return nil, fault.New(connect.CodeFailedPrecondition, "RESERVATION_ENDED", "this reservation was released; make another")
	}
	have, weaker := make(map[string]int64, len(r.GetLines())), false
	for _, l := range r.GetLines() {
		have[l.GetSku()] += l.GetQuantity()
		weaker = weaker || strict[l.GetSku()] && !l.GetAuthenticated()
	}
	if weaker || r.GetReference() != req.GetReference() || !maps.Equal(have, want) {
		return nil, fault.New(connect.CodeAlreadyExists, "RESERVATION_DIFFERS", "this reservation holds other lines; take another id")
	}
	return &warehousev1.ReserveStockResponse{Reservation: r}, nil
}

// GetReservation tells a reservation with the lines it was made with.
func (s *service) GetReservation(ctx context.Context, req *warehousev1.GetReservationRequest) (*warehousev1.GetReservationResponse, error) {
	r, err := load(ctx, s.db, req.GetReservationId())
	switch {
	case err != nil:
		return nil, store.Wrap(err)
	case r == nil:
		return nil, fault.New(connect.CodeNotFound, "RESERVATION_UNKNOWN", "no such reservation")
	}
	return &warehousev1.GetReservationResponse{Reservation: r}, nil
}

// reader is a transaction or the database itself.
type reader interface {
	Row(ctx context.Context, statement string, args ...any) *sql.Row
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// load reads a reservation; nil when there is none.
func load(ctx context.Context, db reader, id string) (*warehousev1.Reservation, error) {
	r := &warehousev1.Reservation{ReservationId: id}
	var state int32
	var created time.Time
	var expires *time.Time
	err := db.Row(ctx, `SELECT reference, state, created_at, expires_at FROM reservation WHERE id = $1`, id).Scan(&r.Reference, &state, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.State, r.CreatedAt = warehousev1.Reservation_State(state), timestamppb.New(created)
	if expires != nil {
		r.ExpiresAt = timestamppb.New(*expires)
	}
	rows, err := db.Rows(ctx, `SELECT sku, site, quantity, lot, authenticated FROM stock_move WHERE reference = $1 AND reason = 'reservation' ORDER BY id`, id)
	return r, scan(rows, err, func(rows *sql.Rows) error {
		l := &warehousev1.ReservationLine{}
		r.Lines = append(r.Lines, l)
		return rows.Scan(&l.Sku, &l.Site, &l.Quantity, &l.Lot, &l.Authenticated)
	})
}

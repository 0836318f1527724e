package main

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/store"
)

func TestAPartOfAReservationIsGivenBackOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "main", map[string]int64{"sku_a": 10, "sku_b": 3})
	reservation := id.New("rsv")
	_, err := h.orders.ReserveStock(t.Context(), &warehousev1.ReserveStockRequest{
		ReservationId: reservation, Reference: "ord_1", Market: "GB",
		Lines: []*warehousev1.ReservationLine{{Sku: "sku_a", Quantity: 6}, {Sku: "sku_b", Quantity: 3}},
	})
	require.NoError(t, err)
	steps := warehousev1connect.NewReservationStepServiceClient(h.Client(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "order"}, "GB")))
	reduce := func(reduction, reservation string, n int64) error {
		_, err := steps.ReduceReservation(t.Context(), &warehousev1.ReduceReservationRequest{
			ReductionId: reduction, ReservationId: reservation, Lines: []*warehousev1.ReductionLine{{Sku: "sku_a", Quantity: n}},
		})
		return err
	}
	first := id.New("rdc")
	for range 2 {
		require.NoError(t, reduce(first, reservation, 4))
		require.EqualValues(t, 8, h.level(t, "sku_a", "main").GetSellable())
		require.EqualValues(t, 2, h.level(t, "sku_a", "main").GetReserved())
	}
	refused := func(code connect.Code, reason string, err error) {
		t.Helper()
		require.Equal(t, code, connect.CodeOf(err))
		require.Equal(t, reason, fault.Reason(host.Relay(err)))
	}
	refused(connect.CodeFailedPrecondition, "NOT_RESERVED", reduce(id.New("rdc"), reservation, 3))
	refused(connect.CodeFailedPrecondition, "NOT_RESERVED", reduce(id.New("rdc"), id.New("rsv"), 1))
	refused(connect.CodeAlreadyExists, "REDUCTION_DIFFERS", reduce(first, id.New("rsv"), 1))

	_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: reservation})
	require.NoError(t, err)
	require.EqualValues(t, 10, h.level(t, "sku_a", "main").GetSellable(), "the rest goes back with the release, not all of it again")
	require.EqualValues(t, 3, h.level(t, "sku_b", "main").GetSellable())
	refused(connect.CodeFailedPrecondition, "NOT_RESERVED", reduce(id.New("rdc"), reservation, 1))
	h.consistent(t)
}

// Who releases a reservation while a part of it is being given back waits, and
// gives back what is left: not what was there before, which others hold now.
func TestAReleaseSeesWhatWasGivenBackWhileItWaited(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "main", map[string]int64{"sku_a": 10})
	mine, others := reservationOf(line("sku_a", 3)), reservationOf(line("sku_a", 5))
	for _, req := range []*warehousev1.ReserveStockRequest{mine, others} {
		_, err := h.orders.ReserveStock(t.Context(), req)
		require.NoError(t, err)
	}
	released := make(chan error, 1)
	require.NoError(t, h.DB.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if _, err := tx.Do(ctx, `SELECT FROM reservation WHERE id = $1 FOR NO KEY UPDATE`, mine.GetReservationId()); err != nil {
			return err
		}
		go func() {
			_, err := h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: mine.GetReservationId()})
			released <- err
		}()
		h.somebodyWaits(t)
		_, err := post(ctx, tx, way{reason: "release", from: "reserved", to: "sellable"},
			goods{key: key{sku: "sku_a", site: "main"}, quantity: 2, reference: mine.GetReservationId()})
		return err
	}))
	require.NoError(t, <-released)
	require.EqualValues(t, 5, h.level(t, "sku_a", "main").GetReserved(), "the others' are theirs")
	require.EqualValues(t, 5, h.level(t, "sku_a", "main").GetSellable())
	h.consistent(t)
}

// somebodyWaits returns when somebody waits for a lock in the database.
func (h *house) somebodyWaits(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waits bool
		err := h.Admin.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	}, time.Minute, 5*time.Millisecond)
}

// The lock of a sku covers balances that are being made: who came in between
// would lock some of them before the others, and out of order.
func TestTheFirstGoodsOfASkuComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	h := open(t)
	second := make(chan error, 1)
	require.NoError(t, h.DB.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if _, err := post(ctx, tx, way{reason: "receipt", from: "external", to: "sellable"},
			goods{key: key{sku: "sku_a", site: "main"}, quantity: 2, reference: "mrc_one/grn_1"}); err != nil {
			return err
		}
		go func() {
			_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: id.New("grn"), Site: "east", Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 1}}})
			second <- err
		}()
		h.somebodyWaits(t)
		return nil
	}))
	require.NoError(t, <-second)
	require.EqualValues(t, 2, h.level(t, "sku_a", "main").GetSellable())
	require.EqualValues(t, 1, h.level(t, "sku_a", "east").GetSellable())
	h.consistent(t)
}

package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
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

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// What a sale, its undoing, an admission and a put-away cost of the database,
// with their BEGIN and COMMIT: however many lines or serials.
func TestEachStepCostsExactlyItsStatements(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 100, "sku_b": 100, "sku_c": 100})
	h.LogStatements(t)
	for range 10 {
		_, _ = h.orders.GetReservation(t.Context(), &warehousev1.GetReservationRequest{ReservationId: id.New("rsv")})
	}
	reserve := reservationOf(line("sku_a", 1), line("sku_b", 2), line("sku_c", 3))
	units := []string{"unt_1", "unt_2", "unt_3"}
	caseID := id.New("cas")
	h.pass(t, caseID, "sku_a", "", 0, units...)
	goods := h.goods()
	away := h.desk(worker("acc_1")).purchasing
	for _, c := range []struct {
		name string
		want int
		do   func() error
	}{
		{"a reservation: the promise, its event", 4, func() error { _, err := h.orders.ReserveStock(t.Context(), reserve); return err }},
		{"a release: its lock, the end, its event", 5, func() error {
			_, err := h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: reserve.GetReservationId()})
			return err
		}},
		{"an admission: its number, where the goods stand, the move, its event", 6, func() error {
			_, err := goods.AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: "sku_a", Quantity: 3, UnitIds: units})
			return err
		}},
		{"a put-away: its number, the move, the shelf, its event", 6, func() error {
			_, err := away.PutAway(t.Context(), &warehousev1.PutAwayRequest{PutAwayId: "1", Lines: []*warehousev1.PutAwayLine{
				{Sku: "sku_a", Authenticated: true, Quantity: 3, UnitIds: units, Location: "A-1"},
			}})
			return err
		}},
	} {
		got := h.Statements(t, func() { require.NoError(t, c.do(), c.name) })
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

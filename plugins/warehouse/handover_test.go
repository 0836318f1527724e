package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

func TestALorryTakesItsOwnParcelsOnce(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 1))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	d.pack(t, f)
	sscc := d.ssccs(t, f)
	hand := func(manifest, carrier string, ssccs ...string) error {
		_, err := d.floor.HandOver(t.Context(), &warehousev1.HandOverRequest{ManifestId: manifest, CarrierInstance: carrier, Ssccs: ssccs})
		return err
	}
	refused(t, connect.CodeFailedPrecondition, "FULFILMENT_STATE", hand("m1", "post", sscc...))
	d.assign(t, f)
	refused(t, connect.CodeFailedPrecondition, "OTHER_CARRIER", hand("m1", "express", sscc...))
	refused(t, connect.CodeNotFound, "PARCEL_UNKNOWN", hand("m1", "post", sscc[0], "106141411234567897"))
	require.NoError(t, hand("m1", "post", sscc...))
	refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", hand("m2", "post", sscc...))
}

func TestGoodsThatComeBackByTheCarrierStandInQuarantine(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	back := d.gone(t, "ord_1", line("sku_a", 2))
	for range 2 {
		d.tell(t, back, logisticsv1.Status_STATUS_RETURNED)
		require.Equal(t, map[string]int64{"quarantine": 2, "sellable": 7}, d.units(t))
	}
	f := d.gone(t, "ord_2", line("sku_a", 3))
	d.tell(t, f, logisticsv1.Status_STATUS_LOST)
	d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	require.Equal(t, map[string]int64{"quarantine": 2, "sellable": 4}, d.units(t))
}

package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// How seven pieces of a kilogram and two of 400 grams go into a site's boxes,
// under what a carrier takes.
func TestCartonsKeepTheCarriersLimits(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	_, err := d.floor.PutBoxes(t.Context(), &warehousev1.PutBoxesRequest{Boxes: []*warehousev1.Box{
		{Name: "s", LengthMm: 300, WidthMm: 200, HeightMm: 100, TareGrams: 100, MaxWeightGrams: 3000},    // length and girth: 900
		{Name: "l", LengthMm: 1200, WidthMm: 400, HeightMm: 400, TareGrams: 500, MaxWeightGrams: 20_000}, // 2800
	}})
	require.NoError(t, err)
	d.stock(t, "", map[string]int64{"sku_a": 7, "sku_b": 2})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 7), line("sku_b", 2))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	for name, c := range map[string]struct {
		limits *warehousev1.ParcelLimits
		boxes  string
		grams  []int32
		reason string
	}{
		"none":               {nil, "l", []int32{8300}, ""},
		"5 kg a parcel":      {&warehousev1.ParcelLimits{MaxWeightGrams: 5000}, "ll", []int32{4900, 3900}, ""},
		"3 kg a parcel":      {&warehousev1.ParcelLimits{MaxWeightGrams: 3000}, "ssss", []int32{2900, 2100, 2100, 1100}, ""},
		"a metre long":       {&warehousev1.ParcelLimits{MaxLengthMm: 1000}, "ssss", []int32{2900, 2100, 2100, 1100}, ""},
		"as long as it is":   {&warehousev1.ParcelLimits{MaxLengthMm: 1200}, "l", []int32{8300}, ""},
		"2 m around":         {&warehousev1.ParcelLimits{MaxGirthMm: 2000}, "ssss", []int32{2900, 2100, 2100, 1100}, ""},
		"all at once":        {&warehousev1.ParcelLimits{MaxWeightGrams: 2000, MaxLengthMm: 1000, MaxGirthMm: 900}, "sssssss", []int32{1900, 1100, 1100, 1100, 1100, 1100, 1100}, ""},
		"no box is so small": {&warehousev1.ParcelLimits{MaxLengthMm: 200}, "", nil, "NO_BOX"},
		"no piece so light":  {&warehousev1.ParcelLimits{MaxWeightGrams: 1000}, "", nil, "TOO_HEAVY"},
	} {
		res, err := d.floor.ProposeParcels(t.Context(), &warehousev1.ProposeParcelsRequest{FulfilmentId: f, Limits: c.limits})
		if c.reason != "" {
			refused(t, connect.CodeFailedPrecondition, c.reason, err)
			continue
		}
		require.NoError(t, err, name)
		boxes, pieces := "", int64(0)
		var grams []int32
		for _, p := range res.GetParcels() {
			boxes, grams = boxes+p.GetBox(), append(grams, p.GetWeightGrams())
			require.Positive(t, p.GetLengthMm())
			for _, l := range p.GetLines() {
				pieces += l.GetQuantity()
			}
		}
		require.Equal(t, c.boxes, boxes, name)
		require.Equal(t, c.grams, grams, name)
		require.EqualValues(t, 9, pieces, name)
	}
	pack := func(box string, grams int32, quantity int64) error {
		_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{
			ParcelId: id.New("pcl"), FulfilmentId: f, Box: box, WeightGrams: grams, Lines: []*warehousev1.ParcelLine{{Sku: "sku_a", Quantity: quantity}},
		})
		return err
	}
	refused(t, connect.CodeFailedPrecondition, "BOX_UNKNOWN", pack("xl", 2100, 2))
	refused(t, connect.CodeFailedPrecondition, "BOX_OVERLOADED", pack("s", 3100, 3))
	require.NoError(t, pack("s", 2100, 2))
	require.EqualValues(t, 300, d.get(t, f).GetParcels()[0].GetLengthMm(), "as large as its box")
}

package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func announcement(lines ...*inspectionv1.ConsignmentLine) *inspectionv1.OpenConsignmentRequest {
	return &inspectionv1.OpenConsignmentRequest{ConsignmentId: id.New("csg"), Lines: lines}
}

func TestAConsignmentIsAnnouncedBroughtReceivedAndClosed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	req := announcement(
		&inspectionv1.ConsignmentLine{Sku: watch, Gtin: gtin, Quantity: 2, Serialised: true, Serials: []string{"W1", "W2"}, Category: "watches"},
		&inspectionv1.ConsignmentLine{Sku: serum, Quantity: 10, Lot: "L1", ExpiresOn: "2030-01-31"})
	for range 2 { // the same announcement is one
		res, err := h.merchant.OpenConsignment(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, announced, res.GetConsignment().GetState())
	}
	_, err := h.other.GetConsignment(t.Context(), &inspectionv1.GetConsignmentRequest{ConsignmentId: req.GetConsignmentId()})
	refused(t, connect.CodeNotFound, "CONSIGNMENT_UNKNOWN", err)
	moved := &logisticsv1.ShipmentMoved{
		ShipmentId: "shp_1", Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, Reference: req.GetConsignmentId(), MerchantId: "mrc_one",
		Status: logisticsv1.Status_STATUS_DELIVERED,
	}
	require.NoError(t, h.Deliver(t.Context(), "logistics", moved))
	got, err := h.merchant.GetConsignment(t.Context(), &inspectionv1.GetConsignmentRequest{ConsignmentId: req.GetConsignmentId()})
	require.NoError(t, err)
	require.Equal(t, arrived, got.GetConsignment().GetState())
	require.Equal(t, "shp_1", got.GetConsignment().GetShipmentId())

	// One watch more than announced, and a serum too few.
	count := &inspectionv1.ReceiveConsignmentRequest{ConsignmentId: req.GetConsignmentId(), Lines: []*inspectionv1.ConsignmentLine{
		{Sku: watch, Quantity: 3, Serialised: true, Serials: []string{"W1", "W2"}}, {Sku: serum, Quantity: 9},
	}}
	res, err := h.ann.ReceiveConsignment(t.Context(), count)
	require.NoError(t, err)
	require.Equal(t, received, res.GetConsignment().GetState())
	require.Len(t, res.GetUnits(), 3)
	require.Len(t, res.GetConsignment().GetCaseIds(), 4, "a case for each unit, and one for the serum")
	require.EqualValues(t, 9, res.GetConsignment().GetReceived()[1].GetQuantity())
	for _, u := range res.GetUnits() {
		require.Equal(t, gtin, u.GetGtin(), "the announcement's")
		require.Equal(t, "inspection/main", u.GetHolder())
		require.Contains(t, u.GetDigitalLink(), "/01/"+gtin+"/21/")
	}
	again, err := h.bob.ReceiveConsignment(t.Context(), count)
	require.NoError(t, err)
	require.Equal(t, res.GetConsignment().GetCaseIds(), again.GetConsignment().GetCaseIds(), "what was received is not received twice")

	for _, c := range res.GetConsignment().GetCaseIds() {
		require.Equal(t, closed, h.find(t, c, genuine).GetState())
	}
	got, err = h.merchant.GetConsignment(t.Context(), &inspectionv1.GetConsignmentRequest{ConsignmentId: req.GetConsignmentId()})
	require.NoError(t, err)
	require.Equal(t, ended, got.GetConsignment().GetState())
	require.Len(t, h.admitted, 4)
	require.Len(t, of[*inspectionv1.GoodsPassed](t, h), 4)
	require.Len(t, of[*inspectionv1.UnitCommissioned](t, h), 3)
}

func TestAPassNamesCaseSkuLotUnitAndQuantity(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.consign(t).GetConsignment().GetCaseIds()[0]
	h.find(t, c, genuine)
	require.Equal(t, c+"/"+serum+"/L%2F1//10", of[*inspectionv1.GoodsPassed](t, h)[0].GetPassage())
	u := h.shelve(t, "W1")
	require.Equal(t, u.GetCaseId()+"/"+watch+"//"+u.GetUnitId()+"/1", of[*inspectionv1.GoodsPassed](t, h)[1].GetPassage())
}

func TestAnnouncementsThatCannotBe(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for name, lines := range map[string][]*inspectionv1.ConsignmentLine{
		"nothing":             {{Sku: watch}},
		"more serials":        {{Sku: watch, Quantity: 1, Serialised: true, Serials: []string{"A", "B"}}},
		"serials of no units": {{Sku: watch, Quantity: 1, Serials: []string{"A"}}},
		"a wrong check digit": {{Sku: watch, Quantity: 1, Gtin: "4006381333932"}},
		"no date":             {{Sku: watch, Quantity: 1, ExpiresOn: "2030-02-31"}},
		"a serial of no GS1":  {{Sku: watch, Quantity: 1, Serialised: true, Serials: []string{"A#"}}},
		"too many pieces":     {{Sku: watch, Quantity: 100, Serialised: true}, {Sku: "b", Quantity: 51, Serialised: true}},
	} {
		_, err := h.merchant.OpenConsignment(t.Context(), announcement(lines...))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	req := announcement(&inspectionv1.ConsignmentLine{Sku: watch, Quantity: 1})
	_, err := h.merchant.OpenConsignment(t.Context(), req)
	require.NoError(t, err)
	req.Lines[0].Quantity = 2
	_, err = h.merchant.OpenConsignment(t.Context(), req)
	refused(t, connect.CodeAlreadyExists, "CONSIGNMENT_DIFFERS", err)
	_, err = h.other.OpenConsignment(t.Context(), req)
	refused(t, connect.CodeAlreadyExists, "CONSIGNMENT_DIFFERS", err)
}

func TestConsignmentsAreListedNewestFirstAndEachOnce(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var want []string
	for range 5 {
		req := announcement(&inspectionv1.ConsignmentLine{Sku: watch, Quantity: 1})
		_, err := h.merchant.OpenConsignment(t.Context(), req)
		require.NoError(t, err)
		want = append([]string{req.GetConsignmentId()}, want...)
	}
	var got []string
	list := &inspectionv1.ListConsignmentsRequest{PageSize: 2}
	for {
		res, err := h.merchant.ListConsignments(t.Context(), list)
		require.NoError(t, err)
		for _, g := range res.GetConsignments() {
			got = append(got, g.GetConsignmentId())
		}
		if list.PageToken = res.GetNextPageToken(); list.PageToken == "" {
			break
		}
	}
	require.Equal(t, want, got)
	none, err := h.other.ListConsignments(t.Context(), &inspectionv1.ListConsignmentsRequest{})
	require.NoError(t, err)
	require.Empty(t, none.GetConsignments())
}

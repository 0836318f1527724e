package main

import (
	"slices"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func commission(serials ...string) *inspectionv1.CommissionUnitsRequest {
	req := &inspectionv1.CommissionUnitsRequest{Reference: "doc-1", Sku: watch, MerchantId: "mrc_one", Gtin: "4006381333931"}
	for _, s := range serials {
		req.Units = append(req.Units, &inspectionv1.NewUnit{UnitId: id.New("unt"), Serial: s})
	}
	return req
}

func TestUnitsGetAnIdentityOnce(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	req := commission("A1", "")
	first, err := h.ann.CommissionUnits(t.Context(), req)
	require.NoError(t, err)
	again, err := h.ann.CommissionUnits(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, first.GetUnits()[1].GetSerial(), again.GetUnits()[1].GetSerial(), "the platform's serial follows from the id")
	require.Len(t, first.GetUnits()[1].GetSerial(), 20)
	require.Equal(t, gtin, first.GetUnits()[0].GetGtin())
	require.Len(t, of[*inspectionv1.UnitCommissioned](t, h), 2)

	_, err = h.ann.CommissionUnits(t.Context(), commission("A1"))
	refused(t, connect.CodeAlreadyExists, "SERIAL_EXISTS", err)
	req.Sku = "another"
	_, err = h.ann.CommissionUnits(t.Context(), req)
	refused(t, connect.CodeAlreadyExists, "SERIAL_EXISTS", err)
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h), "a unit that is here is no clone of itself")
	for _, bad := range []*inspectionv1.CommissionUnitsRequest{commission("B", "B"), commission("B^")} {
		_, err = h.ann.CommissionUnits(t.Context(), bad)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
}

func TestAUnitIsFollowedToItsBuyerAndBack(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1")
	require.Equal(t, "warehouse/main", u.GetHolder())
	require.Equal(t, genuine, u.GetVerdict())
	h.sell(t, "ful_1", u.GetUnitId())
	require.Equal(t, consumer, h.getUnit(t, u.GetUnitId()).GetHolder())
	require.Equal(t, sold, h.getUnit(t, u.GetUnitId()).GetDisposition())

	// A normal return is no sighting, however often it is told.
	back := &warehousev1.ReturnReceived{ReturnId: "ret_1", Reference: "ord_1", MerchantId: "mrc_one", Lines: []*warehousev1.ReturnLine{
		{Sku: watch, Quantity: 1, UnitIds: []string{u.GetUnitId()}},
	}}
	require.NoError(t, h.Deliver(t.Context(), "warehouse", back, back))
	require.Equal(t, "returned", h.getUnit(t, u.GetUnitId()).GetDisposition())
	c := id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "warehouse", &warehousev1.InspectionRequested{
		CaseId: c, MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{u.GetUnitId()}, Site: "main", Reference: "ret_1", Reason: "RETURN_AS_NEW", Market: "GB",
	}))
	require.Equal(t, "watches/gold", h.getCase(t, c).GetCategory(), "the sku's")
	require.Equal(t, closed, h.find(t, c, genuine).GetState())
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h))
	require.Equal(t, warehousev1.Disposition_DISPOSITION_INSPECTING, h.admitted[1].GetFrom())
	require.Equal(t, "ret_1", h.admitted[1].GetReference())

	res, err := h.merchant.GetUnit(t.Context(), &inspectionv1.GetUnitRequest{DigitalLink: "https://any.example/x/01/" + gtin + "/21/W1"})
	require.NoError(t, err)
	var way []string
	for _, st := range res.GetHistory() {
		way = append(way, st.GetBizStep()+" "+st.GetDisposition()+" "+st.GetHolder())
	}
	require.Equal(t, []string{
		"commissioning active inspection/main", "receiving in_progress inspection/main", "inspecting conformant inspection/main",
		"storing sellable_not_accessible warehouse/main", "shipping in_transit carrier/shp_1", "retail_selling retail_sold consumer",
		"receiving returned warehouse/main", "inspecting unknown warehouse/main", "inspecting conformant warehouse/main",
		"storing sellable_not_accessible warehouse/main",
	}, way)
	require.Len(t, res.GetChecks(), 2)
	_, err = h.other.GetUnit(t.Context(), &inspectionv1.GetUnitRequest{UnitId: u.GetUnitId()})
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
}

func TestAReturnThatIsHeardBeforeTheDeliveryStands(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetUnitId()
	require.NoError(t, h.Deliver(t.Context(), "warehouse",
		&warehousev1.FulfilmentHandedOver{FulfilmentId: "ful_1", Reference: "ord_1", ShipmentId: "shp_1", UnitIds: []string{u}},
		&warehousev1.InspectionRequested{
			CaseId: id.New("cas"), MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{u}, Site: "north", Reference: "ret_1", Reason: "RETURN_OPENED",
		},
		&warehousev1.ReturnReceived{ReturnId: "ret_1", Lines: []*warehousev1.ReturnLine{{Sku: watch, Quantity: 1, UnitIds: []string{u}}}},
		&warehousev1.FulfilmentDelivered{FulfilmentId: "ful_1", Reference: "ord_1", UnitIds: []string{u}}))
	require.Equal(t, "warehouse/north", h.getUnit(t, u).GetHolder())
	require.Equal(t, "unknown", h.getUnit(t, u).GetDisposition())
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h))
}

func TestASerialThatIsSeenWhereItCannotBeIsRaised(t *testing.T) {
	t.Parallel()
	handed := func(t *testing.T, h *house, u string) error {
		return h.Deliver(t.Context(), "warehouse", &warehousev1.FulfilmentHandedOver{FulfilmentId: "ful_9", Reference: "ord_9", ShipmentId: "shp_9", UnitIds: []string{u}})
	}
	move := func(t *testing.T, h *house, u string) error {
		_, err := h.ann.MoveCustody(t.Context(), &inspectionv1.MoveCustodyRequest{
			Document: "doc-9", UnitIds: []string{u}, Holder: "warehouse/main", BizStep: "receiving", Disposition: "in_progress",
		})
		return err
	}
	recommission := func(t *testing.T, h *house, _ string) error {
		_, err := h.ann.CommissionUnits(t.Context(), commission("W1"))
		return err
	}
	again := func(t *testing.T, h *house, _ string) error { h.consign(t, "W1"); return nil }
	twice := func(t *testing.T, h *house, _ string) error {
		lines := []*inspectionv1.ConsignmentLine{{Sku: watch, Gtin: gtin, Quantity: 1, Serialised: true, Serials: []string{"N1"}}}
		lines = append(lines, lines[0])
		req := announcement(lines...)
		if _, err := h.merchant.OpenConsignment(t.Context(), req); err != nil {
			return err
		}
		_, err := h.ann.ReceiveConsignment(t.Context(), &inspectionv1.ReceiveConsignmentRequest{ConsignmentId: req.GetConsignmentId(), Lines: lines})
		return err
	}
	returned := func(t *testing.T, h *house, u string) error {
		return h.Deliver(t.Context(), "warehouse", &warehousev1.ReturnReceived{ReturnId: "ret_9", Lines: []*warehousev1.ReturnLine{{Sku: watch, Quantity: 1, UnitIds: []string{u}}}})
	}
	// A return of another order than ord_1, as reception tells it: what came, and
	// that the serial is not of that order. Either may be heard first.
	came := &warehousev1.ReturnReceived{ReturnId: "ret_9", Reference: "ord_9", Lines: []*warehousev1.ReturnLine{{Sku: watch, Quantity: 1}}}
	other := func(first bool) func(t *testing.T, h *house, u string) error {
		return func(t *testing.T, h *house, u string) error {
			back := proto.CloneOf(came)
			back.Lines[0].UnitIds = []string{u}
			all := []proto.Message{back, &warehousev1.InspectionRequested{
				CaseId: id.New("cas"), MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{u}, Site: "main", Reference: "ret_9",
				Reason: "RETURN_WRONG_SERIAL", Market: "GB",
			}}
			if first {
				slices.Reverse(all)
			}
			return h.Deliver(t.Context(), "warehouse", append(all, all...)...)
		}
	}
	kill := func(t *testing.T, h *house, u string) {
		c := id.New("cas")
		_, err := h.eve.OpenCase(t.Context(), &inspectionv1.OpenCaseRequest{
			CaseId: c, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 1, UnitIds: []string{u}, Reference: "count-1",
		})
		require.NoError(t, err)
		h.find(t, c, counterfeit)
		h.destroyCase(t, c)
	}
	sell := func(t *testing.T, h *house, u string) { h.sell(t, "ful_1", u) }
	for name, x := range map[string]struct {
		before func(t *testing.T, h *house, u string)
		seen   func(t *testing.T, h *house, u string) error
		reason string // of the event; empty: no sighting
		code   connect.Code
	}{
		"sold, in a consignment":             {sell, again, "SOLD", 0},
		"destroyed, in a consignment":        {kill, again, "DESTROYED", 0},
		"on the shelf, in a consignment":     {nil, again, "ELSEWHERE", 0},
		"the same twice in a consignment":    {nil, twice, "ELSEWHERE", 0},
		"sold, commissioned":                 {sell, recommission, "SOLD", connect.CodeFailedPrecondition},
		"destroyed, commissioned":            {kill, recommission, "DESTROYED", connect.CodeFailedPrecondition},
		"on the shelf, commissioned":         {nil, recommission, "", connect.CodeAlreadyExists},
		"sold, handed over by somebody":      {sell, move, "SOLD", connect.CodeFailedPrecondition},
		"destroyed, handed over by somebody": {kill, move, "DESTROYED", connect.CodeFailedPrecondition},
		"sold, sent to a buyer":              {sell, handed, "SOLD", 0},
		"destroyed, sent to a buyer":         {kill, handed, "DESTROYED", 0},
		"sold, returned":                     {sell, returned, "", 0},
		"destroyed, returned":                {kill, returned, "DESTROYED", 0},
		"on the shelf, returned":             {nil, returned, "ELSEWHERE", 0},
		"sold, returned for another order":   {sell, other(false), "OTHER_ORDER", 0},
		"the same, heard the other way":      {sell, other(true), "OTHER_ORDER", 0},
		"destroyed, for another order":       {kill, other(false), "DESTROYED", 0},
		"never sold, for any order":          {nil, other(false), "ELSEWHERE", 0},
		"never sold, heard the other way":    {nil, other(true), "ELSEWHERE", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			u := h.shelve(t, "W1").GetUnitId()
			if x.before != nil {
				x.before(t, h, u)
			}
			before := h.getUnit(t, u)
			err := x.seen(t, h, u)
			if x.code != 0 {
				require.Equal(t, x.code, connect.CodeOf(err), "%v", err)
			} else {
				require.NoError(t, err)
			}
			raised := of[*inspectionv1.CloneSuspected](t, h)
			if x.reason == "" {
				require.Empty(t, raised)
				return
			}
			require.Len(t, raised, 1)
			require.Equal(t, x.reason, raised[0].GetReason())
			after := h.getUnit(t, raised[0].GetUnitId())
			require.Empty(t, after.GetCertificateId())
			if raised[0].GetUnitId() == u && x.reason != "OTHER_ORDER" {
				require.Equal(t, before.GetHolder(), after.GetHolder(), "the good itself is where it was")
				require.Equal(t, before.GetDisposition(), after.GetDisposition())
			}
			list, err := h.ann.ListCases(t.Context(), &inspectionv1.ListCasesRequest{})
			require.NoError(t, err)
			var sightings []*inspectionv1.Case
			for _, c := range list.GetCases() {
				if c.GetOrigin() == inspectionv1.Case_ORIGIN_SIGHTING {
					sightings = append(sightings, c)
				}
			}
			require.Len(t, sightings, 1)
			require.Equal(t, []string{raised[0].GetUnitId()}, sightings[0].GetUnitIds())
			p, err := h.as(anybody).GetPassport(t.Context(), &inspectionv1.GetPassportRequest{DigitalLink: after.GetDigitalLink()})
			require.NoError(t, err)
			require.True(t, p.GetPassport().GetCloneSuspected())
		})
	}
}

var anybody = plugintest.As(call.Principal{}, "GB")

func TestAPieceWithAnothersSerialGetsAnIdentityOfItsOwn(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1")
	h.sell(t, "ful_1", u.GetUnitId())
	res := h.consign(t, "W1", "W2")
	require.Len(t, res.GetUnits(), 2)
	for _, piece := range res.GetUnits() {
		c, err := h.ann.ListCases(t.Context(), &inspectionv1.ListCasesRequest{Reference: res.GetConsignment().GetConsignmentId()})
		require.NoError(t, err)
		require.Len(t, c.GetCases(), 3, "two pieces, and the serial")
		if piece.GetSerial() == "W2" {
			continue
		}
		require.Empty(t, piece.GetGtin())
		require.NotEqual(t, u.GetUnitId(), piece.GetUnitId())
		require.Contains(t, piece.GetDigitalLink(), "/unit/"+piece.GetUnitId())
		p, err := h.as(anybody).GetPassport(t.Context(), &inspectionv1.GetPassportRequest{DigitalLink: piece.GetDigitalLink()})
		require.NoError(t, err)
		require.False(t, p.GetPassport().GetCloneSuspected())
	}
	// A person clears the serial that was copied: no goods move.
	list, err := h.ann.ListCases(t.Context(), &inspectionv1.ListCasesRequest{Reference: res.GetConsignment().GetConsignmentId()})
	require.NoError(t, err)
	for _, c := range list.GetCases() {
		if c.GetOrigin() == inspectionv1.Case_ORIGIN_SIGHTING {
			require.Equal(t, closed, h.find(t, c.GetCaseId(), genuine).GetState())
		}
	}
	p, err := h.as(anybody).GetPassport(t.Context(), &inspectionv1.GetPassportRequest{DigitalLink: u.GetDigitalLink()})
	require.NoError(t, err)
	require.False(t, p.GetPassport().GetCloneSuspected())
	require.Equal(t, sold, p.GetPassport().GetDisposition())
	require.Len(t, h.admitted, 1)
}

func TestAUnitThatWentBackToItsMerchantComesAgain(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	first := h.consign(t, "W1")
	c := first.GetConsignment().GetCaseIds()[0]
	h.find(t, c, damaged)
	_, err := h.bob.OrderDisposition(t.Context(), &inspectionv1.OrderDispositionRequest{CaseId: c, Disposition: 1})
	require.NoError(t, err)
	second := h.consign(t, "W1")
	require.Equal(t, first.GetUnits()[0].GetUnitId(), second.GetUnits()[0].GetUnitId())
	require.Equal(t, closed, h.find(t, second.GetConsignment().GetCaseIds()[0], genuine).GetState())
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h))
}

func TestCustodyIsHandedOverByWhoHolds(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.consign(t, "W1").GetUnits()[0].GetUnitId()
	move := func(holder, bizStep, disposition string) error {
		_, err := h.ann.MoveCustody(t.Context(), &inspectionv1.MoveCustodyRequest{
			Document: "doc-1", UnitIds: []string{u}, Holder: holder, BizStep: bizStep, Disposition: disposition,
		})
		return err
	}
	refused(t, connect.CodeFailedPrecondition, "UNDER_INSPECTION", move("warehouse/main", "receiving", "in_progress"))
	for range 2 {
		require.NoError(t, move("inspection/lab", "receiving", "in_progress"), "from bench to bench")
	}
	for _, x := range [][3]string{{"consumer", "retail_selling", "retail_sold"}, {"nobody", "destroying", "destroyed"}, {"nobody", "holding", "damaged"}, {"consumer", "commissioning", "active"}} {
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(move(x[0], x[1], x[2])), "%v", x)
	}
	_, err := h.ann.MoveCustody(t.Context(), &inspectionv1.MoveCustodyRequest{
		Document: "doc-1", UnitIds: []string{id.New("unt")}, Holder: "warehouse/main", BizStep: "receiving", Disposition: "in_progress",
	})
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
	res, err := h.ann.GetUnit(t.Context(), &inspectionv1.GetUnitRequest{UnitId: u})
	require.NoError(t, err)
	require.Len(t, res.GetHistory(), 3, "told twice it happened once")
}

func TestUnitsAreListedByWhatTheyAre(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.shelve(t, "W1")
	res := h.consign(t, "W2", "W3", "W4")
	var got []string
	list := &inspectionv1.ListUnitsRequest{PageSize: 2, Holder: "inspection/main"}
	for {
		page, err := h.merchant.ListUnits(t.Context(), list)
		require.NoError(t, err)
		for _, u := range page.GetUnits() {
			got = append(got, u.GetSerial())
		}
		if list.PageToken = page.GetNextPageToken(); list.PageToken == "" {
			break
		}
	}
	require.ElementsMatch(t, []string{"W2", "W3", "W4"}, got)
	byCase, err := h.merchant.ListUnits(t.Context(), &inspectionv1.ListUnitsRequest{CaseId: res.GetConsignment().GetCaseIds()[0]})
	require.NoError(t, err)
	require.Len(t, byCase.GetUnits(), 1)
	passed, err := h.merchant.ListUnits(t.Context(), &inspectionv1.ListUnitsRequest{Verdict: genuine, Sku: watch})
	require.NoError(t, err)
	require.Len(t, passed.GetUnits(), 1)
	none, err := h.other.ListUnits(t.Context(), &inspectionv1.ListUnitsRequest{})
	require.NoError(t, err)
	require.Empty(t, none.GetUnits())
}

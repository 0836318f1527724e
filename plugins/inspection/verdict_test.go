package main

import (
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestAVerdictIsTwoPersonsWord(t *testing.T) {
	t.Parallel()
	for _, v := range []verdict{genuine, counterfeit} {
		h := open(t, nil)
		c := id.New("cas")
		u := h.shelve(t, "W1")
		_, err := h.eve.OpenCase(t.Context(), &inspectionv1.OpenCaseRequest{
			CaseId: c, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 1, UnitIds: []string{u.GetUnitId()}, Reference: "count-1",
		})
		require.NoError(t, err)
		h.propose(t, c, v)
		confirm := &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: v}
		_, err = h.ann.ConfirmVerdict(t.Context(), confirm)
		refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
		_, err = h.eve.ConfirmVerdict(t.Context(), confirm)
		refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
		_, err = h.plugin.ConfirmVerdict(t.Context(), confirm)
		refused(t, connect.CodePermissionDenied, "NOT_A_PERSON", err)
		_, err = h.bob.ConfirmVerdict(t.Context(), &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: damaged})
		refused(t, connect.CodeFailedPrecondition, "VERDICT_DIFFERS", err)
		for range 2 { // the same word again changes nothing
			_, err = h.bob.ConfirmVerdict(t.Context(), confirm)
			require.NoError(t, err)
		}
		require.Len(t, of[*inspectionv1.VerdictConfirmed](t, h), 2, "the shelf's and this one")
		_, err = h.Admin.Exec(t.Context(), `UPDATE p_inspection.case_file SET confirmed_by = proposed_by WHERE id = $1 AND state < 8`, c)
		if v != genuine {
			require.ErrorContains(t, err, "case_confirmed_by_another", "the database says so too")
		}
	}
}

func TestAVerdictRestsOnChecks(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	propose := func(c string, v verdict) error {
		_, err := h.ann.ProposeVerdict(t.Context(), &inspectionv1.ProposeVerdictRequest{CaseId: c, Verdict: v, Reason: "looked"})
		return err
	}
	c := h.returned(t)
	refused(t, connect.CodeFailedPrecondition, "CHECKS_MISSING", propose(c, genuine))
	h.see(t, c, saysInconclusive)
	refused(t, connect.CodeFailedPrecondition, "CHECKS_MISSING", propose(c, genuine))
	refused(t, connect.CodeFailedPrecondition, "CHECKS_MISSING", propose(c, counterfeit))
	h.asks(t, c)
	refused(t, connect.CodeFailedPrecondition, "CHECKS_PENDING", propose(c, genuine))
	h.see(t, c, saysCounterfeit)
	refused(t, connect.CodeFailedPrecondition, "CHECKS_CONTRADICT", propose(c, genuine))
	require.NoError(t, propose(c, counterfeit), "what is found false needs nobody's answer more")

	// Of one eye the last word counts.
	c = h.returned(t)
	h.see(t, c, saysCounterfeit)
	h.see(t, c, saysGenuine)
	require.NoError(t, propose(c, genuine))

	// Each unit is looked at.
	u, w := h.shelve(t, "W1"), h.shelve(t, "W2")
	c = id.New("cas")
	_, err := h.eve.OpenCase(t.Context(), &inspectionv1.OpenCaseRequest{
		CaseId: c, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 2, UnitIds: []string{u.GetUnitId(), w.GetUnitId()}, Reference: "count-1",
	})
	require.NoError(t, err)
	one := seen(c, saysGenuine)
	one.UnitId = u.GetUnitId()
	_, err = h.ann.RecordCheck(t.Context(), one)
	require.NoError(t, err)
	refused(t, connect.CodeFailedPrecondition, "CHECKS_MISSING", propose(c, genuine))
	one = seen(c, saysGenuine)
	one.UnitId = w.GetUnitId()
	_, err = h.ann.RecordCheck(t.Context(), one)
	require.NoError(t, err)
	require.NoError(t, propose(c, genuine))
}

func TestACheckIsKeptAsItWasMade(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.returned(t)
	req := seen(c, saysGenuine)
	first, err := h.ann.RecordCheck(t.Context(), req)
	require.NoError(t, err)
	k := first.GetCheck()
	require.Equal(t, "acc_ann", k.GetOperator())
	require.Equal(t, []string{blob('1')}, k.GetBlobIds())
	require.Len(t, k.GetInputsSha256(), 64)
	again, err := h.ann.RecordCheck(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, k.GetAt().AsTime(), again.GetCheck().GetAt().AsTime())
	req.Result = saysCounterfeit
	_, err = h.ann.RecordCheck(t.Context(), req)
	refused(t, connect.CodeAlreadyExists, "CHECK_DIFFERS", err)
	for _, sql := range []string{`UPDATE check_made SET result = 2`, `DELETE FROM check_made`, `UPDATE case_entry SET who = 'x'`, `DELETE FROM case_entry`} {
		_, err = h.DB.Do(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

func TestAnAppealReopensACaseOnce(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.consign(t, "W1")
	c := u.GetConsignment().GetCaseIds()[0]
	h.find(t, c, counterfeit)
	d, err := h.orderDestruction(c)
	require.NoError(t, err)
	plea := &inspectionv1.AppealRequest{CaseId: c, Reason: "I have the invoice", BlobIds: []string{blob('c')}}
	_, err = h.other.Appeal(t.Context(), plea)
	refused(t, connect.CodeNotFound, "CASE_UNKNOWN", err)
	for range 2 {
		res, err := h.merchant.Appeal(t.Context(), plea)
		require.NoError(t, err)
		require.Equal(t, checking, res.GetCase().GetState())
		require.True(t, res.GetCase().GetAppealed())
	}
	require.Zero(t, h.getUnit(t, u.GetUnits()[0].GetUnitId()).GetVerdict(), "nothing stands while it is looked at again")
	_, err = h.bob.ConfirmDestruction(t.Context(), done(d.GetDestructionId()))
	refused(t, connect.CodeNotFound, "DESTRUCTION_UNKNOWN", err)
	h.find(t, c, counterfeit)
	plea.Reason = "again"
	_, err = h.merchant.Appeal(t.Context(), plea)
	refused(t, connect.CodeFailedPrecondition, "APPEAL_USED", err)
}

func TestNothingIsDestroyedWhileItCanBeAppealed(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]any{"appeal": "1h"})
	c := h.consign(t, "W1").GetConsignment().GetCaseIds()[0]
	h.find(t, c, counterfeit)
	_, err := h.orderDestruction(c)
	refused(t, connect.CodeFailedPrecondition, "APPEAL_OPEN", err)
	_, err = h.merchant.Appeal(t.Context(), &inspectionv1.AppealRequest{CaseId: c, Reason: "look again"})
	require.NoError(t, err)
	h.find(t, c, counterfeit)
	_, err = h.orderDestruction(c)
	require.NoError(t, err, "the one appeal was heard")
}

func TestWhatBecomesOfGoodsThatDidNotPass(t *testing.T) {
	t.Parallel()
	const toM, toD, toR = inspectionv1.OrderDispositionRequest_DISPOSITION_RETURN_TO_MERCHANT, inspectionv1.OrderDispositionRequest_DISPOSITION_DAMAGED_STOCK,
		inspectionv1.OrderDispositionRequest_DISPOSITION_REPAIR
	for name, x := range map[string]struct {
		stock     bool // in the warehouse, or a consignment
		verdict   verdict
		to        inspectionv1.OrderDispositionRequest_Disposition
		refusal   string
		warehouse warehousev1.Disposition
		holder    string
	}{
		"counterfeits are destroyed only":         {true, counterfeit, toM, "ONLY_DESTRUCTION", 0, ""},
		"what passed is not disposed of":          {true, genuine, toM, "CASE_STATE", 0, ""},
		"wrong items go back":                     {true, wrongItem, toM, "", warehousev1.Disposition_DISPOSITION_EXTERNAL, "merchant/mrc_one"},
		"what is damaged is damaged stock":        {true, damaged, toD, "", warehousev1.Disposition_DISPOSITION_DAMAGED, "warehouse/main"},
		"what is damaged is repaired":             {true, damaged, toR, "", warehousev1.Disposition_DISPOSITION_REPAIR, "warehouse/main"},
		"consignments go back":                    {false, inconclusive, toM, "", 0, "merchant/mrc_one"},
		"consignments are not in the warehouse":   {false, damaged, toD, "NOT_IN_WAREHOUSE", 0, ""},
		"consignments are not repaired":           {false, damaged, toR, "NOT_IN_WAREHOUSE", 0, ""},
		"counterfeit consignments do not go back": {false, counterfeit, toM, "ONLY_DESTRUCTION", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			var c string
			var u *inspectionv1.Unit
			if x.stock {
				u, c = h.shelve(t, "W1"), id.New("cas")
				_, err := h.eve.OpenCase(t.Context(), &inspectionv1.OpenCaseRequest{
					CaseId: c, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 1, UnitIds: []string{u.GetUnitId()}, Reference: "count-1",
				})
				require.NoError(t, err)
			} else {
				res := h.consign(t, "W1")
				u, c = res.GetUnits()[0], res.GetConsignment().GetCaseIds()[0]
			}
			h.find(t, c, x.verdict)
			req := &inspectionv1.OrderDispositionRequest{CaseId: c, Disposition: x.to, Reason: "so"}
			res, err := h.bob.OrderDisposition(t.Context(), req)
			if x.refusal != "" {
				refused(t, connect.CodeFailedPrecondition, x.refusal, err)
				return
			}
			require.NoError(t, err)
			_, err = h.bob.OrderDisposition(t.Context(), req)
			require.NoError(t, err, "said again it is said once")
			require.GreaterOrEqual(t, res.GetCase().GetState(), disposed)
			require.Equal(t, closed, h.getCase(t, c).GetState())
			require.Equal(t, x.holder, h.getUnit(t, u.GetUnitId()).GetHolder())
			if x.warehouse == 0 {
				require.Empty(t, h.refused)
				return
			}
			require.Len(t, h.world.refused, 1)
			require.Equal(t, x.warehouse, h.world.refused[0].GetTo())
			require.Equal(t, []string{u.GetUnitId()}, h.world.refused[0].GetUnitIds())
		})
	}
}

func TestGoodsThatTheWarehouseRefusesAreOrderedAgain(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	res := h.consign(t, "W1")
	c, u := res.GetConsignment().GetCaseIds()[0], res.GetUnits()[0].GetUnitId()
	h.warehouseRefuses(true)
	require.Equal(t, confirmed, h.find(t, c, genuine).GetState(), "the verdict stands")
	require.Equal(t, "inspection/main", h.getUnit(t, u).GetHolder(), "and the goods have not moved")
	h.warehouseRefuses(false)
	_, err := h.eve.ConfirmVerdict(t.Context(), &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: genuine})
	require.NoError(t, err)
	require.Equal(t, closed, h.getCase(t, c).GetState())
	require.Equal(t, "warehouse/main", h.getUnit(t, u).GetHolder())
	require.Len(t, of[*inspectionv1.GoodsPassed](t, h), 1, "they passed once")
}

func TestOfTwoWhoConfirmAtOnceOneDoes(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.returned(t)
	h.propose(t, c, counterfeit)
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, who := range []caller{h.bob, h.eve} {
		wg.Go(func() {
			_, errs[i] = who.ConfirmVerdict(t.Context(), &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: counterfeit})
		})
	}
	wg.Wait()
	require.NotEqual(t, errs[0] == nil, errs[1] == nil, "%v", errs)
	require.Len(t, of[*inspectionv1.VerdictConfirmed](t, h), 1)
}

func TestOfADestructionAndAnAppealAtOnceOneHappens(t *testing.T) {
	t.Parallel()
	for range 5 {
		h := open(t, nil)
		c := h.inState(t, disposed)
		d := h.destructionOf(t, c)
		var wg sync.WaitGroup
		var destroyed, appealed error
		wg.Go(func() { _, destroyed = h.bob.ConfirmDestruction(t.Context(), done(d)) })
		wg.Go(func() {
			_, appealed = h.merchant.Appeal(t.Context(), &inspectionv1.AppealRequest{CaseId: c, Reason: "wait"})
		})
		wg.Wait()
		require.NotEqual(t, destroyed == nil, appealed == nil, "%v, %v", destroyed, appealed)
		require.Equal(t, destroyed == nil, len(of[*inspectionv1.GoodsDestroyed](t, h)) == 1)
	}
}

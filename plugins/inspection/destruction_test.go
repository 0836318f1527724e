package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func returnOf(caseID, unitID string) *warehousev1.InspectionRequested {
	return &warehousev1.InspectionRequested{
		CaseId: caseID, MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{unitID}, Site: "north", Reference: "ret_1", Reason: "RETURN_OPENED", Market: "GB",
	}
}

func TestGoodsAreDestroyedByTwoBeforeAWitness(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	res := h.consign(t, "W1")
	c, u := res.GetConsignment().GetCaseIds()[0], res.GetUnits()[0].GetUnitId()
	h.find(t, c, counterfeit)
	order := &inspectionv1.OrderDestructionRequest{
		DestructionId: id.New("dst"), CaseId: c, Ground: inspectionv1.Ground_GROUND_IP_INFRINGING, Reason: "a fake",
	}
	for range 2 {
		_, err := h.ann.OrderDestruction(t.Context(), order)
		require.NoError(t, err)
	}
	_, err := h.bob.OrderDestruction(t.Context(), order)
	refused(t, connect.CodeAlreadyExists, "DESTRUCTION_DIFFERS", err)
	req := done(order.GetDestructionId())
	_, err = h.ann.ConfirmDestruction(t.Context(), req)
	refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
	for _, witness := range []string{"acc_ann", "acc_bob"} {
		req.Witness = witness
		_, err = h.bob.ConfirmDestruction(t.Context(), req)
		refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
	}
	req.Witness = "acc_wit"
	for range 2 {
		done, err := h.bob.ConfirmDestruction(t.Context(), req)
		require.NoError(t, err)
		d := done.GetDestruction()
		require.Equal(t, inspectionv1.Destruction_STATE_CLOSED, d.GetState(), "a consignment is in no books")
		require.Equal(t, "acc_bob", d.GetConfirmedBy())
		require.EqualValues(t, 120, d.GetWeightGrams())
		require.Len(t, d.GetEvidenceSha256(), 64)
		require.Equal(t, []string{u}, d.GetUnitIds())
	}
	require.Equal(t, closed, h.getCase(t, c).GetState())
	require.Empty(t, h.world.refused)
	require.Equal(t, nobody, h.getUnit(t, u).GetHolder())
	gone := of[*inspectionv1.GoodsDestroyed](t, h)
	require.Len(t, gone, 1)
	require.EqualValues(t, 120, gone[0].GetWeightGrams())

	_, err = h.other.GetDestruction(t.Context(), &inspectionv1.GetDestructionRequest{DestructionId: order.GetDestructionId()})
	refused(t, connect.CodeNotFound, "DESTRUCTION_UNKNOWN", err)
	mine, err := h.merchant.ListDestructions(t.Context(), &inspectionv1.ListDestructionsRequest{})
	require.NoError(t, err)
	require.Len(t, mine.GetDestructions(), 1)
	for _, sql := range []string{
		`UPDATE unit SET disposition = 'sellable_accessible' WHERE disposition = 'destroyed'`, `UPDATE unit SET holder = 'consumer' WHERE disposition = 'destroyed'`,
		`DELETE FROM unit`, `DELETE FROM destruction`, `UPDATE destruction SET witness = 'x'`, `DELETE FROM unit_step`, `UPDATE unit_step SET holder = 'x'`,
		`UPDATE case_file SET state = 3 WHERE state = 8`, `DELETE FROM sighting`,
	} {
		_, err := h.DB.Do(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

func TestTheDatabaseWantsTwoPersonsToo(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.inState(t, disposed)
	_, err := h.DB.Do(t.Context(), `UPDATE destruction SET state = 2, confirmed_by = ordered_by, witness = 'w', weight_grams = 1, blobs = '{b}', evidence_sha256 = 'e',
		confirmed_at = now() WHERE case_id = $1`, c)
	require.ErrorContains(t, err, "destruction_confirmed_by_another")
	_, err = h.DB.Do(t.Context(), `UPDATE destruction SET state = 2, confirmed_by = 'x', witness = 'x', weight_grams = 1, blobs = '{b}', evidence_sha256 = 'e',
		confirmed_at = now() WHERE case_id = $1`, c)
	require.ErrorContains(t, err, "destruction_confirmed_by_another")
}

func TestStockThatWasDestroyedIsWrittenOff(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetUnitId()
	c := id.New("cas")
	h.sell(t, "ful_1", u)
	require.NoError(t, h.Deliver(t.Context(), "warehouse", returnOf(c, u)))
	h.find(t, c, counterfeit)
	d, err := h.orderDestruction(c)
	require.NoError(t, err)
	res, err := h.bob.ConfirmDestruction(t.Context(), done(d.GetDestructionId()))
	require.NoError(t, err)
	require.Equal(t, inspectionv1.Destruction_STATE_CONFIRMED, res.GetDestruction().GetState())
	require.Equal(t, closed, h.getCase(t, c).GetState())
	require.Len(t, h.world.refused, 1)
	require.Equal(t, warehousev1.Disposition_DISPOSITION_DESTROYED, h.world.refused[0].GetTo())
	require.Equal(t, "north", h.world.refused[0].GetSite())
	require.Equal(t, d.GetDestructionId(), h.world.refused[0].GetReference())
	sum, err := h.ann.SumInspection(t.Context(), &inspectionv1.SumInspectionRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, sum.GetDestroyed())
	require.Equal(t, map[string]int64{"closed": 2}, sum.GetCases())
	require.Equal(t, map[string]int64{"genuine": 1, "counterfeit": 1}, sum.GetVerdicts())
	require.Equal(t, map[string]int64{"destroyed": 1}, sum.GetDispositions())
	require.Equal(t, map[string]int64{"nobody": 1}, sum.GetHolders())
}

func TestADestroyedSerialIsNeverFoundGenuine(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	res := h.consign(t, "W1")
	c, u := res.GetConsignment().GetCaseIds()[0], res.GetUnits()[0].GetUnitId()
	h.find(t, c, counterfeit)
	h.destroyCase(t, c)
	c = id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "warehouse", returnOf(c, u)))
	h.propose(t, c, genuine)
	_, err := h.bob.ConfirmVerdict(t.Context(), &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: genuine})
	refused(t, connect.CodeFailedPrecondition, "UNIT_DESTROYED", err)
	_, err = h.bob.RejectVerdict(t.Context(), &inspectionv1.RejectVerdictRequest{CaseId: c, Reason: "that serial is dead"})
	require.NoError(t, err)
	h.see(t, c, saysCounterfeit)
	_, err = h.ann.ProposeVerdict(t.Context(), &inspectionv1.ProposeVerdictRequest{CaseId: c, Verdict: counterfeit, Reason: "a copy"})
	require.NoError(t, err)
	_, err = h.bob.ConfirmVerdict(t.Context(), &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: counterfeit})
	require.NoError(t, err)
	h.destroyCase(t, c)
	require.Equal(t, closed, h.getCase(t, c).GetState())
}

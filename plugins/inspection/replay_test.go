package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
	hcl "github.com/entrepot/entrepot/sdk/manifest"
)

// told is an event, and whom it is told.
type told struct {
	subscription string
	event        proto.Message
}

// books are everything that inspection knows, and how much it has said.
func (h *house) books(t testing.TB) []string {
	t.Helper()
	rows, err := h.Admin.Query(context.Background(), `
		SELECT 'unit ' || (to_jsonb(u) - 'updated_at')::text FROM p_inspection.unit u
		UNION ALL SELECT 'step ' || to_jsonb(x)::text FROM p_inspection.unit_step x
		UNION ALL SELECT 'consignment ' || to_jsonb(x)::text FROM p_inspection.consignment x
		UNION ALL SELECT 'case ' || to_jsonb(x)::text FROM p_inspection.case_file x
		UNION ALL SELECT 'held ' || to_jsonb(x)::text FROM p_inspection.case_unit x
		UNION ALL SELECT 'entry ' || to_jsonb(x)::text FROM p_inspection.case_entry x
		UNION ALL SELECT 'check ' || to_jsonb(x)::text FROM p_inspection.check_made x
		UNION ALL SELECT 'sighting ' || to_jsonb(x)::text FROM p_inspection.sighting x
		UNION ALL SELECT 'destruction ' || to_jsonb(x)::text FROM p_inspection.destruction x
		UNION ALL SELECT concat_ws(' ', 'fate', x.unit, x.fate, x.document) FROM p_inspection.retain x
		UNION ALL SELECT 'certificate ' || to_jsonb(x)::text FROM p_inspection.certificate x
		UNION ALL SELECT concat_ws(' ', 'epcis', x.id, x.hash) FROM p_inspection.epcis_event x
		UNION ALL SELECT 'sale ' || to_jsonb(x)::text FROM p_inspection.sale x
		UNION ALL SELECT 'doubt ' || to_jsonb(x)::text FROM p_inspection.doubt x
		UNION ALL SELECT concat_ws(' ', 'said', topic, count(*)) FROM bus.outbox GROUP BY topic
		ORDER BY 1`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

// No event is needed twice: each handler's events, told again at once or after
// everything else has happened, change nothing and say nothing.
func TestNoEventIsNeededTwice(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var script []told
	// play tells an event, and tells it again.
	play := func(subscription string, e proto.Message) {
		t.Helper()
		require.NoError(t, h.Deliver(t.Context(), subscription, e))
		once := h.books(t)
		require.NoError(t, h.Deliver(t.Context(), subscription, e, e))
		require.Equal(t, once, h.books(t), "%T", e)
		script = append(script, told{subscription, e})
	}
	u := make([]string, 5)
	for i := range u {
		u[i] = h.shelve(t, fmt.Sprint("W", i)).GetUnitId()
	}
	// A consignment is brought.
	csg := &inspectionv1.OpenConsignmentRequest{ConsignmentId: id.New("csg"), Lines: []*inspectionv1.ConsignmentLine{{Sku: serum, Quantity: 1, Category: "care"}}}
	_, err := h.merchant.OpenConsignment(t.Context(), csg)
	require.NoError(t, err)
	play("logistics", &logisticsv1.ShipmentMoved{
		ShipmentId: "shp_in", Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, Reference: csg.GetConsignmentId(), MerchantId: "mrc_one", Status: logisticsv1.Status_STATUS_DELIVERED,
	})
	// Two are sold; one of them comes back, is inspected and goes on sale again;
	// one is lost, one is disposed of when it came back damaged, and one is found
	// false and destroyed.
	for i := range 4 {
		f := fmt.Sprint("ful_", i)
		if i == 1 {
			continue
		}
		play("warehouse", &warehousev1.FulfilmentHandedOver{FulfilmentId: f, Reference: "ord_" + f, MerchantId: "mrc_one", ShipmentId: "shp_1", UnitIds: []string{u[i]}})
		play("warehouse", &warehousev1.FulfilmentDelivered{FulfilmentId: f, Reference: "ord_" + f, MerchantId: "mrc_one", UnitIds: []string{u[i]}})
	}
	play("warehouse", &warehousev1.StockMoved{
		MoveId: "cnt_1", From: warehousev1.Disposition_DISPOSITION_SELLABLE, To: warehousev1.Disposition_DISPOSITION_EXTERNAL, Quantity: 1, UnitIds: u[1:2],
	})
	back := func(ret, unit string) *warehousev1.ReturnReceived {
		return &warehousev1.ReturnReceived{ReturnId: ret, MerchantId: "mrc_one", Lines: []*warehousev1.ReturnLine{{Sku: watch, Quantity: 1, UnitIds: []string{unit}}}}
	}
	ask := func(ret, unit, reason string) string {
		c := id.New("cas")
		play("warehouse", &warehousev1.InspectionRequested{
			CaseId: c, MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{unit}, Site: "main", Reference: ret, Reason: reason, Market: "GB",
		})
		return c
	}
	play("warehouse", back("ret_0", u[0]))
	c := ask("ret_0", u[0], "RETURN_AS_NEW")
	h.asks(t, c)
	var key string
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT key FROM p_inspection.check_made WHERE result = 4`).Scan(&key))
	// Nobody is asked again meanwhile.
	_, err = h.Admin.Exec(t.Context(), `UPDATE p_inspection.check_made SET next_try = now() + interval '1 day' WHERE result = 4`)
	require.NoError(t, err)
	play("authenticators", &providerv1.CheckCompleted{Key: key, Outcome: &providerv1.Outcome{Key: key, Result: providerv1.Result_RESULT_GENUINE, Method: "tag", Reason: "TAG_VERIFIED"}})
	h.find(t, c, genuine)
	play("warehouse", &warehousev1.FulfilmentHandedOver{FulfilmentId: "ful_9", Reference: "ord_9", MerchantId: "mrc_one", ShipmentId: "shp_9", UnitIds: u[:1]})
	play("warehouse", back("ret_2", u[2]))
	play("warehouse", &warehousev1.StockMoved{
		MoveId: "dec_1", From: warehousev1.Disposition_DISPOSITION_DAMAGED, To: warehousev1.Disposition_DISPOSITION_DISPOSED, Quantity: 1, UnitIds: u[2:3], Reference: "ret_2",
	})
	play("warehouse", back("ret_3", u[3]))
	c = ask("ret_3", u[3], "RETURN_SUSPECT")
	h.find(t, c, counterfeit)
	play("aftersale", &aftersalev1.CaseSettled{
		CaseId: "afs_3", OrderId: "ord_ful_3", MerchantId: "mrc_one", State: aftersalev1.Case_STATE_SETTLED, Remedy: aftersalev1.Remedy_REMEDY_REFUND,
		Lines: []*aftersalev1.CaseLine{{Sku: watch, UnitIds: u[3:4]}},
	})
	h.destroyCase(t, c)
	play("warehouse", &warehousev1.DestructionUnmatched{CaseId: c, Sku: watch, Quantity: 1, UnitIds: u[3:4]})
	c = ask("mov_1", u[4], "DOUBTED")
	h.find(t, c, genuine)
	play("schedules", &pluginv1.Tick{Schedule: "inspection/errands"})

	end := h.books(t)
	for _, x := range script {
		require.NoError(t, h.Deliver(t.Context(), x.subscription, x.event))
		require.Equal(t, end, h.books(t), "%T heard again at the end", x.event)
	}
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h))
	// Each handler of the module has had its event.
	handled := make(map[string]bool)
	for _, x := range script {
		handled[string(x.event.ProtoReflect().Descriptor().FullName())] = true
	}
	m, err := hcl.Parse([]byte(manifest), "plugin.hcl")
	require.NoError(t, err)
	for _, sub := range m.GetSubscriptions() {
		for _, topic := range sub.GetTopics() {
			require.True(t, handled[topic], "%s is not told twice here", topic)
		}
	}
}

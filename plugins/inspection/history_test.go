package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// story is a random history of the units of one sku. Everybody may try
// anything at any time; what cannot be is refused, and never breaks.
type story struct {
	*house
	sku   string
	n     int
	sold  map[string]bool
	ended map[string]bool
}

// pick answers one of what a query finds, or something that is not there.
func (s *story) pick(t *rapid.T, query, otherwise string) string {
	rows, err := s.Admin.Query(context.Background(), query, s.sku)
	require.NoError(t, err)
	defer rows.Close()
	var found []string
	for rows.Next() {
		var one string
		require.NoError(t, rows.Scan(&one))
		found = append(found, one)
	}
	if len(found) == 0 {
		return otherwise
	}
	return rapid.SampledFrom(found).Draw(t, "which")
}

func (s *story) unit(t *rapid.T) string {
	return s.pick(t, `SELECT id FROM p_inspection.unit WHERE sku = $1 ORDER BY id`, "unt_none")
}

func (s *story) caseID(t *rapid.T) string {
	return s.pick(t, `SELECT id FROM p_inspection.case_file WHERE sku = $1 AND state < 8 ORDER BY id`, "cas_none")
}

func (s *story) anyCase(t *rapid.T) string {
	return s.pick(t, `SELECT id FROM p_inspection.case_file WHERE sku = $1 ORDER BY id`, "cas_none")
}

func (s *story) who(t *rapid.T) caller {
	return rapid.SampledFrom([]caller{s.ann, s.bob, s.eve}).Draw(t, "who")
}

// takes allows refusals, and nothing that broke.
func takes(t *rapid.T, err error) {
	switch connect.CodeOf(err) {
	case connect.CodeInternal, connect.CodeUnknown:
		require.NoError(t, err)
	}
}

func (s *story) serial(t *rapid.T) string {
	return fmt.Sprintf("%s-%d", s.sku, rapid.IntRange(0, 2).Draw(t, "serial"))
}

func (s *story) actions() map[string]func(*rapid.T) {
	ctx := context.Background()
	verdicts := []verdict{genuine, genuine, genuine, counterfeit, inconclusive, wrongItem, damaged}
	reference := func() string { s.n++; return fmt.Sprintf("%s/%d", s.sku, s.n) }
	return map[string]func(*rapid.T){
		"consign": func(t *rapid.T) {
			lines := []*inspectionv1.ConsignmentLine{{Sku: s.sku, Gtin: gtin, Quantity: 1, Serialised: true, Serials: []string{s.serial(t)}}}
			req := announcement(lines...)
			_, err := s.merchant.OpenConsignment(ctx, req)
			require.NoError(t, err)
			_, err = s.ann.ReceiveConsignment(ctx, &inspectionv1.ReceiveConsignmentRequest{ConsignmentId: req.GetConsignmentId(), Lines: lines})
			takes(t, err)
		},
		"commission": func(t *rapid.T) {
			_, err := s.ann.CommissionUnits(ctx, &inspectionv1.CommissionUnitsRequest{
				Reference: reference(), Sku: s.sku, MerchantId: "mrc_one", Gtin: gtin, Units: []*inspectionv1.NewUnit{{UnitId: id.New("unt"), Serial: s.serial(t)}},
			})
			takes(t, err)
		},
		"find": func(t *rapid.T) {
			c, v := s.caseID(t), rapid.SampledFrom(verdicts).Draw(t, "verdict")
			_, err := s.ann.RecordCheck(ctx, seen(c, says4[v]))
			takes(t, err)
			_, err = s.who(t).ProposeVerdict(ctx, &inspectionv1.ProposeVerdictRequest{CaseId: c, Verdict: v, Reason: "looked"})
			takes(t, err)
			_, err = s.who(t).ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: v})
			takes(t, err)
		},
		"confirm": func(t *rapid.T) {
			_, err := s.who(t).ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{CaseId: s.caseID(t), Verdict: rapid.SampledFrom(verdicts).Draw(t, "verdict")})
			takes(t, err)
		},
		"reject": func(t *rapid.T) {
			_, err := s.who(t).RejectVerdict(ctx, &inspectionv1.RejectVerdictRequest{CaseId: s.caseID(t), Reason: "not sure"})
			takes(t, err)
		},
		"appeal": func(t *rapid.T) {
			_, err := s.merchant.Appeal(ctx, &inspectionv1.AppealRequest{CaseId: s.caseID(t), Reason: "no"})
			takes(t, err)
		},
		"dispose": func(t *rapid.T) {
			_, err := s.who(t).OrderDisposition(ctx, &inspectionv1.OrderDispositionRequest{
				CaseId: s.caseID(t), Disposition: inspectionv1.OrderDispositionRequest_Disposition(rapid.IntRange(1, 3).Draw(t, "to")),
			})
			takes(t, err)
		},
		"destroy": func(t *rapid.T) {
			d, err := s.orderDestruction(s.caseID(t))
			takes(t, err)
			if err == nil {
				_, err = s.who(t).ConfirmDestruction(ctx, done(d.GetDestructionId()))
				takes(t, err)
			}
		},
		"move": func(t *rapid.T) {
			_, err := s.plugin.MoveCustody(ctx, &inspectionv1.MoveCustodyRequest{
				Document: reference(), UnitIds: []string{s.unit(t)}, BizStep: "receiving", Disposition: "in_progress",
				Holder: rapid.SampledFrom([]string{"merchant/mrc_one", "inspection/lab", "warehouse/main", "carrier/x"}).Draw(t, "to"),
			})
			takes(t, err)
		},
		"capture": func(t *rapid.T) {
			e := observed(fmt.Sprintf("https://maker.example/01/%s/21/%s", gtin, s.serial(t)))
			e["eventTime"] = time.Now().UTC().Format(time.RFC3339Nano)
			e["bizLocation"] = object{"id": links + "/place/" + rapid.SampledFrom([]string{"warehouse/north", "merchant/mrc_one", "carrier/x"}).Draw(t, "at")}
			e["disposition"] = rapid.SampledFrom([]string{"in_progress", "in_transit", "stolen"}).Draw(t, "disposition")
			_, err := s.scanner().CaptureEvents(ctx, document(t, e))
			takes(t, err)
		},
		"sell": func(t *rapid.T) {
			u, f := s.unit(t), reference()
			require.NoError(t, s.Deliver(ctx, "warehouse", &warehousev1.FulfilmentHandedOver{FulfilmentId: f, Reference: f, ShipmentId: "shp_1", UnitIds: []string{u}}))
			if rapid.Bool().Draw(t, "delivered") {
				require.NoError(t, s.Deliver(ctx, "warehouse", &warehousev1.FulfilmentDelivered{FulfilmentId: f, Reference: f, UnitIds: []string{u}}))
			}
		},
		"comeBack": func(t *rapid.T) {
			u := s.unit(t)
			require.NoError(t, s.Deliver(ctx, "warehouse", &warehousev1.ReturnReceived{
				ReturnId: reference(), Lines: []*warehousev1.ReturnLine{{Sku: s.sku, Quantity: 1, UnitIds: []string{u}}},
			}))
			delete(s.sold, u)
		},
		"inspect": func(t *rapid.T) {
			u := s.unit(t)
			err := s.Deliver(ctx, "warehouse", &warehousev1.InspectionRequested{
				CaseId: id.New("cas"), MerchantId: "mrc_one", Sku: s.sku, Quantity: 1, UnitIds: []string{u}, Site: "main", Reference: reference(),
				Reason: rapid.SampledFrom([]string{"RETURN_AS_NEW", "DOUBTED"}).Draw(t, "reason"), Market: "GB",
			})
			if err == nil { // a unit that a case has at hand waits until that is closed
				delete(s.sold, u)
			}
		},
		"doubt": func(t *rapid.T) {
			_, err := s.eve.OpenCase(ctx, &inspectionv1.OpenCaseRequest{
				CaseId: id.New("cas"), Origin: inspectionv1.Case_Origin(rapid.IntRange(2, 4).Draw(t, "origin")), Sku: s.sku, Quantity: 1,
				UnitIds: []string{s.unit(t)}, Reference: reference(),
			})
			takes(t, err)
		},
		"stock": func(t *rapid.T) {
			u, e := s.unit(t), &warehousev1.StockMoved{MoveId: reference(), Quantity: 1}
			e.UnitIds = []string{u}
			e.From = rapid.SampledFrom([]warehousev1.Disposition{warehousev1.Disposition_DISPOSITION_SELLABLE, warehousev1.Disposition_DISPOSITION_DAMAGED}).Draw(t, "from")
			e.To = rapid.SampledFrom([]warehousev1.Disposition{warehousev1.Disposition_DISPOSITION_EXTERNAL, warehousev1.Disposition_DISPOSITION_DISPOSED}).Draw(t, "to")
			if e.GetFrom() == warehousev1.Disposition_DISPOSITION_DAMAGED {
				e.Reference = reference()
				delete(s.sold, u)
			}
			require.NoError(t, s.Deliver(ctx, "warehouse", e))
		},
		"settle": func(t *rapid.T) {
			u := s.unit(t)
			order := s.pick(t, `SELECT s.order_id FROM p_inspection.sale s JOIN p_inspection.unit u ON u.id = s.unit WHERE u.sku = $1 ORDER BY 1`, "ord_none")
			require.NoError(t, s.Deliver(ctx, "aftersale", &aftersalev1.CaseSettled{
				CaseId: reference(), OrderId: order, State: aftersalev1.Case_STATE_SETTLED, Remedy: aftersalev1.Remedy_REMEDY_REFUND,
				Lines: []*aftersalev1.CaseLine{{UnitIds: []string{u}}},
			}))
		},
		"release": func(t *rapid.T) {
			_, err := s.who(t).ReleaseSales(ctx, &inspectionv1.ReleaseSalesRequest{CaseId: s.anyCase(t), Reason: "borne by the house"})
			takes(t, err)
		},
		"scan": func(t *rapid.T) {
			u := &inspectionv1.Unit{DigitalLink: "https://id.gs1.org/01/" + gtin + "/21/" + s.serial(t)}
			_, err := s.as(anybody).ScanTag(ctx, scanOf(u, "tap "+reference()))
			takes(t, err)
		},
		"": s.holds,
	}
}

// unlawful are verdicts and destructions by fewer people than it takes, what was
// destroyed without a verdict against it or in spite of an appeal, units that
// several cases have at hand, and steps that no EPCIS event tells alike (S4, S7).
const unlawful = `WITH c AS (SELECT * FROM p_inspection.case_file WHERE sku = $1)
SELECT coalesce(array_agg(what), '{}') FROM (
  SELECT 'one person alone: ' || c.id AS what FROM c WHERE c.state >= 5 AND (c.proposed_by = '' OR c.confirmed_by IN ('', c.proposed_by, c.opened_by))
  UNION ALL SELECT 'destroyed by fewer than three: ' || d.id FROM c JOIN p_inspection.destruction d ON d.case_id = c.id
   WHERE d.state > 1 AND (d.confirmed_by IN ('', d.ordered_by) OR d.witness IN ('', d.ordered_by, d.confirmed_by) OR d.weight_grams <= 0 OR d.evidence_sha256 = '')
  UNION ALL SELECT 'destroyed without a verdict: ' || d.id FROM c JOIN p_inspection.destruction d ON d.case_id = c.id
   WHERE d.state > 1 AND (c.verdict IN (0, 1) OR c.state < 7 OR c.ordered <> 4)
  UNION ALL SELECT 'appealed after it was destroyed: ' || c.id FROM c JOIN p_inspection.case_entry a ON a.case_id = c.id AND a.what = 'appealed'
   JOIN p_inspection.case_entry d ON d.case_id = c.id AND d.what = 'destroyed' AND d.id < a.id
  UNION ALL SELECT 'destroyed between an appeal and the next verdict: ' || c.id FROM c JOIN p_inspection.case_entry d ON d.case_id = c.id AND d.what = 'destroyed'
   JOIN p_inspection.case_entry a ON a.case_id = c.id AND a.what = 'appealed' AND a.id < d.id
   WHERE NOT EXISTS (SELECT FROM p_inspection.case_entry v WHERE v.case_id = c.id AND v.what LIKE 'confirmed %' AND v.id > a.id AND v.id < d.id)
  UNION ALL SELECT 'in two cases at once: ' || x.unit FROM c JOIN p_inspection.case_unit x ON x.case_id = c.id AND x.held GROUP BY x.unit HAVING count(*) > 1
  UNION ALL SELECT 'no event tells it: ' || x.id FROM p_inspection.unit u JOIN p_inspection.unit_step x ON x.unit = u.id
    LEFT JOIN p_inspection.epcis_event e ON e.id = x.event_id AND e.declaration = ''
   WHERE u.sku = $1 AND (e.id IS NULL OR e.own AND (e.biz_step, e.disposition) IS DISTINCT FROM (x.biz_step, x.disposition))) found`

// undecided counts goods that were sold, that a case asks about or has found
// false, and whose sale is not held. A sale has ended when the goods are back on
// a shelf or somebody decided.
const undecided = `SELECT count(*) FROM p_inspection.unit u JOIN p_inspection.sale s ON s.unit = u.id AND NOT s.ended
  JOIN p_inspection.case_unit cu ON cu.unit = u.id JOIN p_inspection.case_file c ON c.id = cu.case_id
 WHERE u.sku = $1 AND (c.state < 5 OR c.id = u.case_id AND c.verdict IN (2, 3, 4))
   AND NOT EXISTS (SELECT FROM p_inspection.doubt d WHERE d.case_id = c.id AND d.unit = u.id AND d.order_id = s.order_id AND d.standing)`

// told requires that who only heard the events knows which sales are held.
func (s *story) told(t *rapid.T) {
	ctx := context.Background()
	held := make(map[string]bool)
	rows, err := s.Admin.Query(ctx, `SELECT topic, payload FROM bus.outbox WHERE topic LIKE '%.Sale%' AND key LIKE $1 || '/%' ORDER BY seq`, s.sku)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var topic string
		var payload []byte
		require.NoError(t, rows.Scan(&topic, &payload))
		e := &inspectionv1.SaleDoubted{} // both have the same first fields
		require.NoError(t, proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(payload, e))
		doubted := strings.HasSuffix(topic, "SaleDoubted")
		doubt := e.GetCaseId() + " " + e.GetUnitId() + " " + e.GetOrderId()
		require.NotEqual(t, doubted, held[doubt], "what is told changes something")
		held[doubt] = doubted
	}
	require.NoError(t, rows.Err())
	var standing []string
	require.NoError(t, s.Admin.QueryRow(ctx, `SELECT coalesce(array_agg(d.case_id || ' ' || d.unit || ' ' || d.order_id), '{}') FROM p_inspection.doubt d
		JOIN p_inspection.unit u ON u.id = d.unit WHERE u.sku = $1 AND d.standing`, s.sku).Scan(&standing))
	var heard []string
	for doubt, yes := range held {
		if yes {
			heard = append(heard, doubt)
		}
	}
	require.ElementsMatch(t, standing, heard)
}

// holds are the invariants: a unit is where its last step left it, in one
// place; who is sold or destroyed stays so; what is certified is genuine; what
// the warehouse took was found genuine.
func (s *story) holds(t *rapid.T) {
	ctx := context.Background()
	var astray int
	require.NoError(t, s.Admin.QueryRow(ctx, `SELECT count(*) FROM p_inspection.unit u WHERE u.sku = $1 AND (u.holder, u.disposition, u.document) IS DISTINCT FROM
		(SELECT (t.holder, t.disposition, t.reference) FROM p_inspection.unit_step t WHERE t.unit = u.id ORDER BY t.id DESC LIMIT 1)`, s.sku).Scan(&astray))
	require.Zero(t, astray, "a unit is not where its history left it")
	require.NoError(t, s.Admin.QueryRow(ctx, `SELECT count(*) FROM p_inspection.unit WHERE sku = $1 AND certificate_id <> '' AND
		(verdict <> 1 OR clone_suspected OR disposition = 'destroyed')`, s.sku).Scan(&astray))
	require.Zero(t, astray, "something else than genuine goods is certified")
	require.NoError(t, s.Admin.QueryRow(ctx, `SELECT count(*) FROM p_inspection.certificate c JOIN p_inspection.unit u ON u.id = c.unit
		WHERE u.sku = $1 AND (c.revoked_at IS NULL) <> (u.certificate_id = c.id)`, s.sku).Scan(&astray))
	require.Zero(t, astray, "a certificate is in force that its unit does not have")
	var wrong []string
	require.NoError(t, s.Admin.QueryRow(ctx, unlawful, s.sku).Scan(&wrong))
	require.Empty(t, wrong)
	require.NoError(t, s.Admin.QueryRow(ctx, undecided, s.sku).Scan(&astray))
	require.Zero(t, astray, "a sale is paid out that a case asks about")
	s.mu.Lock()
	admitted := s.admitted
	s.mu.Unlock()
	for _, a := range admitted {
		if a.GetSku() == s.sku {
			require.Equal(t, genuine, s.getCase(t, a.GetCaseId()).GetVerdict(), "the warehouse took what did not pass")
		}
	}
	rows, err := s.Admin.Query(ctx, `SELECT id, disposition, holder FROM p_inspection.unit WHERE sku = $1`, s.sku)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var u, disposition, holder string
		require.NoError(t, rows.Scan(&u, &disposition, &holder))
		require.True(t, disposition != destroyed || holder == nobody)
		require.True(t, holder != nobody || disposition == destroyed || disposition == missing || disposition == "disposed", disposition)
		require.True(t, !s.ended[u] || disposition == destroyed, "a destroyed unit lives")
		require.True(t, !s.sold[u] || disposition == sold, "a sold unit left its buyer without a return")
		s.ended[u] = disposition == destroyed
		s.sold[u] = disposition == sold
	}
}

func TestWhateverHappensAUnitIsInOnePlace(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.will("sun", tagReader())
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		s := &story{house: h, sku: fmt.Sprintf("s%d", n), sold: map[string]bool{}, ended: map[string]bool{}}
		t.Repeat(s.actions())
		s.told(t)
	})
}

package main

import (
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// deal is one good that was sold, and what is said of that.
type deal struct {
	*house
	t      *testing.T
	serial string
	unit   string
	order  string
}

// deal shelves a good and sells it.
func (h *house) deal(t *testing.T, serial string) *deal {
	t.Helper()
	d := &deal{h, t, serial, h.shelve(t, serial).GetUnitId(), ""}
	d.sellAs("ord_" + serial)
	return d
}

func (d *deal) sellAs(order string) {
	d.order = order
	d.sell(d.t, strings.TrimPrefix(order, "ord_"), d.unit)
}

// words are what was told of the unit's sales, oldest first.
func (d *deal) words() (out []string) {
	for _, e := range d.Published(d.t) {
		switch e := e.(type) {
		case *inspectionv1.SaleDoubted:
			if e.GetUnitId() == d.unit {
				require.Equal(d.t, "mrc_one", e.GetMerchantId())
				out = append(out, "doubted "+e.GetReason()+" "+e.GetOrderId())
			}
		case *inspectionv1.SaleCleared:
			if e.GetUnitId() == d.unit {
				out = append(out, "cleared "+e.GetReason()+" "+e.GetOrderId())
			}
		}
	}
	return out
}

func (d *deal) says(words ...string) {
	d.t.Helper()
	require.Equal(d.t, words, d.words())
}

// sighted has the serial seen where it cannot be, and answers the case.
func (d *deal) sighted() string {
	_, err := d.ann.CommissionUnits(d.t.Context(), commission(d.serial))
	require.Error(d.t, err)
	return d.lastCase()
}

func (d *deal) lastCase() (caseID string) {
	require.NoError(d.t, d.Admin.QueryRow(d.t.Context(), `SELECT c.id FROM p_inspection.case_file c JOIN p_inspection.case_unit u ON u.case_id = c.id
		WHERE u.unit = $1 ORDER BY c.opened_at DESC LIMIT 1`, d.unit).Scan(&caseID))
	return caseID
}

// comesBack returns the good and asks for its inspection.
func (d *deal) comesBack() string {
	c := id.New("cas")
	require.NoError(d.t, d.Deliver(d.t.Context(), "warehouse", returnOf(c, d.unit)))
	return c
}

// asks opens a case by hand.
func (d *deal) asks(origin inspectionv1.Case_Origin) string {
	c := id.New("cas")
	_, err := d.eve.OpenCase(d.t.Context(), &inspectionv1.OpenCaseRequest{CaseId: c, Origin: origin, Sku: watch, Quantity: 1, UnitIds: []string{d.unit}, Reference: "doc-1"})
	require.NoError(d.t, err)
	return c
}

func (d *deal) settled(state aftersalev1.Case_State, remedy aftersalev1.Remedy) {
	require.NoError(d.t, d.Deliver(d.t.Context(), "aftersale", &aftersalev1.CaseSettled{
		CaseId: id.New("afs"), OrderId: d.order, MerchantId: "mrc_one", State: state, Remedy: remedy,
		Lines: []*aftersalev1.CaseLine{{Sku: watch, UnitIds: []string{d.unit}}},
	}))
}

// What was sold and comes into doubt holds the merchant's payout until it is
// known to be genuine, the consumer has its due, or a person decides.
func TestASaleInDoubtIsHeldUntilThatIsDecided(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	order := func(serial string) string { return " ord_" + serial }
	for serial, story := range map[string]func(d *deal, o string){
		"quiet": func(d *deal, _ string) { d.says() },
		"sighted, genuine": func(d *deal, o string) {
			c := d.sighted()
			d.says("doubted SIGHTED" + o)
			require.True(d.t, d.getCase(d.t, c).GetSales()[0].GetHeld())
			d.find(d.t, c, genuine)
			d.says("doubted SIGHTED"+o, "cleared GENUINE"+o)
			require.True(d.t, proto.Equal(&inspectionv1.HeldSale{OrderId: d.order, UnitId: d.unit}, d.getCase(d.t, c).GetSales()[0]))
		},
		"sighted, false": func(d *deal, o string) {
			c := d.sighted()
			release := &inspectionv1.ReleaseSalesRequest{CaseId: c, Reason: "the buyer was paid back"}
			_, err := d.eve.ReleaseSales(d.t.Context(), release)
			refused(d.t, connect.CodeFailedPrecondition, "CASE_STATE", err)
			d.find(d.t, c, counterfeit)
			d.says("doubted SIGHTED" + o)
			_, err = d.bob.ReleaseSales(d.t.Context(), release)
			refused(d.t, connect.CodePermissionDenied, "SAME_PERSON", err)
			for range 2 {
				_, err = d.eve.ReleaseSales(d.t.Context(), release)
				require.NoError(d.t, err)
				d.says("doubted SIGHTED"+o, "cleared RELEASED"+o)
			}
			d.asks(inspectionv1.Case_ORIGIN_SIGHTING)
			d.says("doubted SIGHTED"+o, "cleared RELEASED"+o)
		},
		"inconclusive, then genuine": func(d *deal, o string) {
			c := d.sighted()
			d.find(d.t, c, inconclusive)
			d.says("doubted SIGHTED" + o)
			c = d.asks(inspectionv1.Case_ORIGIN_SIGHTING)
			d.find(d.t, c, genuine)
			d.says("doubted SIGHTED"+o, "doubted SIGHTED"+o, "cleared GENUINE"+o, "cleared GENUINE"+o)
		},
		"asked about by hand": func(d *deal, o string) {
			d.asks(inspectionv1.Case_ORIGIN_SIGHTING)
			d.says("doubted SIGHTED" + o)
		},
		"returned, genuine": func(d *deal, o string) {
			c := d.comesBack()
			d.says("doubted RETURNED" + o)
			d.find(d.t, c, genuine)
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o)
			// On the shelf it is nobody's purchase any more; sold again it is the
			// next one's.
			d.find(d.t, d.asks(inspectionv1.Case_ORIGIN_STOCK), genuine)
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o)
			d.sellAs("ord_next")
			d.sighted()
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o, "doubted SIGHTED ord_next")
		},
		"returned, damaged, appealed": func(d *deal, o string) {
			c := d.comesBack()
			d.find(d.t, c, damaged)
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o)
			_, err := d.merchant.Appeal(d.t.Context(), &inspectionv1.AppealRequest{CaseId: c, Reason: "it is whole"})
			require.NoError(d.t, err)
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o, "doubted RETURNED"+o)
			d.find(d.t, c, counterfeit)
			d.says("doubted RETURNED"+o, "cleared GENUINE"+o, "doubted RETURNED"+o)
		},
		"returned, false, paid back": func(d *deal, o string) {
			c := d.comesBack()
			d.find(d.t, c, counterfeit)
			d.settled(aftersalev1.Case_STATE_WITHDRAWN, aftersalev1.Remedy_REMEDY_REFUND)
			d.settled(aftersalev1.Case_STATE_SETTLED, aftersalev1.Remedy_REMEDY_PARTIAL_REFUND)
			d.says("doubted RETURNED" + o)
			for range 2 {
				d.settled(aftersalev1.Case_STATE_SETTLED, aftersalev1.Remedy_REMEDY_REFUND)
				d.says("doubted RETURNED"+o, "cleared SETTLED"+o)
			}
			d.destroyCase(d.t, c)
			d.says("doubted RETURNED"+o, "cleared SETTLED"+o)
		},
		"its tag was copied": func(d *deal, o string) {
			c := d.comesBack()
			d.will("sun", says(providerv1.Result_RESULT_COUNTERFEIT, "tag", "COUNTER_REPLAYED"))
			_, err := d.ann.RunChecks(d.t.Context(), &inspectionv1.RunChecksRequest{CaseId: c, RunId: "run", Methods: []string{"tag"}})
			d.will("sun", nil)
			require.NoError(d.t, err)
			d.says("doubted RETURNED" + o)
			require.Equal(d.t, "TAG_REPLAYED", last(of[*inspectionv1.CloneSuspected](d.t, d.house)).GetReason())
		},
	} {
		t.Run(serial, func(t *testing.T) {
			n := id.New("srl")[4:20]
			d := h.deal(t, n)
			story(d, order(n))
		})
	}
}

func last[T any](list []T) T { return list[len(list)-1] }

// A good that leaves while a case asks about it is in doubt from the start,
// and one that has left before its verdict is held by that.
func TestWhatLeavesBeforeItsVerdictIsHeld(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	d := &deal{h, t, "W1", h.shelve(t, "W1").GetUnitId(), ""}
	c := d.asks(inspectionv1.Case_ORIGIN_STOCK)
	d.says()
	d.sellAs("ord_1")
	d.says("doubted DOUBTED ord_1")
	d.find(t, c, wrongItem)
	d.says("doubted DOUBTED ord_1")
	sum, err := h.ann.SumInspection(t.Context(), &inspectionv1.SumInspectionRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, sum.GetSalesHeld())
	// Its role cannot forget what is held.
	for _, sql := range []string{`DELETE FROM doubt`, `DELETE FROM sale`, `TRUNCATE doubt`} {
		_, err := h.DB.Do(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

// A count that misses a serial, and a decision about returned goods, take them
// out of the warehouse: the passport says so, and what is lost is certified no
// more.
func TestWhatTheWarehouseLostOrSentAwayIsFollowed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	type D = warehousev1.Disposition
	const (
		external = warehousev1.Disposition_DISPOSITION_EXTERNAL
		disposed = warehousev1.Disposition_DISPOSITION_DISPOSED
		sellable = warehousev1.Disposition_DISPOSITION_SELLABLE
		broken   = warehousev1.Disposition_DISPOSITION_DAMAGED
	)
	for name, x := range map[string]struct {
		sold                bool
		from, to            D
		reference           string
		holder, disposition string
		revoked             string
	}{
		"missed by a count":                    {false, sellable, external, "", nobody, missing, "LOST"},
		"damaged, sent back":                   {true, broken, external, "ret_1", "merchant/mrc_one", "returned", ""},
		"damaged, disposed of":                 {true, broken, disposed, "ret_1", nobody, "disposed", "DISPOSED"},
		"expired, sent back":                   {false, warehousev1.Disposition_DISPOSITION_EXPIRED, external, "", "merchant/mrc_one", "returned", ""},
		"by a verdict, which its case does":    {false, warehousev1.Disposition_DISPOSITION_INSPECTING, external, "", "warehouse/main", "sellable_not_accessible", ""},
		"moved inside":                         {false, sellable, broken, "", "warehouse/main", "sellable_not_accessible", ""},
		"of which the sale is known by itself": {true, sellable, external, "", consumer, sold, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := h.shelve(t, id.New("srl")[4:20])
			if x.sold {
				h.sell(t, u.GetUnitId(), u.GetUnitId())
			}
			e := &warehousev1.StockMoved{MoveId: id.New("mov"), From: x.from, To: x.to, Quantity: 1, UnitIds: []string{u.GetUnitId()}, Reference: x.reference}
			require.NoError(t, h.Deliver(t.Context(), "warehouse", e, e))
			after := h.getUnit(t, u.GetUnitId())
			require.Equal(t, []string{x.holder, x.disposition}, []string{after.GetHolder(), after.GetDisposition()})
			require.Equal(t, x.revoked == "", after.GetCertificateId() != "")
			if x.revoked != "" {
				require.Equal(t, x.revoked, last(of[*inspectionv1.CertificateRevoked](t, h)).GetReason())
			}
			// The return is heard of after it, and brings nothing back again.
			if x.reference != "" {
				require.NoError(t, h.Deliver(t.Context(), "warehouse", &warehousev1.ReturnReceived{
					ReturnId: x.reference, Lines: []*warehousev1.ReturnLine{{Sku: watch, Quantity: 1, UnitIds: []string{u.GetUnitId()}}},
				}))
				require.Equal(t, x.holder, h.getUnit(t, u.GetUnitId()).GetHolder())
			}
			if x.disposition != missing {
				return
			}
			// What is found again goes to its merchant, and through an inspection.
			_, err := h.ann.MoveCustody(t.Context(), &inspectionv1.MoveCustodyRequest{
				Document: "found-1", UnitIds: []string{u.GetUnitId()}, Holder: "merchant/mrc_one", BizStep: "shipping", Disposition: "returned",
			})
			require.NoError(t, err)
			require.NotEmpty(t, h.shelve(t, u.GetSerial()).GetCertificateId())
			require.NoError(t, h.Deliver(t.Context(), "warehouse", e))
			require.Equal(t, "warehouse/main", h.getUnit(t, u.GetUnitId()).GetHolder(), "heard again it is not lost again")
		})
	}
	require.Empty(t, of[*inspectionv1.CloneSuspected](t, h))
}

func TestADestructionThatTheBooksDoNotKnowIsMarked(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.inState(t, closed)
	e := &warehousev1.DestructionUnmatched{CaseId: c, Sku: serum, Quantity: 3}
	require.NoError(t, h.Deliver(t.Context(), "warehouse", e, e, &warehousev1.DestructionUnmatched{CaseId: "cas_x", Quantity: 1}))
	res, err := h.ann.GetDestruction(t.Context(), &inspectionv1.GetDestructionRequest{DestructionId: h.destructionOf(t, c)})
	require.NoError(t, err)
	require.EqualValues(t, 3, res.GetDestruction().GetUnmatched())
	var notes int
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_inspection.case_entry WHERE case_id = $1 AND what = 'unmatched'`, c).Scan(&notes))
	require.Equal(t, 1, notes)
}

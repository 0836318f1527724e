package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func (d *dock) returnsOf(t testing.TB, order string) []*warehousev1.Return {
	t.Helper()
	res, err := d.desk(worker("acc_1")).returns.ListReturns(t.Context(), &warehousev1.ListReturnsRequest{Reference: order})
	require.NoError(t, err)
	return res.GetReturns()
}

// sendSerials takes an order with serials to the lorry.
func (d *dock) sendSerials(t testing.TB, order string, units ...string) string {
	t.Helper()
	f, _ := d.ordered(t, order, &warehousev1.ReservationLine{Sku: "sku_a", Quantity: int64(len(units)), Authenticated: true})
	picks := d.plan(t, "w-"+order).GetPicks()
	picks[0].UnitIds = units
	d.pick(t, "w-"+order, picks...)
	d.pack(t, f)
	d.assign(t, f)
	d.handOver(t, "m-"+order, f)
	return f
}

// What nobody took comes back as a return that nobody had to authorise, is
// graded and inspected like any, and reaches the shelf by a new inspection
// only.
func TestAParcelThatComesBackUndeliveredIsAReturn(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.shelve(t, "sku_a", "unt_1", "unt_2")
	f := d.sendSerials(t, "ord_1", "unt_1", "unt_2")
	for range 2 {
		d.tell(t, f, logisticsv1.Status_STATUS_RETURN_TO_SENDER)
		require.Equal(t, map[string]int64{"in_transit": 2}, d.units(t), "on its way back")
	}
	for range 2 {
		d.tell(t, f, logisticsv1.Status_STATUS_RETURNED)
	}
	require.Equal(t, map[string]int64{"quarantine": 2}, d.units(t))
	all := d.returnsOf(t, "ord_1")
	require.Len(t, all, 1)
	r := all[0]
	require.NotNil(t, r.GetReceivedAt())
	require.Equal(t, warehousev1.Return_STATE_RECEIVED, r.GetState())
	require.Equal(t, f, r.GetFulfilmentId())
	require.Equal(t, "mrc_one", r.GetMerchantId())
	require.True(t, proto.Equal(&warehousev1.ReturnLine{Sku: "sku_a", Quantity: 2, UnitIds: []string{"unt_1", "unt_2"}, Received: 2}, r.GetLines()[0]), "%v", r)
	var told []*warehousev1.ReturnReceived
	for _, e := range d.Published(t) {
		switch e := e.(type) {
		case *warehousev1.ReturnReceived:
			told = append(told, e)
		case *warehousev1.FulfilmentDelivered:
			require.Fail(t, "it was not delivered")
		}
	}
	require.Len(t, told, 1)
	require.True(t, proto.Equal(&warehousev1.ReturnReceived{
		ReturnId: r.GetReturnId(), Reference: "ord_1", MerchantId: "mrc_one", Site: "main", FulfilmentId: f,
		Lines: []*warehousev1.ReturnLine{{Sku: "sku_a", Quantity: 2, Received: 2, UnitIds: []string{"unt_1", "unt_2"}}},
	}, told[0]), "%v", told[0])

	staff := d.desk(worker("acc_1")).returns
	_, err := staff.AuthoriseReturn(t.Context(), authorisation("ord_1", back("sku_a", 1)))
	refused(t, connect.CodeFailedPrecondition, "NOT_SHIPPED", err)
	graded, err := staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "G1", ReturnId: r.GetReturnId(), Sku: "sku_a", Quantity: 1,
		UnitIds: []string{"unt_1"}, Grade: warehousev1.Grade_GRADE_AS_NEW, Answers: checklist(true)})
	require.NoError(t, err)
	require.EqualValues(t, 1, graded.GetReturn().GetLines()[0].GetGraded())
	_, err = staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "G2", ReturnId: r.GetReturnId(), Sku: "sku_a", Quantity: 1,
		UnitIds: []string{"unt_2"}, Grade: warehousev1.Grade_GRADE_DAMAGED, Answers: checklist(false)})
	require.NoError(t, err)
	d.house.pass(t, graded.GetCaseId(), "sku_a", "", 0, "unt_1")
	_, err = d.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: graded.GetCaseId(), From: inspecting, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"}, Reference: r.GetReturnId()})
	require.NoError(t, err)
	d.putAway(t, "main", "sku_a", "", "unt_1")
	_, err = staff.DecideReturn(t.Context(), &warehousev1.DecideReturnRequest{DecisionId: "D1", GradingId: "G2", Decision: warehousev1.DecideReturnRequest_DECISION_RETURN_TO_MERCHANT, Reason: "crushed"})
	require.NoError(t, err)
	closed := d.returnsOf(t, "ord_1")[0]
	require.Equal(t, warehousev1.Return_STATE_CLOSED, closed.GetState())
	require.EqualValues(t, 1, closed.GetLines()[0].GetRestocked())
	require.Equal(t, map[string]int64{"sellable": 1}, d.units(t))
}

// Goods that somebody has authorised a return of, or has registered already,
// are not received a second time when their carrier speaks.
func TestNoPieceOfAnUndeliveredParcelIsReceivedTwice(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9, "sku_b": 2})
	staff := d.desk(worker("acc_1")).returns
	f := d.gone(t, "ord_1", line("sku_a", 5), line("sku_b", 2))
	req := authorisation("ord_1", back("sku_a", 3))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	register := func(id string, quantity int64) error {
		_, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: id, ReturnId: req.GetReturnId(), Lines: []*warehousev1.ReturnLine{back("sku_a", quantity)}})
		return err
	}
	require.NoError(t, register("R1", 1), "opened before the carrier said so")
	d.tell(t, f, logisticsv1.Status_STATUS_RETURNED)
	all := d.returnsOf(t, "ord_1")
	require.Len(t, all, 2)
	for _, r := range all {
		if r.GetFulfilmentId() == f {
			require.EqualValues(t, 2, r.GetLines()[0].GetReceived(), "five less the three that a return speaks of")
			require.EqualValues(t, 2, r.GetLines()[1].GetReceived())
		}
	}
	require.Equal(t, map[string]int64{"quarantine": 5, "sellable": 4}, d.units(t))
	require.NoError(t, register("R2", 2))
	require.Equal(t, map[string]int64{"quarantine": 7, "sellable": 4}, d.units(t), "every piece once")
	require.Equal(t, "NOT_AUTHORISED", fault.Reason(register("R3", 1)))

	// All of it is spoken of: there is nothing left for a return of its own.
	g := d.gone(t, "ord_2", line("sku_a", 2))
	_, err = staff.AuthoriseReturn(t.Context(), authorisation("ord_2", back("sku_a", 2)))
	require.NoError(t, err)
	d.tell(t, g, logisticsv1.Status_STATUS_RETURNED)
	require.Len(t, d.returnsOf(t, "ord_2"), 1)
	require.Equal(t, map[string]int64{"quarantine": 7, "sellable": 2}, d.units(t))
}

// Photos of what was graded are sent to a path that its grader asked for; what
// was not sent is no evidence.
func TestGradingPhotosAreSentBeforeTheyAreNamed(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 1})
	f := d.gone(t, "ord_1", line("sku_a", 1))
	d.tell(t, f, logisticsv1.Status_STATUS_RETURNED)
	r := d.returnsOf(t, "ord_1")[0].GetReturnId()
	staff := d.desk(worker("acc_1")).returns
	_, err := staff.GrantGradingPhoto(t.Context(), &warehousev1.GrantGradingPhotoRequest{ReturnId: "ret_none"})
	refused(t, connect.CodeNotFound, "RETURN_UNKNOWN", err)
	grant, err := staff.GrantGradingPhoto(t.Context(), &warehousev1.GrantGradingPhotoRequest{ReturnId: r})
	require.NoError(t, err)
	_, err = d.Upload(grant.GetPath(), "application/pdf", []byte("%PDF-1.7\n%%EOF"))
	require.Error(t, err, "a photo")
	photo, err := d.Upload(grant.GetPath(), "image/png", []byte("\x89PNG\r\n\x1a\n"))
	require.NoError(t, err)
	grade := &warehousev1.GradeReturnRequest{
		GradingId: "G1", ReturnId: r, Sku: "sku_a", Quantity: 1, Grade: warehousev1.Grade_GRADE_DAMAGED, Answers: checklist(false),
		BlobIds: []string{photo, "sha256-" + "0000000000000000000000000000000000000000000000000000000000000000"},
	}
	_, err = staff.GradeReturn(t.Context(), grade)
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
	require.Equal(t, map[string]int64{"quarantine": 1}, d.units(t))
	grade.BlobIds = grade.GetBlobIds()[:1]
	res, err := staff.GradeReturn(t.Context(), grade)
	require.NoError(t, err)
	require.Equal(t, []string{photo}, res.GetReturn().GetGradings()[0].GetBlobIds())
}

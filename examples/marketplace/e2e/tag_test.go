package e2e_test

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// A guest who holds goods taps the tag on them: the gateway lets the call
// through, inspection asks the authenticator's process, and a tap counts once.
func TestAGuestHasTheTagOnGoodsVerified(t *testing.T) {
	const gtin, serial = "04006381333931", "TAP-1"
	staff, err := open.Hire(t.Context(), func(int) {})
	require.NoError(t, err)
	desk := inspectionv1connect.NewUnitServiceClient(staff.Inspectors[0].Client())
	made, err := desk.CommissionUnits(t.Context(), &inspectionv1.CommissionUnitsRequest{
		Reference: "doc-tap", Sku: "sku-tap", MerchantId: open.owner.Self.GetMerchantId(), Gtin: gtin,
		Units: []*inspectionv1.NewUnit{{UnitId: id.New("unt"), Serial: serial}},
	})
	require.NoError(t, err)
	unit := made.GetUnits()[0]
	guest := inspectionv1connect.NewUnitServiceClient(open.Guest("GB").Client())
	scan := func(tap string) *inspectionv1.ScanTagRequest {
		return &inspectionv1.ScanTagRequest{ScanId: id.New("scn"), DigitalLink: unit.GetDigitalLink(), TagUrl: tap}
	}
	answers := func(req *inspectionv1.ScanTagRequest, want inspectionv1.ScanTagResponse_Result, reason string) {
		t.Helper()
		res, err := guest.ScanTag(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, want, res.GetResult(), res.GetReason())
		require.Equal(t, reason, res.GetReason())
		require.Equal(t, serial, res.GetPassport().GetSerial())
	}
	tap, err := open.Tap(gtin, serial, false)
	require.NoError(t, err)
	forged, err := open.Tap(gtin, serial, true)
	require.NoError(t, err)
	first := scan(tap)
	answers(scan(forged), inspectionv1.ScanTagResponse_RESULT_FALSE, "TAG_FORGED")
	answers(first, inspectionv1.ScanTagResponse_RESULT_NOT_SOLD, "TAG_VERIFIED")
	answers(first, inspectionv1.ScanTagResponse_RESULT_NOT_SOLD, "TAG_VERIFIED")
	answers(scan(tap), inspectionv1.ScanTagResponse_RESULT_REPLAYED, "COUNTER_REPLAYED")
	_, err = guest.GetUnit(t.Context(), &inspectionv1.GetUnitRequest{UnitId: unit.GetUnitId()})
	require.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(err), "more than the passport is not the public's")
}

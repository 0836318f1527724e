package main

import (
	"bytes"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

var (
	scanner     = call.Principal{Kind: call.Plugin, Plugin: "scanner"}
	merchantOne = call.Principal{Kind: call.Merchant, Account: "acc_m", Merchant: "mrc_one"}
	merchantTwo = call.Principal{Kind: call.Merchant, Account: "acc_o", Merchant: "mrc_two"}
)

// Whoever holds the goods learns what they are, and nothing of anybody.
func TestAPassportTellsAnybodyOfTheGoodsAlone(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1")
	h.sell(t, "ful_1", u.GetUnitId())
	read := func(link string) (*inspectionv1.Passport, error) {
		res, err := h.as(anybody).GetPassport(t.Context(), &inspectionv1.GetPassportRequest{DigitalLink: link})
		return res.GetPassport(), err
	}
	before := len(h.Published(t))
	p, err := read(u.GetDigitalLink())
	require.NoError(t, err)
	require.Equal(t, []any{gtin, "W1", genuine, sold, u.GetCertificateId(), false},
		[]any{p.GetGtin(), p.GetSerial(), p.GetVerdict(), p.GetDisposition(), p.GetCertificateId(), p.GetCloneSuspected()})
	var way []string
	for _, st := range p.GetSteps() {
		require.True(t, st.GetAt().IsValid())
		way = append(way, st.GetBizStep()+" "+st.GetDisposition())
	}
	require.Equal(t, []string{
		"commissioning active", "receiving in_progress", "inspecting conformant", "storing sellable_not_accessible", "shipping in_transit", "retail_selling retail_sold",
	}, way)
	text, err := protojson.Marshal(p)
	require.NoError(t, err)
	for _, private := range []string{
		"mrc_", "acc_", watch, "cas_", "csg_", "ful_", "ord_", "shp_", "merchant/", "warehouse/", "inspection/", "carrier/", "consumer", u.GetUnitId(), "ni:///", "loupe",
	} {
		require.NotContains(t, string(text), private)
	}
	// A field that is added is looked at here first.
	fields := p.ProtoReflect().Descriptor().Fields()
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	require.Equal(t, []string{"digital_link", "gtin", "serial", "lot", "verdict", "verdict_at", "disposition", "steps", "certificate_id", "clone_suspected"}, names)

	for _, same := range []string{
		"https://maker.example/any/path/01/" + gtin + "/21/W1?17=301231", "https://id.gs1.org/01/" + gtin + "/10/LOT/21/W1", "http://127.0.0.1:8080/01/" + gtin + "/21/%571",
	} {
		q, err := read(same)
		require.NoError(t, err, same)
		require.Equal(t, "W1", q.GetSerial())
	}
	_, err = read("https://id.gs1.org/01/" + gtin + "/21/W2")
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
	_, err = read("https://shop.example/unit/" + id.New("unt"))
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
	for _, bad := range []string{"https://id.gs1.org/01/" + gtin, "https://id.gs1.org/01/04006381333932/21/W1", "https://shop.example/", "not a link at all"} {
		_, err = read(bad)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), bad)
	}
	require.Len(t, h.Published(t), before, "who reads changes nothing: anybody can read any serial")
}

// What stands on the goods is read by two programs that did not write it.
func TestTheCodeOnTheGoodsIsReadByOthers(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	plain := &inspectionv1.CommissionUnitsRequest{Reference: "doc-1", Sku: serum, MerchantId: "mrc_one", Units: []*inspectionv1.NewUnit{{UnitId: id.New("unt")}}}
	own, err := h.ann.CommissionUnits(t.Context(), plain)
	require.NoError(t, err)
	for _, u := range []*inspectionv1.Unit{h.shelve(t, `A%&/"<>?x=1:+-.,Z`), h.shelve(t, "W1"), own.GetUnits()[0]} {
		for _, size := range []int32{0, 150, 201, 1024} {
			res, err := h.merchant.GetPassportCode(t.Context(), &inspectionv1.GetPassportCodeRequest{UnitId: u.GetUnitId(), Size: size})
			require.NoError(t, err)
			img, err := png.Decode(bytes.NewReader(res.GetImage()))
			require.NoError(t, err)
			if size == 0 {
				size = 256
			}
			require.EqualValues(t, size, img.Bounds().Dx())
			bmp, err := gozxing.NewBinaryBitmapFromImage(img)
			require.NoError(t, err)
			text, err := qrcode.NewQRCodeReader().Decode(bmp, nil)
			require.NoError(t, err)
			require.Equal(t, u.GetDigitalLink(), text.GetText())
			require.Equal(t, u.GetDigitalLink(), zbar(t, res.GetImage()))
			p, err := h.as(anybody).GetPassport(t.Context(), &inspectionv1.GetPassportRequest{DigitalLink: text.GetText()})
			require.NoError(t, err)
			require.Equal(t, u.GetSerial(), p.GetPassport().GetSerial())
		}
	}
	_, err = h.merchant.GetPassportCode(t.Context(), &inspectionv1.GetPassportCodeRequest{UnitId: own.GetUnits()[0].GetUnitId(), Size: 20})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = h.other.GetPassportCode(t.Context(), &inspectionv1.GetPassportCodeRequest{UnitId: own.GetUnits()[0].GetUnitId()})
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
}

// zbar reads a picture as a scanner would.
func zbar(t *testing.T, picture []byte) string {
	t.Helper()
	if _, err := exec.LookPath("zbarimg"); err != nil {
		t.Skip("zbarimg is not on this machine: scripts/setup-readers installs it")
	}
	path := filepath.Join(t.TempDir(), "code.png")
	require.NoError(t, os.WriteFile(path, picture, 0o600))
	out, err := exec.Command("zbarimg", "-q", "--raw", path).Output()
	require.NoError(t, err)
	return strings.TrimSuffix(string(out), "\n")
}

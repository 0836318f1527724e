package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestAParcelThatWeighsWrongIsNotClosed(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9, "sku_c": 9})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 4), line("sku_c", 1))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	pack := func(grams int32, lines ...*warehousev1.ParcelLine) error {
		_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{ParcelId: id.New("pcl"), FulfilmentId: f, WeightGrams: grams, Lines: lines})
		return err
	}
	four := &warehousev1.ParcelLine{Sku: "sku_a", Quantity: 4}
	refused(t, connect.CodeFailedPrecondition, "WEIGHT_IMPLAUSIBLE", pack(3100, four))
	refused(t, connect.CodeFailedPrecondition, "WEIGHT_IMPLAUSIBLE", pack(4900, four))
	refused(t, connect.CodeFailedPrecondition, "NOT_PICKED", pack(5000, &warehousev1.ParcelLine{Sku: "sku_a", Quantity: 5}))
	refused(t, connect.CodeFailedPrecondition, "NOT_PICKED", pack(5000, &warehousev1.ParcelLine{Sku: "sku_b", Quantity: 1}))
	require.NoError(t, pack(4700, four))
	_, err := d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: f})
	refused(t, connect.CodeFailedPrecondition, "UNPACKED", err)
	res, err := d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: f, Partial: true})
	require.NoError(t, err)
	require.Equal(t, "sku_c", res.GetRest().GetLines()[0].GetSku())
	require.Equal(t, warehousev1.Fulfilment_STATE_PICKED, res.GetRest().GetState())
	require.NoError(t, func() error {
		_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{
			ParcelId: id.New("pcl"), FulfilmentId: res.GetRest().GetFulfilmentId(), WeightGrams: 20_000, Lines: []*warehousev1.ParcelLine{{Sku: "sku_c", Quantity: 1}},
		})
		return err
	}(), "nobody said what it weighs")
	require.Equal(t, map[string]int64{"packed": 5, "sellable": 13}, d.units(t))
}

func TestParcelsFitTheCarrier(t *testing.T) {
	t.Parallel()
	boxes := []carton{{"s", 200, 150, 100, 50, 2000}, {"m", 400, 300, 200, 200, 10_000}, {"l", 1200, 600, 600, 900, 30_000}}
	rapid.Check(t, func(t *rapid.T) {
		var pieces []piece
		want := map[string]int64{}
		for i := range rapid.IntRange(1, 6).Draw(t, "lines") {
			sku := fmt.Sprint("sku_", i)
			n, g := rapid.Int64Range(1, 60).Draw(t, "quantity"), rapid.Int64Range(0, 4000).Draw(t, "grams")
			pieces, want[sku] = append(pieces, piece{&warehousev1.ParcelLine{Sku: sku, Quantity: n}, g}), n
		}
		grams := map[string]int64{}
		for _, p := range pieces {
			grams[p.line.GetSku()] = p.grams
		}
		limit := rapid.Int32Range(6000, 40_000).Draw(t, "limit")
		got, err := plan(pieces, allowed(boxes, &warehousev1.ParcelLimits{MaxWeightGrams: limit, MaxGirthMm: 2000}))
		require.NoError(t, err)
		have := map[string]int64{}
		for _, p := range got {
			require.NotEqual(t, "l", p.GetBox(), "its girth is too much")
			require.LessOrEqual(t, p.GetWeightGrams(), min(limit, 10_000))
			require.NotEmpty(t, p.GetLines())
			for _, l := range p.GetLines() {
				have[l.GetSku()] += l.GetQuantity()
			}
		}
		require.Equal(t, want, have, "every piece once")
	})
	_, err := plan([]piece{{&warehousev1.ParcelLine{Sku: "x", Quantity: 1}, 31_000}}, boxes)
	refused(t, connect.CodeFailedPrecondition, "TOO_HEAVY", err)
	_, err = plan(nil, nil)
	refused(t, connect.CodeFailedPrecondition, "NO_BOX", err)
}

// A reader that is not ours reads the number off the label, and the dock takes
// the parcel by what it read.
func TestAParcelIsHandedOverByWhatItsLabelSays(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"pdftotext", "pdftoppm", "zbarimg"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not on this machine: scripts/setup-readers installs it", program)
		}
	}
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 1))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	d.pack(t, f)
	d.assign(t, f)
	p := d.get(t, f).GetParcels()[0]
	res, err := d.floor.GetParcelLabel(t.Context(), &warehousev1.GetParcelLabelRequest{ParcelId: p.GetParcelId()})
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "label.pdf"), res.GetContent(), 0o600))
	run := func(program string, args ...string) string {
		c := exec.CommandContext(t.Context(), program, args...)
		c.Dir = dir
		out, err := c.Output()
		require.NoError(t, err, program)
		return string(out)
	}
	text := run("pdftotext", "-layout", "label.pdf", "-")
	require.Contains(t, text, "ord_1")
	require.Contains(t, strings.ReplaceAll(text, " ", ""), "(00)"+p.GetSscc())
	run("pdftoppm", "-r", "200", "-png", "-singlefile", "label.pdf", "label")
	read := strings.TrimSpace(run("zbarimg", "-q", "--raw", "label.png"))
	require.Equal(t, "00"+p.GetSscc(), read, "application identifier 00, and the number")
	handed, err := d.floor.HandOver(t.Context(), &warehousev1.HandOverRequest{ManifestId: "m1", CarrierInstance: "post", Ssccs: []string{strings.TrimPrefix(read, "00")}})
	require.NoError(t, err)
	require.Equal(t, []string{f}, handed.GetFulfilmentIds())
}

func TestAParcelsLabelCarriesItsNumber(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	f := d.gone(t, "ord_1", line("sku_a", 1))
	p := d.get(t, f).GetParcels()[0]
	for format, begins := range map[warehousev1.GetParcelLabelRequest_Format]string{
		warehousev1.GetParcelLabelRequest_FORMAT_PDF: "%PDF", warehousev1.GetParcelLabelRequest_FORMAT_ZPL: "^XA",
	} {
		res, err := d.floor.GetParcelLabel(t.Context(), &warehousev1.GetParcelLabelRequest{ParcelId: p.GetParcelId(), Format: format})
		require.NoError(t, err)
		require.Contains(t, string(res.GetContent()), begins)
		if format == warehousev1.GetParcelLabelRequest_FORMAT_ZPL {
			require.Contains(t, string(res.GetContent()), ">;>800"+p.GetSscc())
		}
	}
	two := warehousev1connect.NewFulfilmentServiceClient(d.Client(plugintest.As(call.Principal{Kind: call.Merchant, Merchant: "mrc_two", Permissions: []string{"*"}}, "GB")))
	_, err := two.GetParcelLabel(t.Context(), &warehousev1.GetParcelLabelRequest{ParcelId: p.GetParcelId()})
	refused(t, connect.CodeNotFound, "PARCEL_UNKNOWN", err)
	_, err = two.GetFulfilment(t.Context(), &warehousev1.GetFulfilmentRequest{FulfilmentId: f})
	refused(t, connect.CodeNotFound, "FULFILMENT_UNKNOWN", err)
}

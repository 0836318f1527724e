package main

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

func TestShelvesAreWalkedAlong(t *testing.T) {
	t.Parallel()
	want := []string{"A-1", "A-2-9", "A-2-10", "A-9.1", "A-09", "A-10", "A-12-3", "B", "B1", "B2", "B10", "B-1", "C-00000000000000000000000099", "", ""}
	got := slices.Clone(want)
	for n := range 20 {
		rand.New(rand.NewPCG(1, uint64(n))).Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, along)
		require.Equal(t, want, got)
	}
	for _, a := range want {
		for _, b := range want {
			require.Equal(t, along(a, b), -along(b, a), "%q %q", a, b)
			require.Equal(t, a == b, along(a, b) == 0, "%q %q", a, b)
		}
	}
}

// received goods of mrc_one stand in receiving, so that they are put away.
func (h *house) receiving(t testing.TB, lines ...*warehousev1.NoticeLine) {
	t.Helper()
	in := h.desk(member("mrc_one")).purchasing
	notice := "N-" + lines[0].GetSku()
	_, err := in.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: notice, Lines: lines})
	require.NoError(t, err)
	_, err = in.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: notice, Lines: lines})
	require.NoError(t, err)
}

func (h *house) putAt(t testing.TB, id string, lines ...*warehousev1.PutAwayLine) {
	t.Helper()
	_, err := h.desk(worker("acc_shelf")).purchasing.PutAway(t.Context(), &warehousev1.PutAwayRequest{PutAwayId: id, Lines: lines})
	require.NoError(t, err)
}

func away(sku, lot string, quantity int64, location string) *warehousev1.PutAwayLine {
	return &warehousev1.PutAwayLine{Sku: sku, Lot: lot, Quantity: quantity, Location: location}
}

// Who picks walks along the shelves: each pick tells where its goods are, in
// every answer, until they are taken.
func TestAWaveIsPickedInTheOrderOfTheShelves(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.receiving(t, &warehousev1.NoticeLine{Sku: "sku_a", Lot: "L1", ExpiresOn: "2031-01-01", Quantity: 2},
		&warehousev1.NoticeLine{Sku: "sku_a", Lot: "L2", ExpiresOn: "2032-01-01", Quantity: 5},
		&warehousev1.NoticeLine{Sku: "sku_b", Quantity: 5}, &warehousev1.NoticeLine{Sku: "sku_c", Quantity: 3})
	d.putAt(t, "1", away("sku_a", "L1", 2, "B-10"), away("sku_a", "L2", 5, "A-3"), away("sku_b", "", 5, "B-9"), away("sku_c", "", 2, "A-1"))
	d.shelve(t, "sku_a", "unt_1")                // at A-1
	d.stock(t, "", map[string]int64{"sku_d": 1}) // never put on a shelf
	f, _ := d.ordered(t, "ord_1", line("sku_a", 4), line("sku_b", 1), line("sku_d", 1))
	g, _ := d.ordered(t, "ord_2", line("sku_c", 1), &warehousev1.ReservationLine{Sku: "sku_a", Quantity: 1, Authenticated: true})

	seen := func(picks []*warehousev1.Pick) (all []string) {
		for _, p := range picks {
			all = append(all, p.GetLocation()+" "+p.GetSku()+" "+p.GetLot())
		}
		return all
	}
	want := []string{"A-1 sku_a ", "A-1 sku_c ", "A-3 sku_a L2", "B-9 sku_b ", "B-10 sku_a L1", " sku_d "}
	plan := d.plan(t, "w1")
	require.Equal(t, want, seen(plan.GetPicks()))
	require.Equal(t, want, seen(d.plan(t, "w1").GetPicks()), "the same wave is the same list")
	require.Equal(t, want, seen(d.picks(t, "w1")))
	require.Equal(t, "B-10", d.get(t, f).GetLines()[0].GetLocation())
	// The rest of sku_c goes to another shelf: that is where the next is sent.
	d.putAt(t, "2", away("sku_c", "", 1, "C-1"))
	require.Equal(t, []string{"A-1 sku_a ", "A-3 sku_a L2", "B-9 sku_b ", "B-10 sku_a L1", "C-1 sku_c ", " sku_d "}, seen(d.picks(t, "w1")))
	for _, p := range plan.GetPicks() {
		if p.GetAuthenticated() {
			p.UnitIds = []string{"unt_1"}
		}
	}
	d.pick(t, "w1", plan.GetPicks()[:5]...)
	require.Equal(t, want[5:], seen(d.picks(t, "w1")), "what is left to be taken")
	_, err := d.floor.ConfirmPicks(t.Context(), &warehousev1.ConfirmPicksRequest{PickId: "last", WaveId: "w1", Picks: plan.GetPicks()[5:]})
	require.NoError(t, err)
	require.Empty(t, d.picks(t, "w1"))
	for _, one := range []string{f, g} {
		for _, l := range d.get(t, one).GetLines() {
			require.Empty(t, l.GetLocation(), "what was picked is on no shelf")
		}
	}
	require.Empty(t, d.picks(t, "none"))
}

func (d *dock) picks(t testing.TB, wave string) []*warehousev1.Pick {
	t.Helper()
	res, err := d.floor.ListPicks(t.Context(), &warehousev1.ListPicksRequest{WaveId: wave})
	require.NoError(t, err)
	return res.GetPicks()
}

// What comes later is put where goods of it stand already; stock tells where
// that is.
func TestThePlaceOfGoodsIsKnown(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.receiving(t, &warehousev1.NoticeLine{Sku: "sku_a", Quantity: 5})
	h.putAt(t, "1", away("sku_a", "", 2, "A-1"))
	res, err := h.desk(worker("acc_1")).purchasing.ListPutAways(t.Context(), &warehousev1.ListPutAwaysRequest{})
	require.NoError(t, err)
	require.Equal(t, "A-1", res.GetLines()[0].GetLocation())
	require.EqualValues(t, 3, res.GetLines()[0].GetQuantity())
	require.Equal(t, "A-1", h.level(t, "sku_a", "main").GetLocation())
	h.putAt(t, "2", away("sku_a", "", 3, "A-2"))
	require.Equal(t, "A-2", h.level(t, "sku_a", "main").GetLocation(), "where goods of it were put last")
	// Another lot is best put beside it; goods that are new here have no place.
	in := h.desk(member("mrc_one")).purchasing
	more := []*warehousev1.NoticeLine{{Sku: "sku_a", Lot: "L1", Quantity: 1}, {Sku: "sku_b", Quantity: 1}}
	_, err = in.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: "more", Lines: more})
	require.NoError(t, err)
	_, err = in.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: "more", Lines: more})
	require.NoError(t, err)
	res, err = in.ListPutAways(t.Context(), &warehousev1.ListPutAwaysRequest{})
	require.NoError(t, err)
	require.Equal(t, "A-2", res.GetLines()[0].GetLocation())
	require.Empty(t, res.GetLines()[1].GetLocation())
	h.stock(t, "", map[string]int64{"sku_b": 1})
	require.Empty(t, h.level(t, "sku_b", "main").GetLocation())
}

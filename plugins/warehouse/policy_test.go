package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

// listener knows of the warehouse what its events say and computes by the rule
// of the contract. What it hears is late and twice: versions decide.
type listener struct {
	levels   map[key]*warehousev1.StockLevel
	policies map[[2]string]*warehousev1.StockPolicy
	heard    int
}

func (l *listener) hear(events []proto.Message, shuffle func(int, func(int, int))) {
	fresh := append([]proto.Message{}, events[l.heard:]...)
	// What is new, and a part of what was told before, twice each.
	fresh = append(append(fresh, fresh...), events[max(0, l.heard-5):l.heard]...)
	l.heard = len(events)
	shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	for _, e := range fresh {
		if e, ok := e.(interface {
			GetLevels() []*warehousev1.StockLevel
		}); ok {
			l.stand(e.GetLevels()...)
		}
		if e, ok := e.(*warehousev1.StockAdjusted); ok {
			l.stand(e.GetLevel())
		}
		if e, ok := e.(interface {
			GetPolicies() []*warehousev1.StockPolicy
		}); ok {
			for _, p := range e.GetPolicies() {
				at := [2]string{p.GetSku(), p.GetMarket()}
				if p.GetVersion() > l.policies[at].GetVersion() {
					l.policies[at] = p
				}
			}
		}
	}
}

func (l *listener) stand(all ...*warehousev1.StockLevel) {
	for _, s := range all {
		if s.GetVersion() > l.levels[keyOf(s)].GetVersion() {
			l.levels[keyOf(s)] = s
		}
	}
}

func (l *listener) available(sku, market string) *warehousev1.Availability {
	out := &warehousev1.Availability{Sku: sku}
	today := time.Now().UTC().Format(time.DateOnly)
	for _, s := range l.levels {
		if s.GetSku() == sku && (s.GetExpiresOn() == "" || s.GetExpiresOn() >= today) {
			out.Available += s.GetSellable()
			if s.GetAuthenticated() {
				out.AvailableAuthenticated += s.GetSellable()
			}
		}
	}
	p := l.policies[[2]string{sku, market}]
	for _, n := range []*int64{&out.Available, &out.AvailableAuthenticated} {
		*n -= p.GetSafetyStock()
		if p != nil && p.OnShelf != nil {
			*n = min(*n, p.GetOnShelf())
		}
		*n = max(*n, 0)
	}
	return out
}

// Who keeps what the events say computes what the warehouse would promise in
// each market at once: under any policies, arrivals, sales, reductions,
// releases, lapses, corrections and moves.
func TestEventsTellWhatAMarketMaySell(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1", "unt_2", "unt_3")
	in, floor := h.desk(member("mrc_one")), h.desk(worker("acc_1"))
	steps := warehousev1connect.NewReservationStepServiceClient(h.Client(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "order"}, "GB")))
	ctx := context.Background()
	told := &listener{levels: make(map[key]*warehousev1.StockLevel), policies: make(map[[2]string]*warehousev1.StockPolicy)}
	var held []*warehousev1.ReserveStockRequest
	sku, market := rapid.SampledFrom([]string{"sku_a", "sku_b"}), rapid.SampledFrom([]string{"GB", "DE"})
	few := rapid.Int64Range(1, 5)
	// known lets only refusals pass that a merchant would meet too.
	known := func(rt *rapid.T, err error, reasons ...string) {
		if err != nil {
			require.Contains(rt, reasons, fault.Reason(err), "%v", err)
		}
	}
	acts := map[string]func(rt *rapid.T){
		"receive": func(rt *rapid.T) {
			lot := rapid.SampledFrom([]string{"", "OLD", "NEW"}).Draw(rt, "lot")
			_, err := in.stock.ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{
				ReceiptId: id.New("grn"), Site: rapid.SampledFrom([]string{"main", "east"}).Draw(rt, "site"), Lines: []*warehousev1.ReceiptLine{{
					Sku: sku.Draw(rt, "sku"), Quantity: 5 * few.Draw(rt, "quantity"), Lot: lot, ExpiresOn: map[string]string{"OLD": "2020-01-01", "NEW": "2090-01-01"}[lot],
				}},
			})
			require.NoError(rt, err)
		},
		"policy": func(rt *rapid.T) {
			p := &warehousev1.StockPolicy{Sku: sku.Draw(rt, "sku"), Market: market.Draw(rt, "market"), SafetyStock: rapid.Int64Range(0, 9).Draw(rt, "safety")}
			if rapid.IntRange(0, 3).Draw(rt, "bounded") > 0 {
				p.OnShelf = proto.Int64(rapid.Int64Range(0, 12).Draw(rt, "shelf"))
			}
			_, err := in.inventory.SetStockPolicies(ctx, &warehousev1.SetStockPoliciesRequest{Policies: []*warehousev1.StockPolicy{p}})
			require.NoError(rt, err)
		},
		"reserve": func(rt *rapid.T) {
			req := reservationOf(&warehousev1.ReservationLine{Sku: "sku_a", Quantity: few.Draw(rt, "a"), Authenticated: rapid.IntRange(0, 4).Draw(rt, "strict") == 0})
			if rapid.Bool().Draw(rt, "two") {
				req.Lines = append(req.Lines, line("sku_b", few.Draw(rt, "b")))
			}
			req.Market = market.Draw(rt, "market")
			if rapid.IntRange(0, 2).Draw(rt, "lapses") == 0 {
				req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Minute))
			}
			_, err := h.orders.ReserveStock(ctx, req)
			known(rt, err, "OUT_OF_STOCK")
			if err == nil {
				held = append(held, req)
			}
		},
		"reduce": func(rt *rapid.T) {
			if len(held) > 0 {
				l := rapid.SampledFrom(held).Draw(rt, "which")
				_, err := steps.ReduceReservation(ctx, &warehousev1.ReduceReservationRequest{
					ReductionId: id.New("rdc"), ReservationId: l.GetReservationId(), Lines: []*warehousev1.ReductionLine{{Sku: "sku_a", Quantity: 1}},
				})
				known(rt, err, "NOT_RESERVED")
			}
		},
		"release": func(rt *rapid.T) {
			if len(held) > 0 {
				_, err := h.orders.ReleaseReservation(ctx, &warehousev1.ReleaseReservationRequest{ReservationId: rapid.SampledFrom(held).Draw(rt, "which").GetReservationId()})
				require.NoError(rt, err)
			}
		},
		"lapse": func(rt *rapid.T) {
			require.NoError(rt, h.Deliver(ctx, "schedules", &pluginv1.Tick{Schedule: "warehouse/expiry"}))
		},
		"adjust": func(rt *rapid.T) {
			_, err := h.keyed(id.New("key")).AdjustStock(ctx, &warehousev1.AdjustStockRequest{Sku: sku.Draw(rt, "sku"), Delta: rapid.SampledFrom([]int64{-2, -1, 3}).Draw(rt, "delta"), Cause: "counted"})
			known(rt, err, "OUT_OF_STOCK")
		},
		"move": func(rt *rapid.T) {
			_, err := floor.inventory.MoveStock(ctx, &warehousev1.MoveStockRequest{
				MoveId: id.New("mv"), Sku: sku.Draw(rt, "sku"), Quantity: 1, Cause: "found so",
				From: warehousev1.Disposition_DISPOSITION_SELLABLE, To: warehousev1.Disposition_DISPOSITION_DAMAGED,
			})
			known(rt, err, "OUT_OF_STOCK")
		},
	}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(rt, "acts") {
			acts[rapid.SampledFrom([]string{"receive", "policy", "policy", "reserve", "reserve", "reduce", "release", "lapse", "adjust", "move"}).Draw(rt, "act")](rt)
		}
		seed := rapid.Uint64().Draw(rt, "order")
		told.hear(h.Published(t), rand.New(rand.NewPCG(seed, seed)).Shuffle)
		for _, sku := range []string{"sku_a", "sku_b"} {
			for _, market := range []string{"GB", "DE", "JP"} {
				require.Equal(rt, h.available(rt, sku, market).String(), told.available(sku, market).String(), "%s in %s", sku, market)
			}
		}
	})
	h.consistent(t)
}

// One request is one event; a repetition of it, and a refused one, none.
func TestPoliciesAreToldAsTheyAreSet(t *testing.T) {
	t.Parallel()
	h := open(t)
	policies := func() (out []*warehousev1.StockPoliciesSet) {
		for _, e := range h.Published(t) {
			if e, ok := e.(*warehousev1.StockPoliciesSet); ok {
				out = append(out, e)
			}
		}
		return out
	}
	a, b := &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", SafetyStock: 2, ReorderPoint: 9}, &warehousev1.StockPolicy{Sku: "sku_a", Market: "DE", OnShelf: proto.Int64(0)}
	h.policies(t, a, b)
	a.Version, b.Version = 1, 1
	require.Len(t, policies(), 1)
	require.True(t, proto.Equal(&warehousev1.StockPoliciesSet{MerchantId: "mrc_one", Policies: []*warehousev1.StockPolicy{b, a}}, policies()[0]), "%v", policies()[0])

	// A version that somebody sends is nobody's word.
	a.Version, a.SafetyStock = 99, 3
	h.policies(t, a)
	require.EqualValues(t, 2, policies()[1].GetPolicies()[0].GetVersion())
	require.EqualValues(t, 2, h.policy(t, "sku_a", "GB").GetVersion())

	_, err := h.desk(member("mrc_one")).inventory.SetStockPolicies(t.Context(), &warehousev1.SetStockPoliciesRequest{Policies: []*warehousev1.StockPolicy{
		a, {Sku: "sku_z", Market: "GB"},
	}})
	refused(t, connect.CodeFailedPrecondition, "SKU_UNKNOWN", err)
	require.Len(t, policies(), 2)
}

// Of reservations that lapse together, those made since the merchant set the
// shelf are put on it again, and the others not.
func TestLapsedTogetherEachCountsByWhenItWasMade(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 20})
	shelf := &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", OnShelf: proto.Int64(8)}
	h.policies(t, shelf)
	for i, n := range []int64{3, 2, 1} {
		req := reservationOf(line("sku_a", n))
		req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Minute))
		_, err := h.orders.ReserveStock(t.Context(), req)
		require.NoError(t, err)
		if i == 0 {
			h.policies(t, shelf)
		}
	}
	require.EqualValues(t, 5, h.policy(t, "sku_a", "GB").GetOnShelf())
	h.tick(t)
	require.EqualValues(t, 8, h.policy(t, "sku_a", "GB").GetOnShelf())
	n := 0
	for _, e := range h.Published(t) {
		if e, ok := e.(*warehousev1.ReservationReleased); ok {
			n++
			require.Len(t, e.GetPolicies(), 1)
			require.EqualValues(t, 8, e.GetPolicies()[0].GetOnShelf(), "%v", e)
		}
	}
	require.Equal(t, 3, n)
}

// Policies that are set while goods are sold fail no sale: what the newest
// event says is what stands there.
func TestPoliciesAreSetInTheMidstOfSales(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 500, "sku_b": 500})
	in := h.desk(member("mrc_one")).inventory
	parallel(60, func(n int) {
		shelf := proto.Int64(int64(n % 3))
		if n%4 == 0 {
			if _, err := in.SetStockPolicies(context.Background(), &warehousev1.SetStockPoliciesRequest{Policies: []*warehousev1.StockPolicy{
				{Sku: "sku_b", Market: "GB", OnShelf: shelf}, {Sku: "sku_a", Market: "GB", OnShelf: shelf},
			}}); err != nil {
				t.Error(err)
			}
			return
		}
		_, err := h.orders.ReserveStock(context.Background(), reservationOf(line("sku_a", 1), line("sku_b", 1)))
		if err != nil && fault.Reason(err) != "OUT_OF_STOCK" {
			t.Error(fmt.Errorf("%d: %w", n, err))
		}
	})
	told := &listener{levels: make(map[key]*warehousev1.StockLevel), policies: make(map[[2]string]*warehousev1.StockPolicy)}
	told.hear(h.Published(t), rand.Shuffle)
	for _, sku := range []string{"sku_a", "sku_b"} {
		require.Equal(t, h.available(t, sku, "GB").String(), told.available(sku, "GB").String())
	}
	h.consistent(t)
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestAReservationHoldsAllLinesOrNone(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10, "sku_b": 3})

	_, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_b", 4), line("sku_a", 1), line("sku_none", 1)))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	info, _ := fault.Info(err)
	require.Equal(t, map[string]string{"sku_b": "3", "sku_none": "0"}, info.GetMetadata(), "every short sku, with what there is")
	require.EqualValues(t, 10, h.level(t, "sku_a", "main").GetSellable())

	req := reservationOf(line("sku_b", 3), line("sku_a", 4))
	res, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, warehousev1.Reservation_STATE_HELD, res.GetReservation().GetState())
	a, b := h.level(t, "sku_a", "main"), h.level(t, "sku_b", "main")
	require.Equal(t, []int64{6, 4, 0, 3}, []int64{a.GetSellable(), a.GetReserved(), b.GetSellable(), b.GetReserved()})

	events := h.Published(t)
	last, ok := events[len(events)-1].(*warehousev1.StockReserved)
	require.True(t, ok)
	require.Equal(t, "ord_1", last.GetReference())
	require.True(t, proto.Equal(a, last.GetLevels()[0]), "the event says what stands there after it")
	require.True(t, proto.Equal(b, last.GetLevels()[1]))

	got, err := h.orders.GetReservation(t.Context(), &warehousev1.GetReservationRequest{ReservationId: req.GetReservationId()})
	require.NoError(t, err)
	require.True(t, proto.Equal(res.GetReservation(), got.GetReservation()))
	_, err = h.orders.GetReservation(t.Context(), &warehousev1.GetReservationRequest{ReservationId: id.New("rsv")})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	_, err = h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1), line("sku_a", 1)))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "each sku once")
	h.consistent(t)
}

func TestAReservationTakesFromMainFirstThenByName(t *testing.T) {
	t.Parallel()
	h := open(t)
	for site, n := range map[string]int64{"west": 5, "main": 2, "east": 3} {
		h.stock(t, site, map[string]int64{"sku_a": n})
	}
	for _, c := range []struct {
		quantity int64
		lines    []*warehousev1.ReservationLine
	}{
		{1, []*warehousev1.ReservationLine{{Sku: "sku_a", Quantity: 1, Site: "main"}}},
		{5, []*warehousev1.ReservationLine{{Sku: "sku_a", Quantity: 1, Site: "main"}, {Sku: "sku_a", Quantity: 3, Site: "east"}, {Sku: "sku_a", Quantity: 1, Site: "west"}}},
		{4, []*warehousev1.ReservationLine{{Sku: "sku_a", Quantity: 4, Site: "west"}}},
	} {
		res, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", c.quantity)))
		require.NoError(t, err)
		require.Len(t, res.GetReservation().GetLines(), len(c.lines))
		for i, l := range c.lines {
			require.True(t, proto.Equal(l, res.GetReservation().GetLines()[i]), "%v", res.GetReservation().GetLines())
		}
	}
	_, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1)))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	h.consistent(t)
}

func TestARepeatedReservationIsTheFirst(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 4})
	req := reservationOf(line("sku_a", 4))
	first, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	again, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err, "though nothing is left for another")
	require.True(t, proto.Equal(first, again))
	require.EqualValues(t, 4, h.level(t, "sku_a", "main").GetReserved())

	for name, other := range map[string]*warehousev1.ReserveStockRequest{
		"other lines":     {ReservationId: req.GetReservationId(), Reference: "ord_1", Lines: []*warehousev1.ReservationLine{line("sku_a", 3)}},
		"other reference": {ReservationId: req.GetReservationId(), Reference: "ord_2", Lines: req.GetLines()},
	} {
		_, err := h.orders.ReserveStock(t.Context(), other)
		require.Equal(t, "RESERVATION_DIFFERS", fault.Reason(err), name)
	}
}

func TestAReleaseGivesBackOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 4, "sku_b": 4})
	req := reservationOf(line("sku_a", 4), line("sku_b", 1))
	_, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	release := &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId(), Reason: "changed mind"}
	for range 3 {
		res, err := h.orders.ReleaseReservation(t.Context(), release)
		require.NoError(t, err)
		require.Equal(t, warehousev1.Reservation_STATE_RELEASED, res.GetReservation().GetState())
		require.Len(t, res.GetReservation().GetLines(), 2)
		require.EqualValues(t, 4, h.level(t, "sku_a", "main").GetSellable())
	}
	released := 0
	for _, e := range h.Published(t) {
		if r, ok := e.(*warehousev1.ReservationReleased); ok {
			released++
			require.False(t, r.GetExpired())
			require.True(t, proto.Equal(h.level(t, "sku_a", "main"), r.GetLevels()[0]))
		}
	}
	require.Equal(t, 1, released)
	_, err = h.orders.ReserveStock(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "RESERVATION_ENDED", err)
	require.EqualValues(t, 10, h.consistent(t).GetMoved()["release"]+h.consistent(t).GetMoved()["reservation"])
}

func TestAReleaseBeforeTheReservationLeavesATombstone(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 4})
	req := reservationOf(line("sku_a", 1))
	for range 2 {
		res, err := h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
		require.NoError(t, err)
		require.Nil(t, res.GetReservation(), "there was nothing to release")
	}
	_, err := h.orders.ReserveStock(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "RESERVATION_ENDED", err)
	require.EqualValues(t, 4, h.level(t, "sku_a", "main").GetSellable())
}

func TestAReservationLapsesExactlyOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 9})
	later := timestamppb.New(time.Now().Add(time.Hour))
	due := make(map[string]bool)
	for i := range 3 {
		req := reservationOf(line("sku_a", int64(i+1)))
		req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Second))
		due[req.GetReservationId()] = true
		_, err := h.orders.ReserveStock(t.Context(), req)
		require.NoError(t, err)
	}
	held := []*warehousev1.ReserveStockRequest{reservationOf(line("sku_a", 1)), reservationOf(line("sku_a", 1))}
	held[0].ExpiresAt = later
	for _, req := range held {
		_, err := h.orders.ReserveStock(t.Context(), req)
		require.NoError(t, err)
	}
	for range 3 {
		h.tick(t)
	}
	require.EqualValues(t, 7, h.level(t, "sku_a", "main").GetSellable(), "what is not due and what never lapses is still held")
	for _, e := range h.Published(t) {
		if r, ok := e.(*warehousev1.ReservationReleased); ok {
			require.True(t, r.GetExpired())
			require.True(t, due[r.GetReservationId()], "each lapses once")
			delete(due, r.GetReservationId())
		}
	}
	require.Empty(t, due)
	require.EqualValues(t, 6, h.consistent(t).GetMoved()["expiry"])
}

// S3: no oversell under any interleaving.
func TestOfFiftyUnitsTwoHundredBuyersGetFifty(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 30})
	h.stock(t, "east", map[string]int64{"sku_a": 20})
	var got, none atomic.Int64
	parallel(200, func(int) {
		_, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1)))
		switch fault.Reason(err) {
		case "OUT_OF_STOCK":
			none.Add(1)
		case "":
			if err == nil {
				got.Add(1)
			}
		}
	})
	require.EqualValues(t, 50, got.Load())
	require.EqualValues(t, 150, none.Load(), "everybody else is told so, nobody meets another error")
	sum := h.consistent(t)
	require.EqualValues(t, 50, sum.GetHeld())
	require.EqualValues(t, 0, sum.GetUnits()["sellable"])
}

// Everything that moves stock locks it in one order, so nothing deadlocks:
// PostgreSQL counts deadlocks, and there is none.
func TestOverlappingLinesInAnyOrderNeverDeadlock(t *testing.T) {
	t.Parallel()
	h := open(t)
	skus := []string{"sku_a", "sku_b", "sku_c", "sku_d"}
	for _, site := range []string{"main", "east"} {
		h.stock(t, site, map[string]int64{"sku_a": 1000, "sku_b": 1000, "sku_c": 1000, "sku_d": 1000})
	}
	errs := make([]error, 40)
	parallel(40, func(n int) {
		r := rand.New(rand.NewPCG(7, uint64(n)))
		for i := range 5 {
			req := reservationOf()
			for _, j := range r.Perm(len(skus))[:2+r.IntN(3)] {
				req.Lines = append(req.Lines, line(skus[j], 1+r.Int64N(30)))
			}
			if r.IntN(3) == 0 {
				req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Second))
			}
			_, err := h.orders.ReserveStock(t.Context(), req)
			if err == nil && r.IntN(2) == 0 {
				_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
			}
			if err == nil && r.IntN(4) == 0 {
				receipt := &warehousev1.ReceiveStockRequest{ReceiptId: fmt.Sprint(n, "-", i)}
				for _, j := range r.Perm(len(skus)) {
					receipt.Lines = append(receipt.Lines, &warehousev1.ReceiptLine{Sku: skus[j], Quantity: 1})
				}
				_, err = h.one.ReceiveStock(t.Context(), receipt)
			}
			if err != nil && fault.Reason(err) != "OUT_OF_STOCK" {
				errs[n] = err
			}
		}
	})
	for _, err := range errs {
		require.NoError(t, err)
	}
	h.tick(t)
	h.consistent(t)
	require.Zero(t, h.deadlocks(t))
}

func TestReserveAndReleaseOfOneIdMeetAndStockComesBack(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 100})
	reqs := make([]*warehousev1.ReserveStockRequest, 20)
	for i := range reqs {
		reqs[i] = reservationOf(line("sku_a", 5))
		reqs[i].Reference = "ord_" + strconv.Itoa(i)
	}
	parallel(40, func(n int) {
		req := reqs[n/2]
		if n%2 == 0 {
			_, _ = h.orders.ReserveStock(t.Context(), req)
			return
		}
		_, _ = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
	})
	for _, req := range reqs {
		_, err := h.orders.ReleaseReservation(context.Background(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
		require.NoError(t, err)
	}
	require.EqualValues(t, 100, h.consistent(t).GetUnits()["sellable"])
}

// parallel runs n callers at once.
func parallel(n int, fn func(n int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wg.Wait()
}

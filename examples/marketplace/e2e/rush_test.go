package e2e_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/fault"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// atOnce runs a job n times, all from the same moment on.
func atOnce[T any](n int, job func(i int) (T, error)) ([]T, []error) {
	results, errs := make([]T, n), make([]error, n)
	var ready, done sync.WaitGroup
	ready.Add(n)
	done.Add(n)
	begin := make(chan struct{})
	for i := range n {
		go func() {
			defer done.Done()
			ready.Done()
			<-begin
			results[i], errs[i] = job(i)
		}()
	}
	ready.Wait()
	close(begin)
	done.Wait()
	return results, errs
}

// Fifty of two hundred get what there is, the others a clear no, nobody an
// error; and stock and money say the same afterwards.
func TestTwoHundredBuyersOfFiftyMakeFiftyOrders(t *testing.T) {
	const buyers, units = 200, 50
	sku := open.article(t, units)
	before := open.books(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	carts := make([]cart, buyers)
	for i := range carts {
		var err error
		carts[i], err = fill(ctx, open.Guest("GB"), sku, 1)
		require.NoError(t, err)
	}
	orders, errs := atOnce(buyers, func(i int) (*orderv1.Order, error) { return carts[i].checkout(ctx) })

	placed, refused := map[string]bool{}, 0
	for i, err := range errs {
		if err == nil {
			require.Equal(t, orderv1.Order_STATE_PLACED, orders[i].GetState())
			placed[orders[i].GetOrderId()] = true
			continue
		}
		require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "%v", err)
		require.Equal(t, "OUT_OF_STOCK", fault.Reason(err), "%v", err)
		info, ok := fault.Info(err)
		require.True(t, ok)
		require.NotEmpty(t, info.GetMetadata(), "which sku there is too little of")
		refused++
	}
	require.Len(t, placed, units)
	require.Equal(t, buyers-units, refused)

	after := open.books(t)
	require.EqualValues(t, units, after.Orders.GetUnits()[sku], "orders")
	require.EqualValues(t, units, after.Orders.GetOrders()["placed"]-before.Orders.GetOrders()["placed"], "orders")
	require.EqualValues(t, units, after.Stock.GetUnits()["reserved"]-before.Stock.GetUnits()["reserved"], "stock")
	require.EqualValues(t, -units, after.Stock.GetUnits()["sellable"]-before.Stock.GetUnits()["sellable"], "stock")
	held := func(b *shop.Books) int64 { c := b.Companies["sandbox-gb"]; return c.Authorized - c.Voided }
	require.Equal(t, units*prices["GB"].GetMinorUnits(), held(after)-held(before), "what the company holds")
	for _, c := range carts {
		again, err := c.checkout(ctx)
		if err == nil {
			require.True(t, placed[again.GetOrderId()], "a finished cart answers its order")
			continue
		}
		require.Equal(t, "OUT_OF_STOCK", fault.Reason(err), "a refused cart is open again: %v", err)
	}
	require.EqualValues(t, units, open.books(t).Orders.GetUnits()[sku])
}

// Ten clicks on one button are one order and one charge.
func TestTheSameCartFinishedTenTimesAtOnceIsOneOrderAndOneCharge(t *testing.T) {
	sku := open.article(t, 100)
	before := open.books(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := fill(ctx, open.Guest("DE"), sku, 3)
	require.NoError(t, err)
	orders, errs := atOnce(10, func(int) (*orderv1.Order, error) { return c.checkout(ctx) })
	for i, err := range errs {
		require.NoError(t, err)
		require.Equal(t, orders[0].GetOrderId(), orders[i].GetOrderId())
		require.Equal(t, orderv1.Order_STATE_PLACED, orders[i].GetState())
	}
	after := open.books(t)
	total := 3 * prices["DE"].GetMinorUnits()
	require.EqualValues(t, 1, after.Orders.GetOrders()["placed"]-before.Orders.GetOrders()["placed"])
	require.EqualValues(t, 1, payments(after, "sandbox-de")-payments(before, "sandbox-de"))
	require.EqualValues(t, 3, after.Stock.GetUnits()["reserved"]-before.Stock.GetUnits()["reserved"])
	require.Equal(t, total, after.Companies["sandbox-de"].Authorized-before.Companies["sandbox-de"].Authorized, "the company was asked once")
	require.Equal(t, before.Companies["sandbox-de"].Voided, after.Companies["sandbox-de"].Voided, "and nothing was taken back")
}

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// What it costs to tell of orders does not depend on how many there are: the
// statements of a delivery of the bus are the same for one and for a hundred.
func TestNewsCostAFixedNumberOfStatements(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.service.stop() // the queue's own statements are not counted
	s.service.work.Wait()
	s.put(t, boss, "main")
	s.LogStatements(t)
	for range 10 {
		_, _ = s.inbox(boss).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{})
	}
	orders := func(n int) []proto.Message {
		var out []proto.Message
		for range n {
			out = append(out, &orderv1.OrderPlaced{
				OrderId: id.New("ord"), Market: "GB", AccountId: "acc_ann", EmailRef: "vlt_00000000000000000000000000", Total: gbp(5),
				Lines: []*orderv1.Line{{Sku: "sku_1", MerchantId: "mrc_a", Title: "Pot", Quantity: 1, Total: gbp(5)}},
			})
		}
		return out
	}
	require.NoError(t, s.Deliver(t.Context(), "trade", orders(1)...)) // the horizon is read once
	for _, n := range []int{1, 100} {
		all := s.Statements(t, func() { require.NoError(t, s.Deliver(t.Context(), "trade", orders(n)...)) })
		var kinds []string
		for _, one := range all {
			kinds = append(kinds, strings.Join(strings.Fields(one)[:min(3, len(strings.Fields(one)))], " "))
		}
		require.Len(t, all, 9, "%d orders: %v", n, fmt.Sprint(kinds))
	}
	require.Len(t, s.queue(t), 4, "inbox and mail of ann, inbox and endpoint of the merchant: by name")
}

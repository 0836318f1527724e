package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
)

func TestWhatPeopleMayDoOftenIsBounded(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	about := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	for range maxPerHour {
		say(t, h.ann, about, "?", false)
	}
	_, err := h.ann.PostMessage(t.Context(), &aftersalev1.PostMessageRequest{Topic: about, MessageKey: "more", Text: "?"})
	refusedAs(t, "TOO_MANY_MESSAGES", err)
	say(t, h.seller, about, "!", false)

	_, err = h.Admin.Exec(t.Context(), `INSERT INTO p_aftersale.case_file (id, order_id, merchant, application, digest, kind, reason, remedy, state, market, currency, account, blobs, policy)
		SELECT 'afs_' || n, $1, 'mrc_one', 'app' || n, '', 1, 1, 1, 9, 'DE', 'EUR', '', '{}', '' FROM generate_series(1, $2::int) n`, order, maxCases)
	require.NoError(t, err)
	_, err = h.ann.Apply(t.Context(), application(order, returning, 0, "sku_tea", 1))
	refusedAs(t, "TOO_MANY_CASES", err)
}

// With BEGIN and COMMIT, of one line or of a hundred.
const (
	wantApply   = 14
	wantMessage = 15
)

// What an application and a message cost of the database, whatever an order
// holds.
func TestAnApplicationAndAMessageCostAFixedNumberOfStatements(t *testing.T) {
	t.Parallel()
	h := open(t)
	var lines []bought
	for i := range 20 {
		lines = append(lines, bought{sku: fmt.Sprint("sku_", i), quantity: 3, price: 100})
	}
	order := h.delivered(t, 1, 0, lines...)
	// Whatever connects from here on is logged. Sessions of before do not log:
	// each is found dead once.
	h.LogStatements(t)
	for range 10 {
		_, _ = h.guest.ListRights(t.Context(), &aftersalev1.ListRightsRequest{Market: "DE"})
	}
	req := application(order, returning, 0, "sku_0", 1)
	for _, l := range lines[1:10] {
		req.Lines = append(req.Lines, &aftersalev1.ApplyLine{Sku: l.sku, Quantity: 1})
	}
	n := len(h.Statements(t, func() { h.apply(t, req) }))
	t.Logf("an application of %d lines: %d", len(req.GetLines()), n)
	require.Equal(t, wantApply, n)
	topic := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	n = len(h.Statements(t, func() { say(t, h.ann, topic, "well?", false) }))
	t.Logf("a message: %d", n)
	require.Equal(t, wantMessage, n)
}

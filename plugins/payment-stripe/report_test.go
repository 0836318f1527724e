package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
)

// many is more than Stripe lists at once.
const many = 230

func TestTheReportHasEverythingOnce(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for i := range many {
		n := strconv.Itoa(i)
		b.fake.mu.Lock()
		b.fake.make("payment_intents", "pi", object{
			"object": "payment_intent", "amount": int64(100), "currency": "gbp", "status": "requires_capture", "amount_capturable": int64(100), "amount_received": int64(0),
			"metadata": object{metaKey: "bulk" + n, metaInstance: "payment-stripe"},
		})
		b.fake.make("refunds", "re", object{"object": "refund", "amount": int64(5), "currency": "gbp", "status": "succeeded", "metadata": object{metaKey: "back" + n, metaInstance: "payment-stripe"}})
		b.fake.mu.Unlock()
	}
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	b.must(t, capture, "c1", pay, 600)
	b.must(t, void, "v1", pay, 0)
	b.must(t, refund, "r1", pay, 100)
	b.must(t, payout, "p1", "", 500)
	_, err := b.authorize(t, "a2", 1000, "pm_card_declined")
	require.NoError(t, err)

	// What others did in the same account: another instance, people in the
	// Dashboard, another program.
	b.fake.mu.Lock()
	b.fake.make("payment_intents", "pi", object{"object": "payment_intent", "amount": int64(9), "currency": "gbp", "status": "requires_capture", "metadata": object{metaKey: "x", metaInstance: "stripe-de"}})
	b.fake.make("payment_intents", "pi", object{"object": "payment_intent", "amount": int64(9), "currency": "gbp", "status": "requires_payment_method", "metadata": object{}})
	foreign := b.fake.make("payment_intents", "pi", object{
		"object": "payment_intent", "amount": int64(9), "amount_received": int64(9), "currency": "gbp", "status": "succeeded", "metadata": object{}, "latest_charge": object{"id": "ch_x", "object": "charge", "status": "succeeded"},
	})["id"].(string)
	byHand := b.fake.make("refunds", "re", object{"object": "refund", "amount": int64(7), "currency": "gbp", "status": "succeeded", "metadata": object{}})["id"].(string)
	b.fake.mu.Unlock()
	// Metadata that claims more than Stripe captured is not believed.
	lied := b.hold(t, "a3", 1000, "pm_card_visa")
	b.fake.change("payment_intents", lied, func(o object) {
		o["metadata"].(object)[captureName("c9")] = taken{1000, time.Now().Unix(), "c9"}.String()
	})

	all, _ := b.report(t, &providerv1.ReportRequest{})
	told := map[string]*providerv1.Outcome{}
	for _, o := range all {
		require.Nil(t, told[o.GetKey()+o.GetOperation().String()], "%s is told twice", o.GetKey())
		told[o.GetKey()+o.GetOperation().String()] = o
	}
	for key, want := range map[string]int64{
		"a1OPERATION_AUTHORIZE": 1000, "c1OPERATION_CAPTURE": 600, "v1OPERATION_VOID": 400, "r1OPERATION_REFUND": 100, "p1OPERATION_PAYOUT": 500, "a2OPERATION_AUTHORIZE": 1000,
		"a3OPERATION_AUTHORIZE": 1000, "stripe/" + foreign + "OPERATION_AUTHORIZE": 9, "stripe/ch_xOPERATION_CAPTURE": 9, "stripe/" + byHand + "OPERATION_REFUND": 7,
	} {
		require.NotNil(t, told[key], key)
		require.Equal(t, want, told[key].GetAmount().GetMinorUnits(), key)
	}
	require.Equal(t, declinedEnd, told["a2OPERATION_AUTHORIZE"].GetStatus())
	require.Len(t, all, 2*many+10)

	since, _ := b.report(t, &providerv1.ReportRequest{Since: timestamppb.New(time.Now().Add(time.Hour))})
	require.Empty(t, since)
}

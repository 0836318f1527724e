package main

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	stripehook "github.com/stripe/stripe-go/v85/webhook"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

const (
	oldSecret = "whsec_old"
	newSecret = "whsec_new"
)

// event is one of Stripe's, about an object.
func event(t testing.TB, id, kind string, of object) []byte {
	t.Helper()
	body, err := json.Marshal(object{"id": id, "object": "event", "type": kind, "api_version": apiVersion, "created": time.Now().Unix(), "data": object{"object": of}})
	require.NoError(t, err)
	return body
}

func signature(body []byte, secret string, at time.Time) string {
	return stripehook.GenerateTestSignedPayload(&stripehook.UnsignedPayload{Payload: body, Secret: secret, Timestamp: at}).Header
}

// deliver is Stripe that tells; it answers how it was answered.
func (b bank) deliver(t testing.TB, body []byte, header string) int32 {
	t.Helper()
	res, err := pluginv1connect.NewWebhookServiceClient(b.Client(call.Info{})).HandleWebhook(t.Context(), &pluginv1.HandleWebhookRequest{
		Instance: "payment-stripe", Method: http.MethodPost, Body: body, Headers: map[string]string{signatureHeader: header},
	})
	require.NoError(t, err)
	return res.GetStatus()
}

func (b bank) tell(t testing.TB, id, kind string, of object) {
	t.Helper()
	body := event(t, id, kind, of)
	require.Zero(t, b.deliver(t, body, signature(body, newSecret, time.Now())))
}

func (b bank) heard(t testing.TB) (all []*providerv1.TransactionUpdated) {
	t.Helper()
	for _, e := range b.Published(t) {
		if u, ok := e.(*providerv1.TransactionUpdated); ok {
			require.Equal(t, "payment-stripe", u.GetInstance())
			require.Equal(t, u.GetKey(), u.GetOutcome().GetKey())
			all = append(all, u)
		}
	}
	return all
}

func TestOnlyWhatIsSignedNowIsHeard(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]any{"webhook_tolerance": "1m"})
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	body := event(t, "evt_1", "payment_intent.amount_capturable_updated", b.fake.change("payment_intents", pay, func(object) {}))
	now := time.Now()
	good := signature(body, newSecret, now)
	for name, header := range map[string]string{
		"none": "", "nonsense": "t=1,v1", "another's": signature(body, "whsec_other", now), "old": signature(body, newSecret, now.Add(-2*time.Minute)),
		"ahead": signature(body, newSecret, now.Add(2*time.Minute)), "of another body": signature([]byte("{}"), newSecret, now), "no time": good[len("t=1234567890,"):],
		"test scheme": "t=" + good[2:12] + ",v0=" + good[len("t=1234567890,v1="):],
	} {
		require.EqualValues(t, http.StatusUnauthorized, b.deliver(t, body, header), name)
	}
	require.Empty(t, b.heard(t))
	require.Zero(t, b.deliver(t, body, signature(body, oldSecret, now)), "the secret that is being replaced is good too")
	require.Zero(t, b.deliver(t, body, good+",v1=00"), "one good signature of several is enough")
	require.Len(t, b.heard(t), 1, "told twice, it is published once")
	for _, wrong := range []string{"", "[]", `{"object": "v2.core.event"}`, `{"object": "event"}`} {
		require.EqualValues(t, http.StatusBadRequest, b.deliver(t, []byte(wrong), signature([]byte(wrong), newSecret, now)))
	}
}

func TestEventsTellOfOperationsInAnyOrder(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	snapshot := func(kind, id string) (out object) {
		b.fake.change(kind, id, func(o object) {
			raw, err := json.Marshal(o)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &out))
		})
		if c, ok := out["latest_charge"].(object); ok {
			out["latest_charge"] = c["id"] // as events have it
		}
		return out
	}
	heldThen := snapshot("payment_intents", pay)
	b.must(t, capture, "c1", pay, 600)
	b.must(t, void, "v1", pay, 0)
	takenThen := snapshot("payment_intents", pay)
	back := b.must(t, refund, "r1", pay, 100)
	paid := b.must(t, payout, "p1", "", 500)
	gone := b.hold(t, "a2", 300, "pm_card_visa")
	b.must(t, void, "v2", gone, 0)
	_, err := b.authorize(t, "a3", 1000, "pm_card_stolen")
	require.NoError(t, err)
	var no object
	for _, o := range b.fake.made["payment_intents"] {
		if o["metadata"].(object)[metaKey] == "a3" {
			no = snapshot("payment_intents", o["id"].(string))
		}
	}

	b.tell(t, "evt_5", "refund.created", snapshot("refunds", back.GetReference()))
	b.tell(t, "evt_2", "payment_intent.succeeded", takenThen)
	b.tell(t, "evt_1", "payment_intent.amount_capturable_updated", heldThen)
	b.tell(t, "evt_3", "payment_intent.canceled", snapshot("payment_intents", gone))
	b.tell(t, "evt_4", "payment_intent.payment_failed", no)
	b.tell(t, "evt_6", "transfer.created", snapshot("transfers", paid.GetReference()))
	b.tell(t, "evt_6", "transfer.created", snapshot("transfers", paid.GetReference()))
	b.tell(t, "evt_7", "customer.created", object{"id": "cus_1"})
	b.tell(t, "evt_8", "something.new", object{"id": "new_1"})
	b.tell(t, "evt_9", "payment_intent.succeeded", object{"id": 7})
	b.tell(t, "evt_10", "payment_intent.created", object{"id": "pi_x", "object": "payment_intent", "status": "succeeded", "amount": 5, "currency": "gbp"})

	told := map[string]*providerv1.Outcome{}
	for _, u := range b.heard(t) {
		require.Nil(t, told[u.GetKey()], "%s is told twice", u.GetKey())
		told[u.GetKey()] = u.GetOutcome()
	}
	require.Len(t, told, 7, "what others did is not told")
	for key, want := range map[string]int64{"a1": 1000, "c1": 600, "v1": 400, "r1": 100, "p1": 500, "v2": 300, "a3": 1000} {
		o := told[key]
		require.NotNil(t, o, key)
		require.Equal(t, want, o.GetAmount().GetMinorUnits(), key)
		require.Equal(t, key == "a3", o.GetStatus() == declinedEnd, key)
		said, err := b.lookup(t, key)
		require.NoError(t, err)
		require.Equal(t, said.GetStatus(), o.GetStatus(), key)
		require.Equal(t, said.GetReference(), o.GetReference(), key)
	}
	require.Equal(t, "card_declined", told["a3"].GetCode())
}

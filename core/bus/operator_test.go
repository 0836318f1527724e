package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

func noSagas(context.Context, pgx.Tx) (map[string]int64, error) {
	return map[string]int64{"done": 3}, nil
}

// linked finds messages that are linked into the test.
func linked(name protoreflect.FullName) protoreflect.MessageDescriptor {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil
	}
	md, _ := d.(protoreflect.MessageDescriptor)
	return md
}

func TestTheOperatorSeesLagAndWhatIsSetAsideAndRetriesOrDiscardsIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	var cured atomic.Bool
	m.handle = func(e *pluginv1.Event) error {
		if string(e.GetPayload()) == "bad" && !cured.Load() {
			return errors.New("no")
		}
		return nil
	}
	b := h.start(m)
	o := NewOperator(b, noSagas, linked)
	b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, MaxAttempts: 1}))
	m.publish("k1", "bad", "one")
	m.publish("k2", "bad", "two")
	h.eventually("both keys stand", func() bool {
		return h.number(`SELECT count(*) FROM bus.parked`) == 4 && h.number(`SELECT count(*) FROM bus.parked WHERE dead`) == 2
	})
	status, err := o.GetBus(t.Context(), &operatorv1.GetBusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 4, status.GetHead())
	require.EqualValues(t, 3, status.GetSagas()["done"])
	s := status.GetSubscriptions()[0]
	require.Equal(t, "order/all", s.GetSubscription())
	require.Equal(t, []int64{0, 2, 2}, []int64{s.GetLag(), s.GetParked(), s.GetDead()})

	var listed []*operatorv1.ParkedEvent
	token := ""
	for range 4 {
		page, err := o.ListParked(t.Context(), &operatorv1.ListParkedRequest{Subscription: "order/all", PageSize: 1, PageToken: token})
		require.NoError(t, err)
		listed, token = append(listed, page.GetEvents()...), page.GetNextPageToken()
	}
	require.Empty(t, token)
	require.Len(t, listed, 4)
	require.Equal(t, "no", listed[0].GetError())
	require.Equal(t, "k1", listed[0].GetKey())
	require.True(t, listed[0].GetDead())
	_, err = o.ListParked(t.Context(), &operatorv1.ListParkedRequest{PageToken: "rubbish"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))

	who := call.With(t.Context(), call.Info{Principal: call.Principal{Kind: call.Operator, Account: "acc_1"}})
	_, err = o.DiscardParked(who, &operatorv1.DiscardParkedRequest{Subscription: "order/all", Position: listed[0].GetPosition(), Reason: "obsolete"})
	require.NoError(t, err)
	h.handled(m, 1)
	require.Equal(t, []string{"one"}, h.effects(m), "its key flows on")
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.discarded WHERE reason = 'obsolete' AND who = 'operator acc_1'`))
	_, err = o.DiscardParked(who, &operatorv1.DiscardParkedRequest{Subscription: "order/all", Position: listed[0].GetPosition(), Reason: "obsolete"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))

	cured.Store(true)
	res, err := o.RetryParked(t.Context(), &operatorv1.RetryParkedRequest{Subscription: "order/all"})
	require.NoError(t, err)
	require.EqualValues(t, 2, res.GetRetried())
	h.handled(m, 3)
	require.Equal(t, []string{"one", "bad", "two"}, h.effects(m))
	_, err = o.RetryParked(t.Context(), &operatorv1.RetryParkedRequest{Subscription: "order/none"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestReplayDeliversAgainFromAPosition(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	o := NewOperator(b, noSagas, linked)
	b.register(t, m.registration(everything()))
	for i := range 20 {
		m.publish(fmt.Sprintf("k%d", i%5), fmt.Sprint(i))
	}
	h.handled(m, 20)
	_, err := o.Replay(t.Context(), &operatorv1.ReplayRequest{Subscription: "order/all", FromPosition: 12})
	require.NoError(t, err)
	h.handled(m, 28)
	_, err = o.Replay(t.Context(), &operatorv1.ReplayRequest{Subscription: "order/all"})
	require.NoError(t, err)
	h.handled(m, 48)
	require.EqualValues(t, 12, h.number(`SELECT count(*) FROM (SELECT pos FROM `+m.role+`.effect GROUP BY pos HAVING count(*) = 2) x`))
	require.EqualValues(t, 8, h.number(`SELECT count(*) FROM (SELECT pos FROM `+m.role+`.effect GROUP BY pos HAVING count(*) = 3) x`))
}

func TestAPausedSubscriptionGetsNothingUntilItRuns(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	o := NewOperator(b, noSagas, linked)
	b.register(t, m.registration(everything()))
	_, err := o.SetSubscription(t.Context(), &operatorv1.SetSubscriptionRequest{Subscription: "order/all", Paused: true})
	require.NoError(t, err)
	m.publish("k", "a")
	h.eventually("it lags", func() bool {
		status, err := o.GetBus(t.Context(), &operatorv1.GetBusRequest{})
		require.NoError(t, err)
		s := status.GetSubscriptions()[0]
		return s.GetState() == "paused" && s.GetLag() == 1
	})
	require.Empty(t, h.effects(m))
	_, err = o.SetSubscription(t.Context(), &operatorv1.SetSubscriptionRequest{Subscription: "order/all"})
	require.NoError(t, err)
	h.handled(m, 1)
}

func TestAProviderPublishesWhatItsManifestListsOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	b.register(t, m.registration(sub("ticks", topicTick)))
	caller := Caller{Plugin: "bank", Instances: []string{"bank-gb"}, Publishes: []string{topicTick, "entrepot.nobody.v1.Knows", "entrepot.plugin.v1.Event"}}
	p := NewPublisher(b, func(context.Context) (Caller, bool) { return caller, true }, linked)
	payload, err := proto.Marshal(&pluginv1.Tick{Schedule: "order/x"})
	require.NoError(t, err)
	good := func() *kernelv1.PublishRequest {
		return &kernelv1.PublishRequest{Instance: "bank-gb", Topic: topicTick, Key: "order/x", Payload: payload, DedupeId: "w1"}
	}
	for name, c := range map[string]struct {
		change func(*kernelv1.PublishRequest)
		code   connect.Code
	}{
		"another's instance":         {func(r *kernelv1.PublishRequest) { r.Instance = "other" }, connect.CodePermissionDenied},
		"a topic it does not list":   {func(r *kernelv1.PublishRequest) { r.Topic = topic }, connect.CodePermissionDenied},
		"a topic nobody describes":   {func(r *kernelv1.PublishRequest) { r.Topic = "entrepot.nobody.v1.Knows" }, connect.CodeInvalidArgument},
		"a message that is no event": {func(r *kernelv1.PublishRequest) { r.Topic = "entrepot.plugin.v1.Event" }, connect.CodeInvalidArgument},
		"a payload that is rubbish":  {func(r *kernelv1.PublishRequest) { r.Payload = []byte{0xff} }, connect.CodeInvalidArgument},
		"a key that is not its own":  {func(r *kernelv1.PublishRequest) { r.Key = "order/y" }, connect.CodeInvalidArgument},
		"a key with a NUL":           {func(r *kernelv1.PublishRequest) { r.Key = "a\x00" }, connect.CodeInvalidArgument},
		"no id of its own":           {func(r *kernelv1.PublishRequest) { r.DedupeId = "" }, connect.CodeInvalidArgument},
		"too much":                   {func(r *kernelv1.PublishRequest) { r.Payload = make([]byte, 300_000) }, connect.CodeInvalidArgument},
	} {
		req := good()
		c.change(req)
		_, err := p.Publish(t.Context(), req)
		require.Equal(t, c.code, connect.CodeOf(err), "%s: %v", name, err)
	}
	first, err := p.Publish(t.Context(), good())
	require.NoError(t, err)
	require.True(t, first.GetPublished())
	second, err := p.Publish(t.Context(), good())
	require.NoError(t, err)
	require.False(t, second.GetPublished())
	h.handled(m, 1)
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.log WHERE source = 'bank'`))
	nobody := NewPublisher(b, func(context.Context) (Caller, bool) { return Caller{}, false }, linked)
	_, err = nobody.Publish(t.Context(), good())
	require.Equal(t, "CALLER_UNKNOWN", fault.Reason(err))
}

// Package host is what a plugin may ask of the kernel and, through it, of
// other plugins. Everything goes over the one private socket of the process;
// the kernel knows the caller by it and lets the original principal of the
// call at hand ride along.
package host

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// Host is one plugin's line to the kernel. Safe for concurrent use.
type Host struct {
	client *connect.Client
	// Vault seals and reveals personal data.
	Vault kernelv1connect.VaultServiceClient
	// State is small key-value state for providers.
	State kernelv1connect.StateServiceClient
	// Blobs keeps photos, labels and documents, and makes links to them.
	Blobs kernelv1connect.BlobServiceClient
	// Instances tells which instances of a contract there are to choose from;
	// ToInstance then makes calls go to one of them.
	Instances kernelv1connect.InstanceServiceClient
	bus       kernelv1connect.BusServiceClient
	sagas     kernelv1connect.SagaServiceClient
}

// New makes a host over a transport to the kernel's socket.
func New(t connect.Transport) *Host {
	c := connect.NewClient(t, carry)
	return &Host{
		client:    c,
		Vault:     kernelv1connect.NewVaultServiceClient(c),
		State:     kernelv1connect.NewStateServiceClient(c),
		Blobs:     kernelv1connect.NewBlobServiceClient(c),
		Instances: kernelv1connect.NewInstanceServiceClient(c),
		bus:       kernelv1connect.NewBusServiceClient(c),
		sagas:     kernelv1connect.NewSagaServiceClient(c),
	}
}

// Client is for the generated clients of other contracts, for example
// catalogv1connect.NewQuoteServiceClient(h.Client()). Principal, market,
// request id, trace and deadline of the call at hand ride along.
func (h *Host) Client() *connect.Client { return h.client }

type targetKey struct{}

type target struct{ market, instance, key string }

// ToInstance makes calls with the context go to a named instance: the one
// that acted before on the thing at hand.
func ToInstance(ctx context.Context, instance string) context.Context {
	t, _ := ctx.Value(targetKey{}).(target)
	t.instance = instance
	return context.WithValue(ctx, targetKey{}, t)
}

// InMarket makes calls with the context resolve their provider for a market.
func InMarket(ctx context.Context, market string) context.Context {
	t, _ := ctx.Value(targetKey{}).(target)
	t.market = market
	return context.WithValue(ctx, targetKey{}, t)
}

// WithIdempotencyKey gives calls with the context an idempotency key.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	t, _ := ctx.Value(targetKey{}).(target)
	t.key = key
	return context.WithValue(ctx, targetKey{}, t)
}

// ErrInTransaction is returned by calls made while a transaction is open: it
// would hold locks for as long as another process takes.
var ErrInTransaction = errors.New("host: a transaction is open; call other processes before or after it")

// carry puts the facts of the call at hand on an outgoing one.
func carry(next connect.ClientFunc) connect.ClientFunc {
	return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
		if store.InTransaction(ctx) {
			return nil, fmt.Errorf("%s: %w", spec.Procedure, ErrInTransaction)
		}
		in := call.From(ctx)
		t, _ := ctx.Value(targetKey{}).(target)
		out := call.Info{
			Market: in.Market, RequestID: in.RequestID, Traceparent: in.Traceparent,
			Instance: t.instance, IdempotencyKey: t.key,
		}
		if t.market != "" {
			out.Market = t.market
		}
		if info, ok := connect.CallInfoForClientContext(ctx); ok {
			out.Encode(info.RequestHeader().Set)
		}
		return next(ctx, spec)
	}
}

// RunSaga drives a saga that has just been committed and waits for its end.
// Done is a nil error. A saga whose step was refused answers that refusal, as
// the step's module gave it, after everything before it was undone. While it
// goes on when ctx ends: deadline_exceeded; it ends without the caller.
func (h *Host) RunSaga(ctx context.Context, s *saga.Started) error {
	req := &kernelv1.RunRequest{SagaId: s.ID, Wait: true}
	if !s.Existing {
		req.Definition, req.Version, req.Input = s.Definition, s.Version, s.Input
	}
	return h.run(ctx, req)
}

// AwaitSaga waits for the end of a saga that was started before.
func (h *Host) AwaitSaga(ctx context.Context, id string) error {
	return h.run(ctx, &kernelv1.RunRequest{SagaId: id, Wait: true})
}

// LaunchSaga lets the kernel drive a saga and does not wait.
func (h *Host) LaunchSaga(ctx context.Context, s *saga.Started) error {
	req := &kernelv1.RunRequest{SagaId: s.ID}
	if !s.Existing {
		req.Definition, req.Version, req.Input = s.Definition, s.Version, s.Input
	}
	return h.run(ctx, req)
}

func (h *Host) run(ctx context.Context, req *kernelv1.RunRequest) error {
	res, err := h.sagas.Run(ctx, req)
	if err != nil {
		return Relay(err)
	}
	switch res.GetState() {
	case kernelv1.SagaState_SAGA_STATE_COMPENSATED:
		return refusal(res)
	case kernelv1.SagaState_SAGA_STATE_STUCK:
		return fault.New(connect.CodeFailedPrecondition, "SAGA_STUCK", "this cannot be finished now; the operator is told", "step", res.GetStep())
	}
	return nil
}

// refusal is the error that the refused step answered.
func refusal(res *kernelv1.RunResponse) error {
	st := &spb.Status{}
	if err := proto.Unmarshal(res.GetError(), st); err != nil || st.GetCode() == 0 {
		return fault.New(connect.CodeAborted, "SAGA_COMPENSATED", "the step "+res.GetStep()+" did not succeed; everything was undone")
	}
	return fault.FromStatus(st)
}

// Publish is for providers: it puts an event on the bus in a transaction of
// the kernel's. dedupeID is the sender's own id of the fact; it is published
// once.
func (h *Host) Publish(ctx context.Context, instance string, event proto.Message, dedupeID string) error {
	o, err := store.Encode(event)
	if err != nil {
		return err
	}
	_, err = h.bus.Publish(ctx, &kernelv1.PublishRequest{
		Instance: instance, Topic: o.Topic, Key: o.Key, Payload: o.Payload, DedupeId: dedupeID,
	})
	return Relay(err)
}

// Relay makes an error of another process one that the caller may see: code,
// reason and words stay. An error that nobody authored keeps only its code.
func Relay(err error) error {
	var ce *connect.Error
	if err == nil || !errors.As(err, &ce) || !ce.IsRemote() {
		return err
	}
	out := connect.NewError(ce.Code(), ce.Message())
	for _, d := range ce.Details() {
		out = out.WithDetail(d)
	}
	return out.WithCause(err)
}

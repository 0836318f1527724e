package plugintest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// kernel answers what a plugin asks: it runs sagas in memory, keeps a vault,
// blobs and provider state, lists instances, and collects what providers
// publish.
type kernel struct {
	server *connect.Server
	module *Module
	blobs  *blobs

	mu        sync.Mutex
	records   map[string]*kernelv1.Revealed
	state     map[string]*kernelv1.GetStateResponse
	published []proto.Message
	told      map[string]bool
	ended     map[string]*kernelv1.RunResponse
	running   map[string]*sync.Mutex
}

func newKernel(m *Module, o options) *kernel {
	k := &kernel{
		server: connect.NewServer(facts), module: m, blobs: newBlobs(), records: make(map[string]*kernelv1.Revealed),
		state: make(map[string]*kernelv1.GetStateResponse), told: make(map[string]bool),
		ended: make(map[string]*kernelv1.RunResponse), running: make(map[string]*sync.Mutex),
	}
	kernelv1connect.RegisterBusServiceHandler(k.server, k)
	kernelv1connect.RegisterSagaServiceHandler(k.server, k)
	kernelv1connect.RegisterVaultServiceHandler(k.server, k)
	kernelv1connect.RegisterStateServiceHandler(k.server, k)
	if o.neighbours != nil {
		o.neighbours(k.server)
	}
	if !serves(k.server, kernelv1connect.BlobServiceName) {
		kernelv1connect.RegisterBlobServiceHandler(k.server, k.blobs)
	}
	if !serves(k.server, kernelv1connect.InstanceServiceName) {
		kernelv1connect.RegisterInstanceServiceHandler(k.server, &bound{module: m, all: o.instances})
	}
	return k
}

// facts gives fakes the call's facts as a plugin's server would.
func facts(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			f, err := call.Decode(info.RequestHeader().Get)
			if err != nil {
				return err
			}
			ctx = call.With(ctx, f)
		}
		return next(ctx, spec, stream)
	}
}

func (k *kernel) Publish(_ context.Context, req *kernelv1.PublishRequest) (*kernelv1.PublishResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.told[req.GetDedupeId()] {
		return &kernelv1.PublishResponse{}, nil
	}
	m, err := message(req.GetTopic(), req.GetPayload())
	if err != nil {
		return nil, err
	}
	k.told[req.GetDedupeId()] = true
	k.published = append(k.published, m)
	return &kernelv1.PublishResponse{Published: true}, nil
}

func (k *kernel) publishedByProvider() []proto.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]proto.Message(nil), k.published...)
}

func (k *kernel) Seal(_ context.Context, req *kernelv1.SealRequest) (*kernelv1.SealResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	res := &kernelv1.SealResponse{SubjectId: req.GetSubjectId()}
	if res.GetSubjectId() == "" {
		res.SubjectId, res.WrappedKey = id.New("sub"), []byte("key")
	}
	for _, it := range req.GetItems() {
		ref := id.New("vlt")
		k.records[ref] = &kernelv1.Revealed{Ref: ref, Kind: it.GetKind(), Plaintext: it.GetPlaintext()}
		res.Items = append(res.Items, &kernelv1.SealedItem{Ref: ref, Kind: it.GetKind(), Ciphertext: []byte("sealed")})
	}
	return res, nil
}

func (k *kernel) Reveal(_ context.Context, req *kernelv1.RevealRequest) (*kernelv1.RevealResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.module.manifest; !has(m.GetReveals(), req.GetPurpose()) {
		return nil, fault.New(connect.CodePermissionDenied, "SCOPE_MISSING", "the manifest does not hold the purpose", "purpose", req.GetPurpose())
	}
	res := &kernelv1.RevealResponse{}
	for _, ref := range req.GetRefs() {
		r := k.records[ref]
		if r == nil {
			r = &kernelv1.Revealed{Ref: ref}
		}
		res.Items = append(res.Items, r)
	}
	return res, nil
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (k *kernel) GetState(_ context.Context, req *kernelv1.GetStateRequest) (*kernelv1.GetStateResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.state[req.GetInstance()+"/"+req.GetKey()]; s != nil {
		return s, nil
	}
	return &kernelv1.GetStateResponse{}, nil
}

func (k *kernel) PutState(_ context.Context, req *kernelv1.PutStateRequest) (*kernelv1.PutStateResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := req.GetInstance() + "/" + req.GetKey()
	if k.state[key].GetVersion() != req.GetExpectedVersion() {
		return nil, fault.New(connect.CodeAborted, "VERSION", "another version is stored")
	}
	k.state[key] = &kernelv1.GetStateResponse{Version: req.GetExpectedVersion() + 1, Value: req.GetValue()}
	return &kernelv1.PutStateResponse{Version: req.GetExpectedVersion() + 1}, nil
}

// Run drives a saga in memory: forward until a step is refused, then back.
// Transport faults are the test's to make: each step is called up to three
// times.
func (k *kernel) Run(ctx context.Context, req *kernelv1.RunRequest) (*kernelv1.RunResponse, error) {
	k.mu.Lock()
	lock := k.running[req.GetSagaId()]
	if lock == nil {
		lock = new(sync.Mutex)
		k.running[req.GetSagaId()] = lock
	}
	k.mu.Unlock()
	lock.Lock()
	defer lock.Unlock()
	k.mu.Lock()
	res := k.ended[req.GetSagaId()]
	k.mu.Unlock()
	if res != nil {
		return res, nil
	}
	def, input, err := k.module.saga(ctx, req.GetSagaId())
	if err != nil {
		return nil, err
	}
	res, err = k.drive(ctx, req.GetSagaId(), def, input)
	if err != nil {
		return nil, err
	}
	if res.GetState() != kernelv1.SagaState_SAGA_STATE_WAITING {
		k.mu.Lock()
		k.ended[req.GetSagaId()] = res
		k.mu.Unlock()
	}
	return res, nil
}

func (k *kernel) drive(ctx context.Context, saga string, def *pluginv1.SagaDefinition, in *kernelv1.SagaInput) (*kernelv1.RunResponse, error) {
	steps := def.GetSteps()
	for i, s := range steps {
		if s.GetMethod() == "" {
			continue
		}
		st := call.Step{Saga: saga, N: i + 1, Epoch: 1, Last: i == len(steps)-1}
		body, given, err := k.request(ctx, saga, s, in)
		if err != nil {
			return nil, err
		}
		if !given {
			return &kernelv1.RunResponse{State: kernelv1.SagaState_SAGA_STATE_WAITING, Step: s.GetName()}, nil
		}
		err = k.step(ctx, s.GetMethod(), body, in.GetMarket(), st)
		if err == nil {
			continue
		}
		for j := i - 1; j >= 0; j-- {
			if steps[j].GetCompensation() == "" {
				continue
			}
			body, ok := in.GetRequests()[steps[j].GetName()+".undo"]
			if !ok {
				body = in.GetRequests()[steps[j].GetName()]
			}
			if uerr := k.step(ctx, steps[j].GetCompensation(), body, in.GetMarket(), call.Step{Saga: saga, N: j + 1, Undo: true, Epoch: 1, Last: j == 0}); uerr != nil {
				return nil, fmt.Errorf("undo of %s: %w", steps[j].GetName(), uerr)
			}
		}
		b, merr := proto.Marshal(fault.Status(err))
		if merr != nil {
			return nil, merr
		}
		return &kernelv1.RunResponse{State: kernelv1.SagaState_SAGA_STATE_COMPENSATED, Step: s.GetName(), Error: b}, nil
	}
	return &kernelv1.RunResponse{State: kernelv1.SagaState_SAGA_STATE_DONE}, nil
}

// request is what a step is asked: given with the saga, or by a signal.
func (k *kernel) request(ctx context.Context, saga string, s *pluginv1.SagaStep, in *kernelv1.SagaInput) (body []byte, given bool, err error) {
	body, given = in.GetRequests()[s.GetName()]
	if given && s.GetWaitSignal() == "" {
		return body, true, nil
	}
	name := s.GetWaitSignal()
	if name == "" {
		name = s.GetName()
	}
	rows, err := k.module.Admin.Query(ctx, "SELECT payload FROM bus.saga_signal WHERE saga = $1 AND name = $2", saga, name)
	if err != nil {
		return nil, false, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	if len(found[0]) > 0 {
		body = found[0]
	}
	return body, true, nil
}

// step calls one step at the module itself or at a neighbour.
func (k *kernel) step(ctx context.Context, procedure string, body []byte, market string, st call.Step) error {
	info := call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: k.module.manifest.GetName()}, Market: market, Step: &st}
	client, spec, in, out, err := k.target(procedure, info)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, in); err != nil {
		return err
	}
	for n := 0; ; n++ {
		err = client.CallUnary(ctx, spec, in, out)
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted:
			if n < 2 {
				continue
			}
		}
		return err
	}
}

func (k *kernel) target(procedure string, info call.Info) (*connect.Client, connect.Spec, proto.Message, proto.Message, error) {
	svc, method := split(procedure)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(svc))
	if err != nil {
		return nil, connect.Spec{}, nil, nil, err
	}
	md := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	if md == nil {
		return nil, connect.Spec{}, nil, nil, fmt.Errorf("no method %s", procedure)
	}
	spec := connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: procedure, Schema: md}
	in, out := newMessage(md.Input()), newMessage(md.Output())
	for _, s := range k.module.manifest.GetServes() {
		if s.GetContract() == string(md.ParentFile().Package()) {
			return k.module.Client(info), spec, in, out, nil
		}
	}
	return connect.NewClient(connectinprocess.New(k.server), func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if ci, ok := connect.CallInfoForClientContext(ctx); ok {
				info.Encode(ci.RequestHeader().Set)
			}
			return next(ctx, spec)
		}
	}), spec, in, out, nil
}

func split(procedure string) (service, method string) {
	for i := len(procedure) - 1; i > 0; i-- {
		if procedure[i] == '/' {
			return procedure[1:i], procedure[i+1:]
		}
	}
	return procedure, ""
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil {
		return t.New().Interface()
	}
	return dynamicpb.NewMessage(d)
}

func message(topic string, payload []byte) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(topic))
	if err != nil {
		return nil, err
	}
	m := t.New().Interface()
	return m, proto.Unmarshal(payload, m)
}

func decode(t testing.TB, topic string, payload []byte) proto.Message {
	t.Helper()
	m, err := message(topic, payload)
	require.NoError(t, err)
	return m
}

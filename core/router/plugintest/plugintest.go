// Package plugintest runs plugins inside of a test: a Connect server behind
// HTTP, described and registered as a real plugin process is. Their contracts
// are made on the spot, of methods that take and give a text.
package plugintest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/registry"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// Method is a method of a test's contract. Either Unary or Stream serves it.
type Method struct {
	Name          string
	Kind          connect.StreamType
	Access        *optionsv1.Access
	NoSideEffects bool
	Capability    string
	Unary         func(ctx context.Context, text string) (string, error)
	Stream        func(ctx context.Context, stream connect.ServerStream) error
}

// Allow is an access rule.
func Allow(permission string, a ...optionsv1.Audience) *optionsv1.Access {
	return &optionsv1.Access{Allow: a, Permission: permission}
}

// Public, ForPlugins: the two commonest rules.
var (
	Public     = Allow("", optionsv1.Audience_AUDIENCE_PUBLIC)
	ForPlugins = Allow("", optionsv1.Audience_AUDIENCE_PLUGIN)
)

// Plugin is what to run.
type Plugin struct {
	Name string
	// Contract is the proto package it serves, with one service "Test".
	Contract string
	Methods  []Method
	// Instances default to one of the plugin's name.
	Instances    []string
	Calls        []string
	Capabilities []string
	// Extra are methods outside of the contract, of the lifecycle's.
	Extra []connect.Method
	// Wrap, when set, stands before the plugin's handler.
	Wrap func(http.Handler) http.Handler
}

// Procedure is the path of a method of the plugin's contract.
func (p Plugin) Procedure(method string) string { return "/" + p.Contract + ".Test/" + method }

// Spec is what a client calls a method by.
func (p Plugin) Spec(method string) connect.Spec {
	for _, m := range p.Methods {
		if m.Name == method {
			return m.spec(p.Procedure(method), nil)
		}
	}
	return connect.Spec{Procedure: p.Procedure(method)}
}

func (m Method) spec(procedure string, schema any) connect.Spec {
	s := connect.Spec{Procedure: procedure, StreamType: m.Kind, Schema: schema}
	if m.NoSideEffects {
		s.IdempotencyLevel = connect.IdempotencyNoSideEffects
	}
	return s
}

// Running is a plugin that runs.
type Running struct {
	Plugin
	Manifest *pluginv1.Manifest
	Process  *registry.Process
	Server   *httptest.Server
}

// Start runs a plugin until the test ends and registers it.
func Start(t testing.TB, reg *registry.Registry, p Plugin) *Running {
	t.Helper()
	if p.Instances == nil {
		p.Instances = []string{p.Name}
	}
	r := &Running{Plugin: p, Manifest: &pluginv1.Manifest{
		Name: p.Name, Version: "1.0.0", Kind: pluginv1.Manifest_KIND_MODULE, Calls: p.Calls,
		Serves: []*pluginv1.ServedContract{{Contract: p.Contract, Capabilities: p.Capabilities}},
	}}
	r.serve(t)
	r.Register(t, reg, true)
	return r
}

// Register puts the plugin into the registry, with its present process.
func (r *Running) Register(t testing.TB, reg *registry.Registry, healthy bool) {
	t.Helper()
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto),
		protodesc.ToFileDescriptorProto(wrapperspb.File_google_protobuf_wrappers_proto),
		protodesc.ToFileDescriptorProto(optionsv1.File_entrepot_options_v1_options_proto),
		r.file(),
	}})
	require.NoError(t, err)
	describe := &pluginv1.DescribeResponse{Manifest: r.Manifest, Descriptors: raw}
	schema, err := registry.ReadSchema(describe)
	require.NoError(t, err)
	plugin := &registry.Plugin{Name: r.Name, Manifest: r.Manifest, Describe: describe, Process: r.Process, State: registry.Ready}
	var ins []*registry.Instance
	for _, name := range r.Instances {
		ins = append(ins, &registry.Instance{
			Name: name, Plugin: plugin, Contracts: map[string]bool{r.Contract: true}, Healthy: healthy,
		})
	}
	require.NoError(t, reg.Put(r.Name, plugin, ins, schema))
}

// Restart serves from a new process; the old one takes no more calls.
func (r *Running) Restart(t testing.TB, reg *registry.Registry) {
	t.Helper()
	old := r.Process
	r.serve(t)
	r.Register(t, reg, true)
	old.Close()
}

func (r *Running) serve(t testing.TB) {
	t.Helper()
	server := connect.NewServer(facts)
	for _, m := range r.Methods {
		server.Register(connect.Method{Spec: m.spec(r.Procedure(m.Name), nil), Handler: m.handle})
	}
	server.Register(r.Extra...)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	handler := http.Handler(mux)
	if r.Wrap != nil {
		handler = r.Wrap(handler)
	}
	r.Server = Listen(t, handler)
	r.Process = registry.NewProcess(1, To(t, r.Server, false), To(t, r.Server, true))
}

// Listen serves HTTP/1.1 and HTTP/2 without TLS until the test ends.
func Listen(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// Client is an HTTP client of either version.
func Client(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, MaxIdleConnsPerHost: 64}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// To carries requests to a server, whatever their URL's host.
func To(t testing.TB, s *httptest.Server, http2 bool) http.RoundTripper {
	t.Helper()
	return redirect{Client(t, http2).Transport, strings.TrimPrefix(s.URL, "http://")}
}

type redirect struct {
	next http.RoundTripper
	host string
}

func (r redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Scheme, u.Host = "http", r.host
	out.URL = &u
	return r.next.RoundTrip(out)
}

// facts puts what rides on a call into its context, as the SDK does.
func facts(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		info, _ := connect.CallInfoForServerContext(ctx)
		facts, err := call.Decode(info.RequestHeader().Get)
		if err != nil {
			return err
		}
		return next(call.With(ctx, facts), spec, stream)
	}
}

func (m Method) handle(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	if m.Stream != nil {
		return m.Stream(ctx, stream)
	}
	req := &wrapperspb.StringValue{}
	if err := stream.Receive(req); err != nil {
		return err
	}
	text, err := m.Unary(ctx, req.GetValue())
	if err != nil {
		return err
	}
	return stream.Send(wrapperspb.String(text))
}

// file is the schema of the contract.
func (r *Running) file() *descriptorpb.FileDescriptorProto {
	service := &descriptorpb.ServiceDescriptorProto{Name: proto.String("Test")}
	for _, m := range r.Methods {
		opts := &descriptorpb.MethodOptions{}
		if m.Access != nil {
			proto.SetExtension(opts, optionsv1.E_Access, m.Access)
		}
		if m.Capability != "" {
			proto.SetExtension(opts, optionsv1.E_Capability, m.Capability)
		}
		if m.NoSideEffects {
			opts.IdempotencyLevel = descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()
		}
		service.Method = append(service.Method, &descriptorpb.MethodDescriptorProto{
			Name: proto.String(m.Name), Options: opts,
			InputType: proto.String(".google.protobuf.StringValue"), OutputType: proto.String(".google.protobuf.StringValue"),
			ClientStreaming: proto.Bool(m.Kind&connect.StreamTypeClient != 0),
			ServerStreaming: proto.Bool(m.Kind&connect.StreamTypeServer != 0),
		})
	}
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String(r.Contract + ".proto"), Package: proto.String(r.Contract), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto", optionsv1.File_entrepot_options_v1_options_proto.Path()},
		Service:    []*descriptorpb.ServiceDescriptorProto{service},
	}
}

// Call makes a unary call with headers and gives back the text.
func Call(ctx context.Context, c *connect.Client, spec connect.Spec, text string, header ...string) (string, error) {
	ctx, info := connect.NewClientContext(ctx)
	for i := 0; i+1 < len(header); i += 2 {
		info.RequestHeader().Set(header[i], header[i+1])
	}
	res := &wrapperspb.StringValue{}
	if err := c.CallUnary(ctx, spec, wrapperspb.String(text), res); err != nil {
		return "", err
	}
	return res.GetValue(), nil
}

// Code is the code of an error that came over the wire.
func Code(err error) connect.Code {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return 0
	}
	return ce.Code()
}

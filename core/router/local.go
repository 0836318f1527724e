package router

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/entrepot/entrepot/core/registry"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// compressFrom is the size from which an answer is compressed for clients that
// take it.
const compressFrom = 32 << 10

// Local serves the kernel's own services on the spot, under the same rules as
// those of plugins. Safe for concurrent use; methods are registered on the
// server before it is given to NewLocal.
type Local struct {
	methods map[string]*registry.Method
	mux     *http.ServeMux
}

// NewLocal makes a Local of a server. otherwise is the access rule of methods
// that declare none; nil refuses them. readMax bounds one message in bytes.
func NewLocal(server *connect.Server, otherwise *optionsv1.Access, readMax int64) *Local {
	l := &Local{methods: map[string]*registry.Method{}, mux: http.NewServeMux()}
	if server == nil {
		return l
	}
	for spec := range server.Specs() {
		m := &registry.Method{
			Procedure:     spec.Procedure,
			Access:        otherwise,
			ClientStream:  spec.StreamType&connect.StreamTypeClient != 0,
			ServerStream:  spec.StreamType&connect.StreamTypeServer != 0,
			NoSideEffects: spec.IdempotencyLevel == connect.IdempotencyNoSideEffects,
		}
		service, _, _ := strings.Cut(spec.Procedure[1:], "/")
		if i := strings.LastIndexByte(service, '.'); i > 0 {
			m.Contract = service[:i]
		}
		if d, ok := spec.Schema.(protoreflect.MethodDescriptor); ok {
			m.Desc = d
			if rule, ok := proto.GetExtension(d.Options(), optionsv1.E_Access).(*optionsv1.Access); ok && rule != nil {
				m.Access = rule
			}
		}
		l.methods[spec.Procedure] = m
	}
	connecthttp.Mount(l.mux, server, connecthttp.WithCodecs(connectproto.NewBinaryCodec(), fault.JSON()),
		connecthttp.WithReadMaxBytes(int(readMax)), connecthttp.WithCompressMinBytes(compressFrom))
	return l
}

// Method returns a method that is served here, or nil.
func (l *Local) Method(procedure string) *registry.Method { return l.methods[procedure] }

// Methods yields every method that is served here, in no order.
func (l *Local) Methods() iter.Seq[*registry.Method] { return maps.Values(l.methods) }

// Serve runs a method with info in its context (call.From), within the limits.
func (l *Local) Serve(w http.ResponseWriter, req *http.Request, m *registry.Method, info call.Info, limits Limits) {
	limit, most := limits.For(m)
	d, err := Timeout(req.Header, most)
	if err != nil {
		WriteError(w, req, timeoutInvalid(err))
		return
	}
	if req.ContentLength > limit {
		WriteError(w, req, bodyTooLarge(limit))
		return
	}
	ctx, cancel := context.WithTimeout(call.With(req.Context(), info), d)
	defer cancel()
	clean(req.Header)
	req = req.WithContext(ctx)
	req.Body = http.MaxBytesReader(w, req.Body, limit)
	l.mux.ServeHTTP(w, req)
}

func timeoutInvalid(err error) *connect.Error {
	return Fault(connect.CodeInvalidArgument, "TIMEOUT_INVALID", err.Error())
}

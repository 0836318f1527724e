package gateway

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
)

// registerReflection serves gRPC reflection from what the plugins described,
// besides the kernel's own services. v1alpha has the messages of v1 under
// other names, equal on the wire.
func registerReflection(server *connect.Server, g *Gateway) {
	method := reflectionv1.File_grpc_reflection_v1_reflection_proto.Services().ByName("ServerReflection").Methods().Get(0)
	for _, version := range []string{"v1", "v1alpha"} {
		server.Register(connect.Method{
			Spec: connect.Spec{
				Procedure:  "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo",
				StreamType: connect.StreamTypeBidi, Schema: method,
			},
			Handler: g.reflect,
		})
	}
}

// maxReflections is how much one stream may ask: some of it is large.
const maxReflections = 2000

// reflect answers requests until the client ends its side.
func (g *Gateway) reflect(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
	sent := map[string]bool{}
	for range maxReflections {
		req := &reflectionv1.ServerReflectionRequest{}
		if err := stream.Receive(req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := stream.Send(g.reflected(req, sent)); err != nil {
			return err
		}
	}
	return overloaded(time.Second, "that is all for one stream")
}

func (g *Gateway) reflected(req *reflectionv1.ServerReflectionRequest, sent map[string]bool) *reflectionv1.ServerReflectionResponse {
	res := &reflectionv1.ServerReflectionResponse{ValidHost: req.GetHost(), OriginalRequest: req}
	s := schemas{g.router.Snapshot().Files, protoregistry.GlobalFiles}
	var file protoreflect.FileDescriptor
	var err error
	switch r := req.GetMessageRequest().(type) {
	case *reflectionv1.ServerReflectionRequest_ListServices:
		res.MessageResponse = &reflectionv1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: g.services()}
		return res
	case *reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType:
		numbers := s.extensions(protoreflect.FullName(r.AllExtensionNumbersOfType))
		res.MessageResponse = &reflectionv1.ServerReflectionResponse_AllExtensionNumbersResponse{
			AllExtensionNumbersResponse: &reflectionv1.ExtensionNumberResponse{
				BaseTypeName: r.AllExtensionNumbersOfType, ExtensionNumber: numbers,
			},
		}
		return res
	case *reflectionv1.ServerReflectionRequest_FileByFilename:
		file, err = s.file(r.FileByFilename)
	case *reflectionv1.ServerReflectionRequest_FileContainingSymbol:
		file, err = s.containing(protoreflect.FullName(r.FileContainingSymbol))
	case *reflectionv1.ServerReflectionRequest_FileContainingExtension:
		e := r.FileContainingExtension
		file, err = s.extending(protoreflect.FullName(e.GetContainingType()), e.GetExtensionNumber())
	default:
		err = protoregistry.NotFound
	}
	if err == nil {
		err = addFiles(res, file, sent)
	}
	if err != nil {
		res.MessageResponse = &reflectionv1.ServerReflectionResponse_ErrorResponse{ErrorResponse: &reflectionv1.ErrorResponse{
			ErrorCode: int32(connect.CodeNotFound), ErrorMessage: "there is no such thing in the schemas served here",
		}}
	}
	return res
}

// addFiles answers a file with all that it imports, but what the stream has
// had before.
func addFiles(res *reflectionv1.ServerReflectionResponse, file protoreflect.FileDescriptor, sent map[string]bool) error {
	out := &reflectionv1.FileDescriptorResponse{}
	for queue := []protoreflect.FileDescriptor{file}; len(queue) > 0; queue = queue[1:] {
		f := queue[0]
		if f.IsPlaceholder() || sent[f.Path()] && f != file {
			continue
		}
		sent[f.Path()] = true
		raw, err := proto.Marshal(protodesc.ToFileDescriptorProto(f))
		if err != nil {
			return err
		}
		out.FileDescriptorProto = append(out.FileDescriptorProto, raw)
		for i := range f.Imports().Len() {
			queue = append(queue, f.Imports().Get(i).FileDescriptor)
		}
	}
	res.MessageResponse = &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{FileDescriptorResponse: out}
	return nil
}

// services lists what can be called from outside.
func (g *Gateway) services() *reflectionv1.ListServiceResponse {
	names := map[string]bool{}
	add := func(m *registry.Method) {
		if m.Desc != nil && open(m) {
			names[string(m.Desc.Parent().FullName())] = true
		}
	}
	for _, l := range [...]*router.Local{g.kernel, g.builtin} {
		for m := range l.Methods() {
			add(m)
		}
	}
	for _, m := range g.router.Snapshot().Methods {
		add(m)
	}
	out := &reflectionv1.ListServiceResponse{}
	for name := range names {
		out.Service = append(out.Service, &reflectionv1.ServiceResponse{Name: name})
	}
	slices.SortFunc(out.Service, func(a, b *reflectionv1.ServiceResponse) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// open tells whether a method can be called from outside by anybody at all.
func open(m *registry.Method) bool {
	return !router.Lifecycle(m.Procedure) && slices.ContainsFunc(m.Access.GetAllow(), func(a optionsv1.Audience) bool {
		return a != optionsv1.Audience_AUDIENCE_PLUGIN && a != optionsv1.Audience_AUDIENCE_UNSPECIFIED
	})
}

// service finds a service that can be called from outside; own is true for
// the kernel's.
func (g *Gateway) service(name protoreflect.FullName) (found, own bool) {
	for _, l := range [...]*router.Local{g.kernel, g.builtin} {
		for m := range l.Methods() {
			if m.Desc != nil && m.Desc.Parent().FullName() == name && open(m) {
				return true, true
			}
		}
	}
	for _, m := range g.router.Snapshot().Methods {
		if m.Desc.Parent().FullName() == name && open(m) {
			return true, false
		}
	}
	return false, false
}

// schemas are looked through in order.
type schemas []*protoregistry.Files

func (s schemas) file(path string) (protoreflect.FileDescriptor, error) {
	for _, files := range s {
		if f, err := files.FindFileByPath(path); err == nil {
			return f, nil
		}
	}
	return nil, protoregistry.NotFound
}

func (s schemas) containing(symbol protoreflect.FullName) (protoreflect.FileDescriptor, error) {
	for _, files := range s {
		if d, err := files.FindDescriptorByName(symbol); err == nil {
			return d.ParentFile(), nil
		}
	}
	return nil, protoregistry.NotFound
}

func (s schemas) extending(message protoreflect.FullName, number int32) (found protoreflect.FileDescriptor, err error) {
	s.eachExtension(message, func(x protoreflect.ExtensionDescriptor) bool {
		if x.Number() == protoreflect.FieldNumber(number) {
			found = x.ParentFile()
		}
		return found == nil
	})
	if found == nil {
		return nil, protoregistry.NotFound
	}
	return found, nil
}

func (s schemas) extensions(message protoreflect.FullName) []int32 {
	var out []int32
	s.eachExtension(message, func(x protoreflect.ExtensionDescriptor) bool {
		out = append(out, int32(x.Number()))
		return true
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// eachExtension visits the extensions of a message that files declare at
// their top level, as all of Entrepot's are.
func (s schemas) eachExtension(message protoreflect.FullName, visit func(protoreflect.ExtensionDescriptor) bool) {
	for _, files := range s {
		files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
			for i := range f.Extensions().Len() {
				if x := f.Extensions().Get(i); x.ContainingMessage().FullName() == message && !visit(x) {
					return false
				}
			}
			return true
		})
	}
}

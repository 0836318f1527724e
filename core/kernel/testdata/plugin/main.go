// Command plugin is a provider for tests of the kernel. Built as "front" it
// serves test.front.v1, whose one method asks "back", which serves
// test.back.v1. Both leave marks in the folder that their configuration names.
// Asked for "paper", back keeps a blob and answers a link to it and a grant.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/plugin"
)

// name is "front" or "back", set by the build.
var name string

func main() {
	for _, n := range []string{"front", "back"} {
		if err := protoregistry.GlobalFiles.RegisterFile(contract(n)); err != nil {
			panic(err)
		}
	}
	m := fmt.Sprintf("name = %q\nversion = \"1.0.0\"\nkind = \"provider\"\nserves \"test.%[1]s.v1\" {}\nconfig \"dir\" {}\n", name)
	if name == "front" {
		m += "calls = [\"test.back.v1\"]\n"
	}
	plugin.Main(plugin.Plugin{Manifest: m, New: instance})
}

// contract is a file with one service of one method, open to everybody, that
// takes and gives a text.
func contract(n string) protoreflect.FileDescriptor {
	options := &descriptorpb.MethodOptions{}
	proto.SetExtension(options, optionsv1.E_Access, &optionsv1.Access{Allow: []optionsv1.Audience{optionsv1.Audience_AUDIENCE_PUBLIC}})
	text := proto.String(".google.protobuf.StringValue")
	f, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String(n + ".proto"), Package: proto.String("test." + n + ".v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto", "entrepot/options/v1/options.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Test"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Ask"), InputType: text, OutputType: text, Options: options},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		panic(err)
	}
	return f
}

func instance(_ context.Context, in *plugin.Instance) error {
	var config struct{ Dir string }
	if err := in.Config(&config); err != nil {
		return err
	}
	answer := func(ctx context.Context, text string) (string, error) {
		if text == "paper" {
			return paper(ctx, in.Host.Blobs)
		}
		return "heard: " + text, nil
	}
	if name == "front" {
		// It asks when the file "go" is there.
		answer = func(ctx context.Context, text string) (string, error) {
			if err := os.WriteFile(filepath.Join(config.Dir, "asked"), nil, 0o600); err != nil {
				return "", err
			}
			for {
				if _, err := os.Stat(filepath.Join(config.Dir, "go")); err == nil {
					break
				}
				select {
				case <-ctx.Done():
					return "", ctx.Err()
				case <-time.After(5 * time.Millisecond):
				}
			}
			var out wrapperspb.StringValue
			err := in.Host.Client().CallUnary(ctx, connect.Spec{Procedure: "/test.back.v1.Test/Ask", StreamType: connect.StreamTypeUnary}, wrapperspb.String(text), &out)
			return out.GetValue(), err
		}
	}
	in.Server.Register(connect.Method{
		Spec: connect.Spec{Procedure: "/test." + name + ".v1.Test/Ask", StreamType: connect.StreamTypeUnary},
		Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
			in := &wrapperspb.StringValue{}
			if err := stream.Receive(in); err != nil {
				return err
			}
			out, err := answer(ctx, in.GetValue())
			if err != nil {
				return err
			}
			return stream.Send(wrapperspb.String(out))
		},
	})
	return nil
}

func paper(ctx context.Context, blobs kernelv1connect.BlobServiceClient) (string, error) {
	put, err := blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: []byte("a paper")})
	if err != nil {
		return "", err
	}
	link, err := blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: put.GetBlobId()})
	if err != nil {
		return "", err
	}
	grant, err := blobs.GrantUpload(ctx, &kernelv1.GrantUploadRequest{MediaTypes: []string{"text/plain"}})
	return link.GetPath() + " " + grant.GetPath(), err
}

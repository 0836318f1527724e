// Command plugin is a plugin for tests of the supervisor: it serves the
// lifecycle and misbehaves as the file beside it, "mode", says.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/serve"
)

// dir is where the test left the mode and looks for marks.
var dir = filepath.Dir(os.Args[0])

func mode() string {
	b, _ := os.ReadFile(filepath.Join(dir, "mode"))
	return strings.TrimSpace(string(b))
}

type life struct {
	pluginv1connect.UnimplementedPluginServiceHandler
	host *serve.Host
}

func (life) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	if mode() == "shouting" {
		return nil, connect.NewError(connect.CodeInternal, strings.Repeat("no! ", 1_000_000))
	}
	if mode() == "wrong-name" {
		return &pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "another", Version: "1.0.0", Kind: pluginv1.Manifest_KIND_PROVIDER}}, nil
	}
	if mode() == "lying-descriptors" {
		return &pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "echo", Version: "1.0.0", Kind: pluginv1.Manifest_KIND_PROVIDER}, Descriptors: []byte("rubbish")}, nil
	}
	return &pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "echo", Version: "1.0.0", Kind: pluginv1.Manifest_KIND_PROVIDER}}, nil
}

func (life) ValidateConfig(context.Context, *pluginv1.ValidateConfigRequest) (*pluginv1.ValidateConfigResponse, error) {
	if mode() == "bad-config" {
		return &pluginv1.ValidateConfigResponse{Diagnostics: []*pluginv1.Diagnostic{{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: "colour", Message: "is not known"}}}, nil
	}
	return &pluginv1.ValidateConfigResponse{}, nil
}

// Configure asks the kernel who it is: the private socket works.
func (l life) Configure(ctx context.Context, _ *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	var who wrapperspb.StringValue
	spec := connect.Spec{Procedure: "/test.v1.Kernel/Who", StreamType: connect.StreamTypeUnary}
	if mode() == "dies-in-configure" {
		fmt.Fprintln(os.Stderr, "out of memory, or so")
		os.Exit(9)
	}
	if err := connect.NewClient(l.host.Transport()).CallUnary(ctx, spec, &emptypb.Empty{}, &who); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, "the kernel's socket: "+err.Error())
	}
	return &pluginv1.ConfigureResponse{}, os.WriteFile(filepath.Join(dir, "who"), []byte(who.GetValue()), 0o600)
}

func (life) Check(context.Context, *pluginv1.CheckRequest) (*pluginv1.CheckResponse, error) {
	switch mode() {
	case "degraded":
		return &pluginv1.CheckResponse{Status: pluginv1.CheckResponse_STATUS_DEGRADED, Reason: "CARRIER_DOWN", Message: strings.Repeat("x", 100_000)}, nil
	case "failed":
		return &pluginv1.CheckResponse{Status: pluginv1.CheckResponse_STATUS_FAILED, Reason: "JOURNAL_LOST"}, nil
	}
	return &pluginv1.CheckResponse{Status: pluginv1.CheckResponse_STATUS_OK}, nil
}

func (life) Drain(context.Context, *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	if mode() == "hang-at-stop" {
		select {}
	}
	return &pluginv1.DrainResponse{}, os.WriteFile(filepath.Join(dir, "drained"), nil, 0o600)
}

// echo answers its input; "crash" ends the process, "panic" panics, "wait"
// answers when the file "go" appears, "env" tells the environment.
func echo(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	switch in.GetValue() {
	case "crash":
		os.Exit(3)
	case "panic":
		panic("boom")
	case "env":
		return wrapperspb.String(strings.Join(os.Environ(), "\n")), nil
	case "wait":
		if err := os.WriteFile(filepath.Join(dir, "waiting"), nil, 0o600); err != nil {
			return nil, err
		}
		for {
			if _, err := os.Stat(filepath.Join(dir, "go")); err == nil {
				return in, nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return in, nil
}

func main() {
	switch mode() {
	case "rubbish":
		fmt.Println("hello, I am no plugin")
		return
	case "elsewhere":
		fmt.Println("1|1|tcp|127.0.0.1:1|grpc|")
		select {}
	case "exit":
		fmt.Fprintln(os.Stderr, "fatal: cannot find my configuration")
		os.Exit(2)
	case "hang":
		select {}
	}
	os.Exit(serve.Run(func(h *serve.Host) (*connect.Server, func(context.Context), error) {
		misbehave()
		s := connect.NewServer()
		pluginv1connect.RegisterPluginServiceHandler(s, life{host: h})
		s.Register(connect.Method{
			Spec: connect.Spec{Procedure: "/test.v1.Echo/Echo", StreamType: connect.StreamTypeUnary},
			Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
				in := &wrapperspb.StringValue{}
				if err := stream.Receive(in); err != nil {
					return err
				}
				out, err := echo(ctx, in)
				if err != nil {
					return err
				}
				return stream.Send(proto.Message(out))
			},
		})
		return s, func(context.Context) {}, nil
	}))
}

func misbehave() {
	switch mode() {
	case "flood":
		go func() {
			for {
				_, _ = os.Stderr.Write(bytes.Repeat([]byte("x"), 200_000))
				_, _ = io.WriteString(os.Stderr, "\n")
			}
		}()
	case "hostile-log":
		_, _ = io.WriteString(os.Stderr, "{\"@message\": 42, \"@level\": [], \"@timestamp\": {}}\n{\"@message\":\n")
	case "noisy":
		fmt.Println("printed by a library")
	case "grandchild":
		c := exec.Command("/bin/sleep", "1000")
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		if c.Start() == nil {
			_ = os.WriteFile(filepath.Join(dir, "grandchild"), []byte(fmt.Sprint(c.Process.Pid)), 0o600)
		}
	}
}

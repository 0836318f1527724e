package serve

import (
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// BenchmarkUnary measures a call over the TLS unix socket as the kernel and a
// plugin make it, both ends in this process: its time, and its CPU time.
func BenchmarkUnary(b *testing.B) {
	kernel, err := selfSigned()
	require.NoError(b, err)
	own, err := newIdentity(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kernel.der}))
	require.NoError(b, err)
	require.NoError(b, kernel.trust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.der})))
	s := connect.NewServer()
	s.Register(unary("/test.v1.T/Echo", func(in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) { return in, nil }))
	p := &process{identity: own, stop: make(chan struct{})}
	socket := filepath.Join(b.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	require.NoError(b, err)
	srv := p.server(s)
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	defer func() { _ = srv.Close() }()
	text := strings.Repeat("x", 512)
	for _, v := range []struct {
		name  string
		http2 bool
		width int
		opts  []connecthttp.Option
	}{
		{"http1/1", false, 1, nil}, {"http2/1", true, 1, nil},
		{"http1/32", false, 32, nil}, {"http2/32", true, 32, nil},
		{"grpc/32", true, 32, []connecthttp.Option{connecthttp.WithGRPC()}},
	} {
		b.Run(v.name, func(b *testing.B) {
			c := unixClient(socket, kernel, v.http2)
			defer c.CloseIdleConnections()
			client := connect.NewClient(connecthttp.NewTransport(c, "https://localhost", v.opts...))
			spec := connect.Spec{Procedure: "/test.v1.T/Echo", StreamType: connect.StreamTypeUnary}
			in := wrapperspb.String(text)
			call := func() error { return client.CallUnary(b.Context(), spec, in, &wrapperspb.StringValue{}) }
			require.NoError(b, call())
			b.SetParallelism(max(1, v.width/2))
			before := cpu(b)
			if v.width == 1 {
				for b.Loop() {
					if err := call(); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := call(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

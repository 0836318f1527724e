package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectinprocess"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// serving is a provider with one instance, "pay".
func serving(t *testing.T) *Server {
	t.Helper()
	s, err := NewServer(Plugin{
		Manifest: "name = \"pay\"\nversion = \"1.0.0\"\nkind = \"provider\"\n",
		New:      func(context.Context, *Instance) error { return nil },
	}, connectinprocess.New(connect.NewServer()))
	require.NoError(t, err)
	_, err = lifecycle{s}.Configure(t.Context(), &pluginv1.ConfigureRequest{Instance: "pay", Revision: 1})
	require.NoError(t, err)
	return s
}

// Anybody can send rubbish: an operator is not to be told of it each time.
func TestAClientsMistakeIsNoErrorInTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := instanceServer(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	s.Register(connect.Method{
		Spec: connect.Spec{Procedure: "/x.v1.X/Do", StreamType: connect.StreamTypeUnary},
		Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
			return stream.Receive(&pluginv1.DrainRequest{})
		},
	})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, s)
	// A frame that promises 900 bytes and has two.
	r := httptest.NewRequest(http.MethodPost, "/x.v1.X/Do", strings.NewReader("\x00\x00\x00\x03\x84xx"))
	r.Header.Set("Content-Type", "application/grpc-web+proto")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	require.Equal(t, "3", w.Header().Get("Grpc-Status"), "invalid_argument: %v %q", w.Header(), w.Body)
	require.Contains(t, log.String(), "level=DEBUG")
	require.NotContains(t, log.String(), "level=ERROR")
}

// Who watches a stream ends it by leaving, at any moment.
func TestACallerWhoLeavesIsNoErrorInTheLog(t *testing.T) {
	t.Parallel()
	gone, leave := context.WithCancel(t.Context())
	leave()
	late, stop := context.WithTimeout(t.Context(), 0)
	defer stop()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		code connect.Code
		says string
	}{
		{gone, gone.Err(), connect.CodeCanceled, "level=DEBUG"},
		{gone, fmt.Errorf("messages: %w", gone.Err()), connect.CodeCanceled, "level=DEBUG"},
		{late, late.Err(), connect.CodeDeadlineExceeded, "level=DEBUG"},
		// What broke by itself is told also when nobody waits any more.
		{gone, errors.New("out of paper"), connect.CodeInternal, "level=ERROR"},
		// Nobody has left: what was cancelled is the plugin's own.
		{t.Context(), context.Canceled, connect.CodeInternal, "level=ERROR"},
	} {
		var log bytes.Buffer
		err := guard(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))(
			func(context.Context, connect.Spec, connect.ServerStream) error { return c.err },
		)(c.ctx, connect.Spec{Procedure: "/x.v1.X/Watch"}, nil)
		require.Equal(t, c.code, connect.CodeOf(err), "%v", c.err)
		require.Contains(t, log.String(), c.says, "%v", c.err)
	}
}

// A caller that is told "unknown" gives up; one that is told "unavailable"
// comes again.
func TestAProcessThatEndsIsAwayAndNotUnknown(t *testing.T) {
	s := serving(t)
	_, release, err := s.acquire("pay")
	require.NoError(t, err)
	release()
	_, _, err = s.acquire("another")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	s.Drain(t.Context())
	_, _, err = s.acquire("pay")
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
}

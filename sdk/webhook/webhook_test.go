package webhook

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestItCallsThisMachineOnly(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://192.0.2.1/webhooks/x", "http://[2001:db8::1]/webhooks/x"} {
		s, err := New(t.TempDir(), url, secret, slog.Default())
		require.NoError(t, err)
		require.ErrorContains(t, s.post(t.Context(), &Message{N: 1, ID: "m"}), "not this machine")
	}
}

// lines are as many messages.
type lines int64

func (l lines) Next(after int64) *Message {
	if after >= int64(l) {
		return nil
	}
	return &Message{N: after + 1, ID: "msg_" + strconv.FormatInt(after+1, 10), Body: []byte("{}"), Times: 1}
}

func (lines) News() <-chan struct{} { return nil }

func TestTheNextSenderGoesOnWhereTheOneBeforeWas(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard <- r.Header.Get("webhook-id") }))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "webhooks.sent"), []byte("2\n"), 0o600))
	s, err := New(dir, srv.URL, secret, slog.Default())
	require.NoError(t, err)
	s.Start(t.Context(), lines(4))
	require.Equal(t, []string{"msg_3", "msg_4"}, []string{<-heard, <-heard})
	s.Close()
	b, err := os.ReadFile(filepath.Join(dir, "webhooks.sent"))
	require.NoError(t, err)
	// The answer to the last may have come after the end.
	require.Contains(t, []string{"3\n", "4\n"}, string(b))

	require.NoError(t, os.WriteFile(filepath.Join(dir, "webhooks.sent"), []byte("x"), 0o600))
	_, err = New(dir, srv.URL, secret, slog.Default())
	require.ErrorContains(t, err, "webhooks.sent")
	_, err = New(dir, srv.URL, "secret", slog.Default())
	require.ErrorContains(t, err, "whsec_")
}

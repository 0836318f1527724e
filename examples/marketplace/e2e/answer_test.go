package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
)

// request is one as a client writes it, with no library that would know
// better.
type request struct {
	method, path string // POST unless said
	header       map[string]string
	body         []byte
}

// answer is what came back: an error in the Connect protocol's JSON, or what
// the call answered.
type answer struct {
	status                int
	code, message, reason string
	header                http.Header
	body                  []byte
}

// plain is an HTTP client that adds nothing to a request.
var plain = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}}

func (w *world) do(t *testing.T, q request) answer {
	t.Helper()
	if q.method == "" {
		q.method = http.MethodPost
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, q.method, w.URL+q.path, bytes.NewReader(q.body))
	require.NoError(t, err)
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	res, err := plain.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	require.NoError(t, err)
	a := answer{status: res.StatusCode, header: res.Header, body: b}
	if res.StatusCode != http.StatusOK && res.Header.Get("Content-Type") == "application/json" {
		a.read(t)
	}
	return a
}

// read takes the Connect protocol's error apart.
func (a *answer) read(t *testing.T) {
	t.Helper()
	var e struct {
		Code, Message string
		Details       []struct{ Type, Value string }
	}
	require.NoError(t, json.Unmarshal(a.body, &e), "%s", a.body)
	a.code, a.message = e.Code, e.Message
	for _, d := range e.Details {
		if d.Type != "google.rpc.ErrorInfo" {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(d.Value)
		require.NoError(t, err)
		info := &errdetails.ErrorInfo{}
		require.NoError(t, proto.Unmarshal(raw, info))
		a.reason = info.GetReason()
	}
}

// inside are words that only somebody inside has use for.
var inside = regexp.MustCompile(`(?i)SQLSTATE|panic|goroutine|pgx|pq:|\.go:\d|unix socket|/tmp/|\bp_[a-z]+\.|bun:`)

// clear requires an error that tells its reader what to do, and nothing of
// the inside.
func (a *answer) clear(t *testing.T, code string) {
	t.Helper()
	require.Equal(t, code, a.code, "HTTP %d: %s", a.status, a.body)
	require.NotEmpty(t, a.message)
	require.NotRegexp(t, inside, string(a.body))
}

// serves requires that the shop still sells.
func (w *world) serves(t *testing.T) {
	t.Helper()
	a := w.do(t, request{method: http.MethodGet, path: search + `?connect=v1&encoding=json&message={"pageSize":1}`})
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
}

const search = "/entrepot.catalog.v1.StorefrontService/SearchListings"

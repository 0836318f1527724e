package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/gateway"
)

// kept tells what came.
func kept(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+string(body))
}

func TestPathsUnderBlobsNeedNobodyWhoIsLoggedIn(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, p *gateway.Parts) {
		p.Blobs = http.HandlerFunc(kept)
		c.MaxBody = 16
		c.AllowedOrigins = []string{"https://shop.example"}
	})
	_, header, got := s.do(t, http.MethodGet, "/blobs/token", "", "Authorization", "Bearer of-nobody")
	require.Equal(t, "GET /blobs/token ", got)
	require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
	require.NotEmpty(t, header.Get("X-Request-Id"))

	_, _, got = s.do(t, http.MethodPut, "/blobs/upload/token", strings.Repeat("x", 100))
	require.Equal(t, "PUT /blobs/upload/token "+strings.Repeat("x", 100), got, "a grant has a bound of its own")

	_, header, _ = s.do(t, http.MethodOptions, "/blobs/upload/token", "", "Origin", "https://shop.example", "Access-Control-Request-Method", "PUT")
	require.Contains(t, header.Get("Access-Control-Allow-Methods"), "PUT", "front ends may upload")

	status, _, _ := s.do(t, http.MethodGet, "/blobs", "")
	require.Equal(t, http.StatusNotFound, status)
}

func TestBlobsHaveTheUsualAllowance(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, p *gateway.Parts) {
		p.Blobs = http.HandlerFunc(kept)
		c.RatePerSecond, c.RateBurst = 0.001, 1
	})
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		status, _, _ := s.do(t, http.MethodGet, "/blobs/token", "")
		require.Equal(t, want, status)
	}
}

func TestWithoutBlobsThereIsNothing(t *testing.T) {
	t.Parallel()
	status, _, _ := open(t, nil).do(t, http.MethodGet, "/blobs/token", "")
	require.Equal(t, http.StatusNotFound, status)
}

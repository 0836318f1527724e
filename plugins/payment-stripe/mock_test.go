package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"
)

// mock is Stripe's own mock server: it answers every request that Stripe's
// description of its API (OpenAPI) allows, and refuses all others. It remembers
// nothing.
var mock = sync.OnceValues(func() (http.Handler, error) {
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		return nil, err
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		return nil, err
	}
	stub, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(stub.HandleRequest), nil
})

// conforms sends a request to the mock too, and fails the test when Stripe's
// description does not allow it. What the mock answers is returned.
func conforms(t testing.TB, r *http.Request, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	h, err := mock()
	require.NoError(t, err)
	copied := r.Clone(r.Context())
	copied.Body = io.NopCloser(bytes.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, copied)
	if w.Code != http.StatusOK {
		t.Errorf("Stripe does not know %s %s with %q: %s", r.Method, r.URL, body, w.Body)
	}
	return w
}

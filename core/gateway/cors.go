package gateway

import "net/http"

const (
	// PUT is for uploads.
	corsMethods = "GET, POST, PUT"
	corsAllow   = "Authorization, Content-Type, Connect-Protocol-Version, Connect-Timeout-Ms, Entrepot-Market, " +
		"Grpc-Timeout, Idempotency-Key, Traceparent, X-Grpc-Web, X-User-Agent"
	corsExpose = "Grpc-Message, Grpc-Status, Grpc-Status-Details-Bin, X-Request-Id"
	// corsAge is two hours, the most that Chromium keeps.
	corsAge = "7200"
)

// cors lets scripts of the allowed origins read the answers (the Fetch
// standard, section 3.3). It is true when the request was a preflight and is
// answered.
func (g *Gateway) cors(w http.ResponseWriter, r *http.Request) (answered bool) {
	preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	if len(g.origins) > 0 {
		w.Header().Add("Vary", "Origin")
	}
	origin := r.Header.Get("Origin")
	if origin != "" && (g.origins[origin] || g.origins["*"]) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsExpose)
		if preflight {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsAllow)
			h.Set("Access-Control-Max-Age", corsAge)
		}
	}
	if preflight {
		w.WriteHeader(http.StatusNoContent)
	}
	return preflight
}

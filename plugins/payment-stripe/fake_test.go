package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// object is one of Stripe's.
type object = map[string]any

// reply is what the fake answers.
type reply struct {
	status int
	body   object
}

// mishap is what goes wrong with a request.
type mishap string

const (
	lostBefore mishap = "the request never arrives"
	lostAfter  mishap = "it is done, and the answer is lost"
	failBefore mishap = "Stripe fails, nothing is done"
	failAfter  mishap = "it is done, and Stripe fails"
	limited    mishap = "too many requests"
	refusedKey mishap = "the key is refused"
)

// fake is Stripe with a memory: intents, refunds, transfers and disputes by the
// rules of its documentation, idempotency keys as they are told to work.
// Every request is first held against Stripe's own description of its API.
type fake struct {
	t  testing.TB
	at *httptest.Server

	mu   sync.Mutex
	n    int
	now  int64
	made map[string][]object // by kind, the oldest first
	once map[string]reply    // by idempotency key
	body map[string]string   // what was asked with it
	// charged counts what was held, captured, cancelled, refunded, transferred.
	charged map[string]int64
	calls   []string
	// wrong, when set, makes requests go wrong.
	wrong func(call string) mishap
	// meanwhile, when set, runs between what is done and what is answered.
	meanwhile func(call string)
}

func newFake(t testing.TB) *fake {
	_, err := mock() // it takes a moment, which is nobody's deadline
	require.NoError(t, err)
	f := &fake{t: t, now: time.Now().Unix(), made: map[string][]object{}, once: map[string]reply{}, body: map[string]string{}, charged: map[string]int64{}}
	f.at = httptest.NewUnstartedServer(f)
	// Go's own transport sends again what was lost on a connection that it had
	// before, under the same idempotency key. Here what is lost is lost.
	f.at.Config.SetKeepAlivesEnabled(false)
	f.at.Start()
	t.Cleanup(f.at.Close)
	return f
}

// fail makes the next request that matches go wrong, once.
func (f *fake) fail(call string, how mishap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := false
	f.wrong = func(c string) mishap {
		if done || !strings.Contains(c, call) {
			return ""
		}
		done = true
		return how
	}
}

// took are the requests since the last time.
func (f *fake) took() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.calls)
	f.calls = nil
	return n
}

func (f *fake) total(what string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.charged[what]
}

// change lets the test do to an object what others do at Stripe.
func (f *fake) change(kind, id string, how func(object)) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.get(kind, id)
	require.NotNil(f.t, o)
	how(o)
	return o
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	if got := r.Header.Get("Stripe-Version"); got != apiVersion {
		f.t.Errorf("asked for version %q", got)
	}
	if r.Header.Get("X-Stripe-Client-Telemetry") != "" {
		f.t.Error("telemetry was sent")
	}
	conforms(f.t, r, raw)
	q := r.URL.Query()
	if r.Method == http.MethodPost {
		if q, err = url.ParseQuery(string(raw)); err != nil {
			f.t.Error(err)
		}
	}
	call := r.Method + " " + r.URL.Path
	status, body := f.answer(r, call, raw, q)
	if f.meanwhile != nil {
		f.meanwhile(call)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Request-Id", "req_1")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// answer does what is asked, or not.
func (f *fake) answer(r *http.Request, call string, raw []byte, q url.Values) (int, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	var how mishap
	if f.wrong != nil {
		how = f.wrong(call)
	}
	key := r.Header.Get("Idempotency-Key")
	if (r.Method == http.MethodPost) != (key != "") {
		f.t.Errorf("%s with idempotency key %q", call, key)
	}
	switch how {
	case lostBefore:
		panic(http.ErrAbortHandler)
	case limited:
		return f.encode(stripeError(http.StatusTooManyRequests, "", "rate_limit", "Too many requests", ""))
	case refusedKey:
		return f.encode(stripeError(http.StatusUnauthorized, "invalid_request_error", "", "Invalid API Key provided: sk_test_***secret", ""))
	}
	said, known := f.once[key]
	switch {
	case known && f.body[key] != call+" "+string(raw):
		said = stripeError(http.StatusBadRequest, "idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters", "")
	case !known:
		if said = (reply{http.StatusInternalServerError, object{"error": object{"type": "api_error", "message": "sorry"}}}); how != failBefore {
			if done := f.do(r.Method, strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/"), q); how != failAfter {
				said = done
			}
		}
		if key != "" {
			f.once[key], f.body[key] = said, call+" "+string(raw)
		}
	}
	if how == lostAfter {
		panic(http.ErrAbortHandler)
	}
	return f.encode(said)
}

func (f *fake) encode(said reply) (int, []byte) {
	body, err := json.Marshal(said.body)
	if err != nil {
		f.t.Error(err)
	}
	return said.status, body
}

func stripeError(status int, kind, code, message, decline string) reply {
	e := object{"type": kind, "message": message}
	if code != "" {
		e["code"] = code
	}
	if decline != "" {
		e["decline_code"] = decline
	}
	return reply{status, object{"error": e}}
}

func missing(id string) reply {
	return stripeError(http.StatusNotFound, "invalid_request_error", "resource_missing", "No such object: "+id, "")
}

func unexpected(o object) reply {
	return stripeError(http.StatusBadRequest, "invalid_request_error", "payment_intent_unexpected_state", fmt.Sprint("it is ", o["status"]), "")
}

func (f *fake) get(kind, id string) object {
	for _, o := range f.made[kind] {
		if o["id"] == id {
			return o
		}
	}
	return nil
}

func (f *fake) make(kind, prefix string, o object) object {
	f.n++
	o["id"] = fmt.Sprintf("%s_%d", prefix, f.n)
	o["created"] = f.now
	f.made[kind] = append(f.made[kind], o)
	return o
}

func num(q url.Values, name string) int64 {
	n, _ := strconv.ParseInt(q.Get(name), 10, 64)
	return n
}

// metadata merges, as Stripe does.
func metadata(was any, q url.Values) object {
	out := object{}
	if m, ok := was.(object); ok {
		for k, v := range m {
			out[k] = v
		}
	}
	for k := range q {
		if name, ok := strings.CutPrefix(k, "metadata["); ok {
			out[strings.TrimSuffix(name, "]")] = q.Get(k)
		}
	}
	return out
}

func (f *fake) do(method string, path []string, q url.Values) reply {
	kind := path[0]
	if len(path) == 1 && method == http.MethodGet {
		if kind == "balance" {
			return reply{http.StatusOK, object{"object": "balance"}}
		}
		return f.list(kind, q)
	}
	if len(path) == 1 {
		switch kind {
		case "payment_intents":
			return f.createIntent(q)
		case "refunds":
			return f.createRefund(q)
		case "transfers":
			return f.createTransfer(q)
		}
	}
	o := f.get(kind, path[1])
	switch {
	case o == nil:
		return missing(path[1])
	case method == http.MethodGet:
		return reply{http.StatusOK, o}
	case kind == "payment_intents":
		return f.changeIntent(o, strings.Join(path[2:], ""), q)
	case kind == "disputes":
		return f.changeDispute(o, strings.Join(path[2:], ""), q)
	}
	return missing(strings.Join(path, "/"))
}

// list answers the newest first, in pages.
func (f *fake) list(kind string, q url.Values) reply {
	all := slices.Clone(f.made[kind])
	slices.Reverse(all)
	var out []object
	past := q.Get("starting_after") == ""
	for _, o := range all {
		switch {
		case !past:
			past = o["id"] == q.Get("starting_after")
		case q.Get("payment_intent") != "" && o["payment_intent"] != q.Get("payment_intent"),
			q.Get("transfer_group") != "" && o["transfer_group"] != q.Get("transfer_group"),
			o["created"].(int64) < num(q, "created[gte]"):
		default:
			out = append(out, o)
		}
	}
	limit := int(num(q, "limit"))
	more := len(out) > limit
	return reply{http.StatusOK, object{"object": "list", "data": append([]object{}, out[:min(limit, len(out))]...), "has_more": more}}
}

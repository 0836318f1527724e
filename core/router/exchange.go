package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/sdk/call"
)

// maxAttempts bounds how often one call is begun.
const maxAttempts = 3

// exchange is one call on its way to a plugin.
type exchange struct {
	ctx       context.Context
	procedure string
	contract  string
	// capability that the method needs.
	capability string
	info       call.Info
	// repeatable is true for methods without side effects.
	repeatable bool

	method   string // HTTP's
	rawQuery string
	header   http.Header
	// body is the whole request, or stream brings it.
	body   []byte
	stream io.ReadCloser
	http2  bool
	// grace is how much earlier than the context's deadline the plugin is to
	// answer, so that its own words about the deadline arrive.
	grace time.Duration
}

// hop is the process that has a call inside.
type hop struct {
	instance *registry.Instance
	process  *registry.Process
	release  func()
	id       string
	body     *sent
}

func (r *Router) leave(h hop) {
	h.body.end()
	r.flights.leave(h.id)
	h.release()
}

// roundTrip sends the exchange to the instance it resolves to, and to others
// as long as that is safe. The caller closes the answer's body, then leaves
// the hop. Errors are authored; those that wrap ErrNotSent had no effect.
func (r *Router) roundTrip(x *exchange) (*http.Response, hop, error) {
	if hops(x.info.RequestID) >= MaxHops {
		return nil, hop{}, notSent(Fault(connect.CodeFailedPrecondition, ReasonLoop, "the call passes through too many plugins"), nil)
	}
	var failed []*registry.Process
	var last error
	for attempt := 1; ; attempt++ {
		h, err := r.acquire(x, failed)
		if err != nil {
			if last != nil {
				return nil, hop{}, last
			}
			return nil, hop{}, err
		}
		h.body = &sent{rest: x.body}
		transport := h.process.HTTP1
		if x.http2 {
			transport = h.process.HTTP2
		}
		res, err := transport.RoundTrip(r.request(x, h, attempt > 1))
		if err == nil {
			return res, h, nil
		}
		begun := h.body.end()
		r.leave(h)
		dialling := isDial(err)
		untouched := dialling || x.stream == nil && len(x.body) > 0 && !begun
		last = x.failure(h.instance.Name, err, untouched)
		switch {
		case x.ctx.Err() != nil, attempt == maxAttempts, x.stream != nil && !dialling:
			return nil, hop{}, last
		case !untouched && !x.repeatable:
			return nil, hop{}, last
		case dialling || !untouched:
			// A connection that had died while idle says nothing about its
			// process; anything else does.
			failed = append(failed, h.process)
		}
	}
}

// acquire enters the first process that takes the call.
func (r *Router) acquire(x *exchange, failed []*registry.Process) (hop, error) {
	t := Target{Contract: x.contract, Capability: x.capability, Market: x.info.Market, Merchant: x.info.Principal.Merchant, Instance: x.info.Instance}
	for v := r.view(); ; {
		ins, err := v.resolve(t, time.Now(), rand.IntN)
		if err != nil {
			return hop{}, notSent(err, nil)
		}
		for _, in := range ins {
			p := in.Plugin.Process
			if p == nil || contains(failed, p) {
				continue
			}
			if release, ok := p.Acquire(); ok {
				h := hop{instance: in, process: p, release: release, id: r.flights.child(x.info.RequestID)}
				info := x.info
				info.Instance, info.RequestID = in.Name, h.id
				r.flights.enter(in.Plugin.Name, info)
				return h, nil
			}
		}
		// A process that is being replaced refuses, and its successor stands
		// in a newer snapshot.
		if now := r.view(); now != v {
			v = now
			continue
		}
		return hop{}, notSent(unavailable(ins[0].Name, nil), nil)
	}
}

func contains(ps []*registry.Process, p *registry.Process) bool {
	for _, q := range ps {
		if p == q {
			return true
		}
	}
	return false
}

// request makes the HTTP request of one attempt.
func (r *Router) request(x *exchange, h hop, again bool) *http.Request {
	header := x.header
	if again {
		// The attempt before may still be reading its own.
		header = maps.Clone(header)
	}
	info := x.info
	info.Instance, info.RequestID = h.instance.Name, h.id
	values := make([]string, 0, 8)
	info.Encode(func(name, value string) {
		values = append(values, value)
		header[name] = values[len(values)-1 : len(values) : len(values)]
	})
	if deadline, ok := x.ctx.Deadline(); ok {
		setTimeout(header, time.Until(deadline)-x.grace)
	}
	req := (&http.Request{
		Method: x.method,
		URL:    &url.URL{Scheme: "https", Host: "localhost", Path: x.procedure, RawQuery: x.rawQuery},
		Header: header,
		Host:   "localhost",
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(x.ctx)
	switch {
	case x.stream != nil:
		req.Body, req.ContentLength = x.stream, -1
	case len(x.body) > 0:
		req.Body, req.ContentLength = h.body, int64(len(x.body))
	case x.method == http.MethodPost:
		req.Body = http.NoBody
	}
	return req
}

// sent is a request's body that knows whether it was begun. While it was not,
// the plugin cannot have acted: a Connect handler reads the message first.
// A transport may read a body after its round trip has ended; once closed,
// this one no longer touches the bytes, so that they can be used again.
type sent struct {
	mu    sync.Mutex
	rest  []byte
	begun bool
	done  bool
}

func (s *sent) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if s.done {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close ends the use of the bytes.
func (s *sent) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest, s.done = nil, true
	return nil
}

// end closes the body and tells whether it was begun.
func (s *sent) end() (begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest, s.done = nil, true
	return s.begun
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// failure is the authored error for a transport's.
func (x *exchange) failure(instance string, err error, untouched bool) error {
	var tooLarge *http.MaxBytesError
	var out *connect.Error
	switch {
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge.Limit)
	case errors.Is(x.ctx.Err(), context.Canceled):
		out = connect.NewError(connect.CodeCanceled, "the caller went away")
	case x.ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		out = Fault(connect.CodeDeadlineExceeded, ReasonDeadline, "the service took too long", "instance", instance)
	default:
		out = unavailable(instance, nil)
	}
	if untouched {
		return notSent(out, err)
	}
	return out.WithCause(err)
}

func notSent(err *connect.Error, cause error) error {
	if cause == nil {
		return err.WithCause(ErrNotSent)
	}
	return err.WithCause(fmt.Errorf("%w: %w", ErrNotSent, cause))
}

func bodyTooLarge(limit int64) *connect.Error {
	return Fault(connect.CodeResourceExhausted, ReasonBodyTooLarge,
		"the request is larger than "+strconv.FormatInt(limit, 10)+" bytes", "limit", strconv.FormatInt(limit, 10))
}

package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/sdk/call"
)

// grace is the time between the deadline that a plugin is told and the end of
// the kernel's patience: a plugin's own answer to its deadline goes first.
const grace = 250 * time.Millisecond

// Limits bound a forwarded call.
type Limits struct {
	// Body is the most bytes of a request with one message, StreamBody of a
	// request with many.
	Body, StreamBody int64
	// Time is the longest a call with one message each way may take,
	// StreamTime a stream.
	Time, StreamTime time.Duration
}

// For returns what bounds a method: the most bytes of its request and the
// longest time.
func (l Limits) For(m *registry.Method) (body int64, d time.Duration) {
	body, d = l.Body, l.Time
	if m.ClientStream {
		body = l.StreamBody
	}
	if m.ClientStream || m.ServerStream {
		d = l.StreamTime
	}
	return body, d
}

// Forward proxies a request to the plugin that serves the method, and its
// answer back, byte for byte. It takes the request over: its headers are
// changed in place. Inbound Entrepot-* headers are dropped and those of info
// set; an answer's are dropped, but a plugin that called (info.Caller) is told
// the instance that served.
//
// A request with one message is read whole before a plugin sees any of it, so
// a slow or oversized one costs no plugin anything.
//
// Connect unary calls go over HTTP/1.1, which is cheaper; streams and gRPC
// over HTTP/2, for their trailers.
func (r *Router) Forward(w http.ResponseWriter, req *http.Request, m *registry.Method, info call.Info, l Limits) {
	limit, most := l.For(m)
	d, err := Timeout(req.Header, most)
	if err != nil {
		WriteError(w, req, timeoutInvalid(err))
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), d+grace)
	defer cancel()
	x := &exchange{
		ctx: ctx, procedure: m.Procedure, contract: m.Contract, capability: m.Capability, info: info,
		repeatable: m.NoSideEffects, method: req.Method, rawQuery: req.URL.RawQuery,
		header: req.Header, http2: needsHTTP2(req.Header.Get(headerContentType)), grace: grace,
	}
	if m.ClientStream {
		x.stream = http.MaxBytesReader(w, req.Body, limit)
	} else {
		buf := getBuffer()
		defer putBuffer(buf)
		if err := readBody(buf, req, limit); err != nil {
			WriteError(w, req, err)
			return
		}
		x.body = buf.Bytes()
	}
	clean(req.Header)
	res, h, err := r.roundTrip(x)
	if err != nil {
		WriteError(w, req, err)
		return
	}
	defer r.leave(h)
	defer func() { _ = res.Body.Close() }()
	r.noteEvents(h, res.Header)
	if foreign(res) {
		WriteError(w, req, Fault(codeOfHTTP(res.StatusCode), ReasonPluginAnswer, "the service gave an answer that is none"))
		return
	}
	clean(res.Header)
	if info.Caller != "" {
		res.Header[call.HeaderInstance] = []string{h.instance.Name}
	}
	answer(w, res, m.ClientStream || m.ServerStream)
}

// needsHTTP2 tells whether a request is a stream or gRPC.
func needsHTTP2(contentType string) bool {
	return strings.HasPrefix(contentType, "application/connect+") || strings.HasPrefix(contentType, "application/grpc")
}

// readBody reads a request with one message.
func readBody(buf *bytes.Buffer, req *http.Request, limit int64) error {
	if req.ContentLength > limit {
		return bodyTooLarge(limit)
	}
	if req.ContentLength == 0 || req.Body == nil {
		return nil
	}
	n, err := buf.ReadFrom(io.LimitReader(req.Body, limit+1))
	switch {
	case err != nil && req.Context().Err() != nil:
		return connect.NewError(connect.CodeCanceled, "the caller went away").WithCause(err)
	case err != nil:
		return Fault(connect.CodeInvalidArgument, "BODY_UNREADABLE", "the request ended before it was complete").WithCause(err)
	case n > limit:
		return bodyTooLarge(limit)
	}
	return nil
}

// clean drops the headers that are not for the next hop: those of one
// connection (RFC 9110 section 7.6.1), those that only the kernel writes, and
// the caller's credentials, for which the principal stands.
func clean(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
			"Transfer-Encoding", "Upgrade", "Trailer", "Expect", "Authorization", "Cookie", "Set-Cookie", "Forwarded":
			delete(h, name)
		case "Te":
			h[name] = []string{"trailers"}
		default:
			if strings.HasPrefix(name, call.Prefix) || strings.HasPrefix(name, "X-Forwarded-") {
				delete(h, name)
			}
		}
	}
}

// noteEvents passes on that a plugin has committed events.
func (r *Router) noteEvents(h hop, header http.Header) {
	if v := header[call.HeaderEvents]; len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil && n > 0 {
			r.committed(h.instance.Plugin.Name, n)
		}
	}
}

// foreign tells whether an answer is of no RPC server: an error page, or a
// change of protocol. Its text would tell of the inside.
func foreign(res *http.Response) bool {
	if res.StatusCode < 200 {
		return true
	}
	return res.StatusCode >= 400 && strings.HasPrefix(res.Header.Get(headerContentType), "text/")
}

// answer copies a plugin's answer to the client. One that breaks off breaks
// the client's off too, so that nobody takes it for whole.
func answer(w http.ResponseWriter, res *http.Response, stream bool) {
	header := w.Header()
	for name, values := range res.Header {
		header[name] = values
	}
	w.WriteHeader(res.StatusCode)
	control := http.NewResponseController(w)
	if stream {
		_ = control.Flush()
	}
	buf := getBuffer()
	defer putBuffer(buf)
	chunk := buf.AvailableBuffer()[:chunkSize]
	written := 0
	for {
		n, err := res.Body.Read(chunk)
		if n > 0 {
			written += n
			if _, werr := w.Write(chunk[:n]); werr != nil {
				panic(http.ErrAbortHandler)
			}
			if stream {
				_ = control.Flush()
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if len(res.Trailer) > 0 && written == 0 {
		// Without a body, net/http sends trailers only after a flush
		// (golang/go#54723).
		_ = control.Flush()
	}
	clean(res.Trailer)
	for name, values := range res.Trailer {
		header[http.TrailerPrefix+name] = values
	}
}

const (
	chunkSize = 16 << 10
	// maxPooled keeps one large request from holding memory for ever.
	maxPooled = 256 << 10
)

var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, chunkSize)) }}

func getBuffer() *bytes.Buffer {
	b, _ := buffers.Get().(*bytes.Buffer)
	b.Reset()
	return b
}

func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		buffers.Put(b)
	}
}

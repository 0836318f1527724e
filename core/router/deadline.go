package router

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	headerConnectTimeout = "Connect-Timeout-Ms"
	headerGRPCTimeout    = "Grpc-Timeout"
	headerContentType    = "Content-Type"
)

// errTimeout is a timeout header that no client writes.
var errTimeout = errors.New("the timeout is not a number of at most 10 digits (Connect-Timeout-Ms), or 8 digits and a unit (grpc-timeout)")

// isGRPC tells whether a request speaks gRPC or gRPC-Web.
func isGRPC(h http.Header) bool {
	return strings.HasPrefix(h.Get(headerContentType), "application/grpc")
}

// Timeout is the time a call may take: what its client asks for, at most
// limit.
func Timeout(h http.Header, limit time.Duration) (time.Duration, error) {
	parse, value := parseConnectTimeout, h.Get(headerConnectTimeout)
	if isGRPC(h) {
		parse, value = parseGRPCTimeout, h.Get(headerGRPCTimeout)
	}
	if value == "" {
		return limit, nil
	}
	d, err := parse(value)
	if err != nil {
		return 0, err
	}
	return min(d, limit), nil
}

// setTimeout tells a plugin how long the call may take.
func setTimeout(h http.Header, d time.Duration) {
	ms := strconv.FormatInt(max(d.Milliseconds(), 1), 10)
	if isGRPC(h) {
		// At most 8 digits: 27 hours, far beyond any limit.
		h[headerGRPCTimeout] = []string{ms + "m"}
		return
	}
	h[headerConnectTimeout] = []string{ms}
}

func parseConnectTimeout(s string) (time.Duration, error) {
	ms, err := strconv.ParseUint(s, 10, 63)
	if err != nil || len(s) > 10 {
		return 0, errTimeout
	}
	return time.Duration(ms) * time.Millisecond, nil
}

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second,
	'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// parseGRPCTimeout reads grpc-timeout
// (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func parseGRPCTimeout(s string) (time.Duration, error) {
	if len(s) < 2 || len(s) > 9 {
		return 0, errTimeout
	}
	unit, ok := grpcUnits[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 63)
	if !ok || err != nil {
		return 0, errTimeout
	}
	if unit == time.Hour {
		// 99999999 hours overflow a Duration; no call takes that long.
		n = min(n, 1_000_000)
	}
	return time.Duration(n) * unit, nil
}

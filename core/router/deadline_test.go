package router

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheClientMayAskForLessTimeButNotForMore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind, header, value string
		want                      time.Duration
		bad                       bool
	}{
		{name: "nothing asked", kind: "application/proto", want: time.Minute},
		{name: "less", kind: "application/proto", header: headerConnectTimeout, value: "250", want: 250 * time.Millisecond},
		{name: "more", kind: "application/json", header: headerConnectTimeout, value: "9999999999", want: time.Minute},
		{name: "none left", kind: "application/json", header: headerConnectTimeout, value: "0", want: 0},
		{name: "negative", kind: "application/json", header: headerConnectTimeout, value: "-5", bad: true},
		{name: "too many digits", kind: "application/json", header: headerConnectTimeout, value: "00000000001", bad: true},
		{name: "words", kind: "application/json", header: headerConnectTimeout, value: "soon", bad: true},
		{name: "gRPC", kind: "application/grpc+proto", header: headerGRPCTimeout, value: "3S", want: 3 * time.Second},
		{name: "gRPC-Web", kind: "application/grpc-web", header: headerGRPCTimeout, value: "20m", want: 20 * time.Millisecond},
		{name: "gRPC hours overflow nothing", kind: "application/grpc", header: headerGRPCTimeout, value: "99999999H", want: time.Minute},
		{name: "gRPC without unit", kind: "application/grpc", header: headerGRPCTimeout, value: "30", bad: true},
		{name: "gRPC too long", kind: "application/grpc", header: headerGRPCTimeout, value: "123456789m", bad: true},
		{name: "gRPC does not read Connect's", kind: "application/grpc", header: headerConnectTimeout, value: "x", want: time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{"Content-Type": {c.kind}}
			if c.header != "" {
				h.Set(c.header, c.value)
			}
			got, err := Timeout(h, time.Minute)
			if c.bad {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// Whatever a client writes, the time is within the limit; and what the kernel
// writes of it, a plugin reads as no more.
func FuzzTimeout(f *testing.F) {
	f.Add("application/proto", "30000")
	f.Add("application/grpc", "30S")
	f.Add("application/grpc-web+json", "99999999H")
	f.Fuzz(func(t *testing.T, kind, value string) {
		h := http.Header{"Content-Type": {kind}, headerConnectTimeout: {value}, headerGRPCTimeout: {value}}
		d, err := Timeout(h, time.Hour)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, time.Hour)
		setTimeout(h, d)
		again, err := Timeout(h, time.Hour)
		require.NoError(t, err)
		require.LessOrEqual(t, again, max(d, time.Millisecond))
	})
}

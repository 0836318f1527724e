package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const (
	whole  = "04006381333931" // its register claims to be complete
	partly = "12345678901231"
)

const csvText = `gtin,serial,serial_to,made_on,country,complete
# the whole of it
4006381333931,,,,,true
4006381333931,A1,,2026-01-31,CH,
4006381333931,W0001,W0500,2026-02-01,CH,
`

const jsonText = `{"gtin": "12345678901231", "serial": "J1", "country": "JP"}

{"gtin": "12345678901231", "serial": "J7"}
`

func write(t testing.TB, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func open(t testing.TB, config map[string]any) providerv1connect.AuthenticatorServiceClient {
	t.Helper()
	if config == nil {
		config = map[string]any{"registers": []string{write(t, "watches.csv", csvText), write(t, "cameras.jsonl", jsonText)}}
	}
	m := plugintest.Start(t, authenticator(), plugintest.Config(config))
	return providerv1connect.NewAuthenticatorServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "inspection"}}))
}

func ask(key, gtin, serial string, evidence ...*providerv1.Evidence) *providerv1.CheckRequest {
	return &providerv1.CheckRequest{Key: key, UnitId: "unt_" + gtin + serial, Gtin: gtin, Serial: serial, Quantity: 1, Evidence: evidence}
}

func read(serial string) *providerv1.Evidence {
	return &providerv1.Evidence{Kind: "serial", Text: serial}
}

func seen(country string, ago time.Duration) *providerv1.Evidence {
	return &providerv1.Evidence{Kind: "photo", BlobId: "x", Country: country, At: timestamppb.New(time.Now().Add(-ago))}
}

func check(t require.TestingT, c providerv1connect.AuthenticatorServiceClient, req *providerv1.CheckRequest) *providerv1.Outcome {
	res, err := c.Check(context.Background(), req)
	require.NoError(t, err)
	return res.GetOutcome()
}

func retain(t *testing.T, c providerv1connect.AuthenticatorServiceClient, key, gtin, serial string, fate providerv1.RetainRequest_Fate, ago time.Duration) {
	t.Helper()
	_, err := c.Retain(t.Context(), &providerv1.RetainRequest{Key: key, Gtin: gtin, Serial: serial, Fate: fate, At: timestamppb.New(time.Now().Add(-ago))})
	require.NoError(t, err)
}

const (
	sold      = providerv1.RetainRequest_FATE_SOLD
	destroyed = providerv1.RetainRequest_FATE_DESTROYED
	returned  = providerv1.RetainRequest_FATE_RETURNED
)

func TestWhatIsKnownDecidesTheAnswerAndTheKeyKeepsIt(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	hour := time.Hour
	clone := ask("dup", whole, "W0001")
	clone.UnitId = "unt_other"
	noUnit := ask("no-unit", whole, "", read("W0002"))
	noUnit.UnitId = ""
	huge := ask("huge", whole, "W0003")
	for range 50 {
		huge.Evidence = append(huge.Evidence, &providerv1.Evidence{Kind: "document", Text: strings.Repeat("x", 2000), Country: "ZZ"})
	}
	retain(t, c, "r1", whole, "W0010", sold, hour)
	retain(t, c, "r2", whole, "W0011", sold, 2*hour)
	retain(t, c, "r3", whole, "W0011", returned, hour)
	retain(t, c, "r2", whole, "W0011", sold, 2*hour) // told again
	retain(t, c, "r4", whole, "W0012", destroyed, 2*hour)
	retain(t, c, "r5", whole, "W0012", returned, hour) // nothing comes back
	retain(t, c, "r6", whole, "W0013", returned, hour)
	retain(t, c, "r7", whole, "W0013", sold, 2*hour) // told late
	retain(t, c, "r8", "00000000000017", "1", sold, hour)
	for _, x := range []struct {
		name   string
		req    *providerv1.CheckRequest
		result providerv1.Result
		reason string
	}{
		{"a serial of the list", ask("k1", whole, "A1"), genuine, "SERIAL_KNOWN"},
		{"a serial of a range", ask("k2", whole, "W0001"), genuine, "SERIAL_KNOWN"},
		{"a serial that was read from the goods", noUnit, genuine, "SERIAL_KNOWN"},
		{"one outside the range of a complete register", ask("k3", whole, "W0501"), counterfeit, "SERIAL_UNKNOWN"},
		{"one of another length", ask("k4", whole, "W00001"), counterfeit, "SERIAL_UNKNOWN"},
		{"one that a register without claims lacks", ask("k5", partly, "J2"), inconclusive, "SERIAL_UNKNOWN"},
		{"goods of nobody here", ask("k6", "00000000000017", "1"), inconclusive, "NOT_MY_GOODS"},
		{"goods without a GTIN", ask("k7", "", "1"), inconclusive, "NOT_MY_GOODS"},
		{"no serial at all", ask("k8", whole, ""), inconclusive, "EVIDENCE_MISSING"},
		{"evidence of another kind", ask("k9", whole, "", &providerv1.Evidence{Kind: "hologram", Text: "A1"}), inconclusive, "EVIDENCE_MISSING"},
		{"several serials for one look", ask("k10", whole, "", read("A1"), read("W0001")), inconclusive, "EVIDENCE_AMBIGUOUS"},
		{"no serial but a sentence", ask("k11", whole, "", read("I cannot read it")), inconclusive, "EVIDENCE_MALFORMED"},
		{"another serial on the goods than on the paper", ask("k12", whole, "W0020", read("W0021")), wrongItem, "SERIAL_DIFFERS"},
		{"the same serial on both", ask("k13", whole, "W0020", read("W0021"), read(" W0020 ")), genuine, "SERIAL_KNOWN"},
		{"another unit with the serial", clone, inconclusive, "SERIAL_DUPLICATE"},
		{"sold", ask("k14", whole, "W0010"), inconclusive, "ALREADY_SOLD"},
		{"sold and come back", ask("k15", whole, "W0011"), genuine, "SERIAL_KNOWN"},
		{"destroyed", ask("k16", whole, "W0012"), counterfeit, "ALREADY_DESTROYED"},
		{"a sale that was told after the return", ask("k17", whole, "W0013"), genuine, "SERIAL_KNOWN"},
		{"all the evidence that there may be", huge, genuine, "SERIAL_KNOWN"},
		{"seen here", ask("k18", whole, "W0030", seen("DE", hour)), genuine, "SERIAL_KNOWN"},
		{"seen in the next country", ask("k19", whole, "W0030", seen("NL", hour)), genuine, "SERIAL_KNOWN"},
		{"seen where it cannot be", ask("k20", whole, "W0030", seen("JP", hour)), inconclusive, "IMPOSSIBLE_TRAVEL"},
		{"seen at two ends of the world in one look", ask("k21", whole, "W0031", seen("AR", hour), seen("CN", 0)), inconclusive, "IMPOSSIBLE_TRAVEL"},
		{"seen there after a journey", ask("k22", whole, "W0032", seen("AR", 40*hour), seen("CN", 0)), genuine, "SERIAL_KNOWN"},
		{"seen in the days to come, which is now", ask("k23", whole, "W0033", seen("DE", 0), seen("JP", -1000*hour)), inconclusive, "IMPOSSIBLE_TRAVEL"},
		{"seen out of mind", ask("k24", whole, "W0034", seen("DE", 290*365*24*hour), seen("JP", 0)), genuine, "SERIAL_KNOWN"},
	} {
		first := check(t, c, x.req)
		require.Equal(t, x.result, first.GetResult(), x.name)
		require.Equal(t, x.reason, first.GetReason(), x.name)
		require.Equal(t, x.req.GetKey(), first.GetKey())
		require.Equal(t, "registry", first.GetMethod())
		require.True(t, proto.Equal(first, check(t, c, x.req)), "%s: the same key has the same answer", x.name)
	}
	require.Equal(t, "made on 2026-01-31 in CH", check(t, c, ask("k1", whole, "A1")).GetNote())
	require.Equal(t, "watches", check(t, c, ask("k1", whole, "A1")).GetInstrument())
	// What is told later changes later answers alone.
	retain(t, c, "r9", whole, "A1", destroyed, 0)
	require.Equal(t, "SERIAL_KNOWN", check(t, c, ask("k1", whole, "A1")).GetReason())
	require.Equal(t, "ALREADY_DESTROYED", check(t, c, ask("k30", whole, "A1")).GetReason())
	_, err := c.Retain(t.Context(), &providerv1.RetainRequest{Key: "r", Gtin: whole, Serial: "no serial", Fate: sold})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestOfUnitsThatPresentOneSerialAtOnceOneIsFirst(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	var mu sync.Mutex
	said := map[string]int{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			req := ask("k"+strconv.Itoa(i), whole, "W0042")
			req.UnitId = "unt_" + strconv.Itoa(i)
			out := check(t, c, req)
			mu.Lock()
			defer mu.Unlock()
			said[out.GetReason()]++
		})
	}
	wg.Wait()
	require.Equal(t, map[string]int{"SERIAL_KNOWN": 1, "SERIAL_DUPLICATE": 19}, said)
}

func TestARegisterThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	name := write(t, "watches.csv", csvText)
	lib, err := openLibrary([]string{name}, 0, quiet)
	require.NoError(t, err)
	holds := func(serial string) bool {
		_, ok := lib.registers()[whole].find(serial)
		return ok
	}
	require.False(t, holds("B1"))
	require.NoError(t, os.WriteFile(name, []byte(csvText+"4006381333931,B1,,,,\n"), 0o600))
	require.True(t, holds("B1"))
	require.NoError(t, lib.failure())
	require.NoError(t, os.WriteFile(name, []byte(csvText+"4006381333931,B1,,,,\nnonsense\n"), 0o600))
	require.True(t, holds("B1"), "what could be read stays in force")
	require.ErrorContains(t, lib.failure(), "watches.csv:7")
	require.NoError(t, os.Remove(name))
	require.True(t, holds("B1"))
	require.Error(t, lib.failure())
	require.NoError(t, os.WriteFile(name, []byte(csvText), 0o600))
	require.False(t, holds("B1"))
	require.NoError(t, lib.failure())
}

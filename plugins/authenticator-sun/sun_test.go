package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/ntag424"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const (
	prefix = "https://tag.example.com/t"
	gtin   = "04006381333931"
	master = "00112233445566778899aabbccddeeff"
	meta   = "0f0e0d0c0b0a09080706050403020100"
)

var form = ntag424.Form{Prefix: prefix, PICC: "e", CMAC: "c"}

func start(t testing.TB, p plugin.Plugin, config map[string]any) providerv1connect.AuthenticatorServiceClient {
	t.Helper()
	if config["url_prefix"] == nil {
		config["url_prefix"] = prefix
	}
	secrets := map[string]string{"master_key": master, "meta_key": meta}
	if config["diversify"] == false {
		secrets = map[string]string{"master_key": strings.Repeat("0", 32), "meta_key": strings.Repeat("0", 32)}
	}
	m := plugintest.Start(t, p, plugintest.Config(config), plugintest.Secrets(secrets))
	return providerv1connect.NewAuthenticatorServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "inspection"}}))
}

// newTag makes a chip as the operator would have it made.
func newTag(t require.TestingT, uid ntag424.UID) *ntag424.Tag {
	k, err := ntag424.ParseKey(master)
	require.NoError(t, err)
	tag := &ntag424.Tag{UID: uid, Form: form}
	tag.Meta, err = ntag424.ParseKey(meta)
	require.NoError(t, err)
	tag.File, err = ntag424.Diversify(k, uid, nil)
	require.NoError(t, err)
	return tag
}

func tapOf(t require.TestingT, tag *ntag424.Tag) string {
	text, err := tag.Tap()
	require.NoError(t, err)
	return text
}

func ask(key, serial string, texts ...string) *providerv1.CheckRequest {
	req := &providerv1.CheckRequest{Key: key, UnitId: "unt_" + serial, Gtin: gtin, Serial: serial, Quantity: 1}
	for _, x := range texts {
		req.Evidence = append(req.Evidence, &providerv1.Evidence{Kind: "tag-url", Text: x})
	}
	return req
}

func check(t require.TestingT, c providerv1connect.AuthenticatorServiceClient, req *providerv1.CheckRequest) *providerv1.Outcome {
	res, err := c.Check(context.Background(), req)
	require.NoError(t, err)
	return res.GetOutcome()
}

func TestTheExampleOfAN12196Passes(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{"diversify": false, "url_prefix": "https://ntag.nxp.com/424"})
	out := check(t, c, ask("k", "1", "https://ntag.nxp.com/424?e=EF963FF7828658A599F3041510671E88&c=94EED9EE65337086"))
	require.Equal(t, genuine, out.GetResult())
	require.Equal(t, "TAG_VERIFIED", out.GetReason())
	require.Equal(t, "04DE5F1EACC040", out.GetInstrument())
	require.Equal(t, "tag", out.GetMethod())
	require.Equal(t, "tap 61", out.GetNote())
}

func TestWhatIsGivenDecidesTheAnswerAndTheKeyKeepsIt(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{})
	tag := newTag(t, ntag424.UID{4, 1})
	other := newTag(t, ntag424.UID{4, 2})
	fake := newTag(t, ntag424.UID{4, 1})
	fake.File[0] ^= 1
	early, good := tapOf(t, tag), tapOf(t, tag)
	noise := newTag(t, ntag424.UID{4, 3})
	noise.Meta[5] ^= 1
	whole := ask("k-whole", "1", tapOf(t, tag))
	whole.UnitId, whole.Serial = "", ""
	onlyUnit := ask("k-unit", "9", tapOf(t, newTag(t, ntag424.UID{4, 9})))
	onlyUnit.Gtin = ""
	photo := ask("k-photo", "1")
	photo.Evidence = []*providerv1.Evidence{{Kind: "photo", BlobId: "sha256-0"}, {Kind: "serial", Text: good}}
	for _, x := range []struct {
		name   string
		req    *providerv1.CheckRequest
		result providerv1.Result
		reason string
	}{
		{"no evidence", ask("k0", "1"), inconclusive, "EVIDENCE_MISSING"},
		{"evidence of other kinds", photo, inconclusive, "EVIDENCE_MISSING"},
		{"two taps", ask("k1", "1", early, good), inconclusive, "EVIDENCE_AMBIGUOUS"},
		{"no message", ask("k2", "1", "hello"), inconclusive, "EVIDENCE_MALFORMED"},
		{"an empty message", ask("k3", "1", ""), inconclusive, "EVIDENCE_MALFORMED"},
		{"a long message", ask("k4", "1", prefix+"?e="+strings.Repeat("0", 1900)), inconclusive, "EVIDENCE_MALFORMED"},
		{"another's address", ask("k5", "1", strings.Replace(good, "tag.example", "tag.evil", 1)), inconclusive, "EVIDENCE_MALFORMED"},
		{"a chip with another key", ask("k6", "1", tapOf(t, fake)), counterfeit, "TAG_FORGED"},
		{"a chip with another batch's key", ask("k7", "1", tapOf(t, noise)), counterfeit, "TAG_FORGED"},
		{"no piece named", whole, inconclusive, "UNIT_MISSING"},
		{"a tag", ask("k8", "1", good), genuine, "TAG_VERIFIED"},
		{"the same message twice in one check", ask("k8", "1", good, good), genuine, "TAG_VERIFIED"},
		{"the same message for another check", ask("k9", "1", good), counterfeit, "COUNTER_REPLAYED"},
		{"an earlier message", ask("k10", "1", early), counterfeit, "COUNTER_REPLAYED"},
		{"the tag on other goods", ask("k11", "2", tapOf(t, tag)), counterfeit, "TAG_FOREIGN"},
		{"the goods with another tag", ask("k12", "1", tapOf(t, other)), counterfeit, "TAG_FOREIGN"},
		{"that other tag on its own goods", ask("k13", "2", tapOf(t, other)), genuine, "TAG_VERIFIED"},
		{"the query alone", ask("k14", "1", strings.TrimPrefix(tapOf(t, tag), prefix+"?")), genuine, "TAG_VERIFIED"},
		{"goods without a GTIN", onlyUnit, genuine, "TAG_VERIFIED"},
	} {
		first := check(t, c, x.req)
		require.Equal(t, x.result, first.GetResult(), x.name)
		require.Equal(t, x.reason, first.GetReason(), x.name)
		require.Equal(t, x.req.GetKey(), first.GetKey())
		require.True(t, proto.Equal(first, check(t, c, x.req)), "%s: the same key has the same answer", x.name)
	}
	// Later taps do not change what earlier checks were answered.
	require.Equal(t, genuine, check(t, c, ask("k8", "1", good)).GetResult())
}

func TestAMessageIsAcceptedOnceWhoeverAsks(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		var uid ntag424.UID
		_, err := rand.Read(uid[:])
		require.NoError(rt, err)
		tag := newTag(rt, uid)
		tag.Counter = rapid.Uint32Range(0, ntag424.MaxCounter-10).Draw(rt, "counter")
		serial := strconv.Itoa(n)
		for i := range rapid.IntRange(1, 3).Draw(rt, "taps") {
			text := tapOf(rt, tag)
			id := serial + "/" + strconv.Itoa(i)
			require.Equal(rt, "TAG_VERIFIED", check(rt, c, ask(id, serial, text)).GetReason())
			require.Equal(rt, "COUNTER_REPLAYED", check(rt, c, ask(id+"/again", serial, text)).GetReason())
			bit := rapid.IntRange(0, 8*24-1).Draw(rt, "bit")
			require.NotEqual(rt, genuine, check(rt, c, ask(id+"/forged", serial, flip(text, bit))).GetResult())
			tag.Counter += rapid.Uint32Range(0, 2).Draw(rt, "skipped")
		}
	})
}

// flip changes a bit of the 24 bytes that a message has.
func flip(text string, bit int) string {
	digits := []byte(text)
	at := len(prefix) + len("?e=") + bit/4
	if bit/4 >= 32 {
		at += len("&c=")
	}
	v, _ := strconv.ParseUint(string(digits[at]), 16, 8)
	digits[at] = strings.ToUpper(strconv.FormatUint(v^1<<(bit%4), 16))[0]
	return string(digits)
}

func TestOfManyWhoShowOneMessageAtOnceOneIsBelieved(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{})
	tag := newTag(t, ntag424.UID{4, 7})
	for round := range 5 {
		text := tapOf(t, tag)
		var believed atomic.Int32
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				// Each key asks twice.
				out := check(t, c, ask(strconv.Itoa(round)+"/"+strconv.Itoa(i/2), "7", text))
				if out.GetResult() == genuine {
					believed.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 2, believed.Load())
	}
}

func TestOnePieceIsFirstVerifiedByOneTag(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{})
	var believed atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		text := tapOf(t, newTag(t, ntag424.UID{4, byte(i)}))
		wg.Go(func() {
			if check(t, c, ask(strconv.Itoa(i), "1", text)).GetResult() == genuine {
				believed.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, believed.Load())
}

// forgetful is a kernel whose every other answer to a write is lost.
type forgetful struct {
	kernelv1connect.StateServiceClient
	n *atomic.Int32
}

func (f forgetful) PutState(ctx context.Context, req *kernelv1.PutStateRequest) (*kernelv1.PutStateResponse, error) {
	res, err := f.StateServiceClient.PutState(ctx, req)
	if f.n.Add(1)%2 == 1 && err == nil {
		return nil, connect.NewError(connect.CodeUnavailable, "lost").WithCause(errors.New("lost"))
	}
	return res, err
}

func TestALostAnswerNeitherBurnsATagNorBelievesACopy(t *testing.T) {
	t.Parallel()
	p := authenticator()
	p.New = func(ctx context.Context, in *plugin.Instance) error {
		in.Host.State = forgetful{in.Host.State, &atomic.Int32{}}
		return register(ctx, in)
	}
	c := start(t, p, map[string]any{})
	tag := newTag(t, ntag424.UID{4, 8})
	for i := range 4 {
		text, key := tapOf(t, tag), "k"+strconv.Itoa(i)
		_, err := c.Check(t.Context(), ask(key, "1", text))
		if err != nil {
			require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
			// It was written and not answered: to everybody else it is a copy.
			require.Equal(t, "COUNTER_REPLAYED", check(t, c, ask(key+"/thief", "1", text)).GetReason())
		}
		for err != nil {
			_, err = c.Check(t.Context(), ask(key, "1", text))
		}
		require.Equal(t, "TAG_VERIFIED", check(t, c, ask(key, "1", text)).GetReason())
	}
}

func TestASealThatWasOpenedVouchesForNothing(t *testing.T) {
	t.Parallel()
	c := start(t, authenticator(), map[string]any{"enc_parameter": "m", "seal_offset": 2})
	for i, x := range []struct {
		data, reason string
		result       providerv1.Result
	}{
		{"--CC------------", "TAG_VERIFIED", genuine},
		{"--OC------------", "SEAL_OPENED", inconclusive},
		{"--OO------------", "SEAL_OPENED", inconclusive},
		{"--II------------", "SEAL_UNKNOWN", inconclusive},
	} {
		tag := newTag(t, ntag424.UID{4, byte(i)})
		tag.Form.Enc, tag.Data = "m", []byte(x.data)
		serial := strconv.Itoa(i)
		text := tapOf(t, tag)
		out := check(t, c, ask("k"+serial, serial, text))
		require.Equal(t, x.reason, out.GetReason())
		require.Equal(t, x.result, out.GetResult())
		require.True(t, proto.Equal(out, check(t, c, ask("k"+serial, serial, text))))
		require.Equal(t, "COUNTER_REPLAYED", check(t, c, ask("x"+serial, serial, text)).GetReason())
	}
	short := start(t, authenticator(), map[string]any{"enc_parameter": "m", "seal_offset": 20})
	tag := newTag(t, ntag424.UID{4, 1})
	tag.Form.Enc, tag.Data = "m", make([]byte, 16)
	require.Equal(t, "SEAL_UNKNOWN", check(t, short, ask("k", "1", tapOf(t, tag))).GetReason())
}

func TestTheOperatorsBindingsDecide(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "tags.csv")
	require.NoError(t, os.WriteFile(name, []byte("uid,gtin,serial\n# a comment\n04010000000000,4006381333931,1\n"), 0o600))
	c := start(t, authenticator(), map[string]any{"bindings": name})
	listed, free := newTag(t, ntag424.UID{4, 1}), newTag(t, ntag424.UID{4, 2})
	require.Equal(t, "TAG_FOREIGN", check(t, c, ask("a", "2", tapOf(t, listed))).GetReason())
	require.Equal(t, "TAG_FOREIGN", check(t, c, ask("b", "1", tapOf(t, free))).GetReason())
	require.Equal(t, "TAG_VERIFIED", check(t, c, ask("c", "1", tapOf(t, listed))).GetReason())
	require.Equal(t, "TAG_VERIFIED", check(t, c, ask("d", "2", tapOf(t, free))).GetReason(), "one that is not listed belongs to what it is first seen on")
}

func TestWhatCannotBeIsRefusedWithItsField(t *testing.T) {
	t.Parallel()
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "tags.csv")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	for _, x := range []struct{ config, field, says string }{
		{`{"url_prefix": "https://x.example/t"}`, "", ""},
		{`{"url_prefix": "x.example"}`, "url_prefix", "question mark"},
		{`{"url_prefix": "https://x.example/t?a=b"}`, "url_prefix", "question mark"},
		{`{"url_prefix": "https://x.example/t", "cmac_parameter": "e"}`, "cmac_parameter", "own"},
		{`{"url_prefix": "https://x.example/t", "picc_parameter": "a&b"}`, "picc_parameter", "letters"},
		{`{"url_prefix": "https://x.example/t", "seal_offset": 0}`, "seal_offset", "enc_parameter"},
		{`{"url_prefix": "https://x.example/t", "enc_parameter": "m", "seal_offset": 111}`, "seal_offset", "110"},
		{`{"url_prefix": "https://x.example/t", "system_id": "xyz"}`, "system_id", "hex"},
		{`{"url_prefix": "https://x.example/t", "bindings": "/no/such/file"}`, "bindings", "no such file"},
		{`{"url_prefix": "https://x.example/t", "bindings": "` + file("04010000000000,4006381333931,1\n0401000000000,4006381333931,2\n") + `"}`, "bindings", "tags.csv:2"},
		{`{"url_prefix": "https://x.example/t", "bindings": "` + file("04010000000000,4006381333932,1\n") + `"}`, "bindings", "tags.csv:1"},
		{`{"url_prefix": "https://x.example/t", "bindings": "` + file("04010000000000,4006381333931,1\n04010000000001,4006381333931,1\n") + `"}`, "bindings", "stand twice"},
	} {
		found := validate([]byte(x.config))
		if x.field == "" {
			require.Empty(t, found)
			continue
		}
		require.Len(t, found, 1, x.config)
		require.Equal(t, x.field, found[0].GetField())
		require.Contains(t, found[0].GetMessage(), x.says)
	}
}

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// run asks about a consignment of these watches and returns its checks by
// instrument.
func (h *house) run(t testing.TB, caseID, run string, evidence ...*inspectionv1.Evidence) (*inspectionv1.Case, map[string]*inspectionv1.Check) {
	t.Helper()
	res, err := h.ann.RunChecks(t.Context(), &inspectionv1.RunChecksRequest{CaseId: caseID, RunId: run, Evidence: evidence})
	require.NoError(t, err)
	return res.GetCase(), byInstrument(res.GetCase())
}

func byInstrument(c *inspectionv1.Case) map[string]*inspectionv1.Check {
	out := make(map[string]*inspectionv1.Check)
	for _, k := range c.GetChecks() {
		name, _, _ := strings.Cut(k.GetInstrument(), "/")
		out[name] = k
	}
	return out
}

func (h *house) caseOf(t testing.TB, serial string) (caseID, unitID string) {
	t.Helper()
	res := h.consign(t, serial)
	return res.GetConsignment().GetCaseIds()[0], res.GetUnits()[0].GetUnitId()
}

// due makes what waits for its next try wait no longer, and does it.
func (h *house) due(t testing.TB) {
	t.Helper()
	for _, table := range []string{"check_made", "retain"} {
		_, err := h.Admin.Exec(t.Context(), `UPDATE p_inspection.`+table+` SET next_try = now() - interval '1 s' WHERE next_try IS NOT NULL`)
		require.NoError(t, err)
	}
	require.NoError(t, h.s.run(t.Context()))
}

func TestARunAsksEveryAuthenticatorOnceWithItsKey(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c, u := h.caseOf(t, "W1")
	var asked *providerv1.CheckRequest
	h.will("sun", func(req *providerv1.CheckRequest) (*providerv1.Outcome, error) {
		asked = req
		return &providerv1.Outcome{Key: req.GetKey(), Result: 1, Method: "tag", Reason: "TAG_VERIFIED", Instrument: "04DE5F1EACC040"}, nil
	})
	for range 2 {
		got, checks := h.run(t, c, "run-1", &inspectionv1.Evidence{UnitId: u, Kind: "tag-url", Text: "https://x.example/?e=1"})
		require.Equal(t, checking, got.GetState())
		require.Len(t, got.GetChecks(), 2)
		require.Equal(t, "sun/04DE5F1EACC040", checks["sun"].GetInstrument())
		require.Equal(t, "TAG_VERIFIED", checks["sun"].GetReason())
		require.Equal(t, saysGenuine, checks["reg"].GetResult())
	}
	require.Equal(t, map[string]int{c + "/" + u + "/run-1/sun": 1, c + "/" + u + "/run-1/reg": 1}, h.asked)
	require.Equal(t, "W1", asked.GetSerial())
	require.Equal(t, gtin, asked.GetGtin())
	require.Equal(t, "https://x.example/?e=1", asked.GetEvidence()[0].GetText())
	require.NoError(t, h.s.run(t.Context()))
	require.Len(t, h.asked, 2, "what was answered is not asked again")
}

func TestTheCategoryChoosesTheMethods(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		methods []any
		only    []string
		want    []string
	}{
		"none said, all":                {nil, nil, []string{"reg", "sun"}},
		"the longest prefix":            {[]any{"watches=tag,registry", "watches/gold=tag"}, nil, []string{"sun"}},
		"whole parts of the path":       {[]any{"watch=tag"}, nil, []string{"reg", "sun"}},
		"everything else":               {[]any{"=registry"}, nil, []string{"reg"}},
		"what the run asks for of them": {nil, []string{"registry"}, []string{"reg"}},
		"none that fits":                {[]any{"watches=lab"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := map[string]any{}
			if x.methods != nil {
				config["methods"] = x.methods
			}
			h := open(t, config)
			c, _ := h.caseOf(t, "W1")
			res, err := h.ann.RunChecks(t.Context(), &inspectionv1.RunChecksRequest{CaseId: c, RunId: "r", Methods: x.only})
			if x.want == nil {
				refused(t, connect.CodeFailedPrecondition, "NO_AUTHENTICATOR", err)
				return
			}
			require.NoError(t, err)
			var got []string
			for name := range byInstrument(res.GetCase()) {
				got = append(got, name)
			}
			require.ElementsMatch(t, x.want, got)
		})
	}
}

func TestAnAuthenticatorThatLiesIsNotBelieved(t *testing.T) {
	t.Parallel()
	good := func(req *providerv1.CheckRequest) *providerv1.Outcome {
		return &providerv1.Outcome{Key: req.GetKey(), Result: 1, Method: "tag", Reason: "TAG_VERIFIED"}
	}
	h := open(t, nil)
	for name, lie := range map[string]func(o *providerv1.Outcome){
		"another's key":       func(o *providerv1.Outcome) { o.Key = "x" },
		"no result":           func(o *providerv1.Outcome) { o.Result = 0 },
		"a result of its own": func(o *providerv1.Outcome) { o.Result = 77 },
		"another's method":    func(o *providerv1.Outcome) { o.Method = "registry" },
		"a method of no name": func(o *providerv1.Outcome) { o.Method = "" },
		"reason in small":     func(o *providerv1.Outcome) { o.Reason = "fine" },
		"a huge note":         func(o *providerv1.Outcome) { o.Note = strings.Repeat("x", 1<<20) },
		"many blobs":          func(o *providerv1.Outcome) { o.BlobIds = make([]string, 21) },
		"a huge blob id":      func(o *providerv1.Outcome) { o.BlobIds = []string{strings.Repeat("x", 1<<20)} },
		"many operators":      func(o *providerv1.Outcome) { o.Operators = make([]string, 6) },
	} {
		h.will("sun", func(req *providerv1.CheckRequest) (*providerv1.Outcome, error) {
			o := good(req)
			lie(o)
			return o, nil
		})
		c, _ := h.caseOf(t, id.New("s")[5:20])
		got, checks := h.run(t, c, "r")
		require.Equal(t, checking, got.GetState(), name)
		require.Equal(t, saysInconclusive, checks["sun"].GetResult(), name)
		require.Equal(t, "ANSWER_INVALID", checks["sun"].GetReason(), name)
		require.Empty(t, checks["sun"].GetNote(), name)
	}
	h.will("sun", func(*providerv1.CheckRequest) (*providerv1.Outcome, error) { return nil, nil })
	c, _ := h.caseOf(t, "NIL")
	_, checks := h.run(t, c, "r")
	require.Equal(t, "ANSWER_INVALID", checks["sun"].GetReason())
}

func TestAnAuthenticatorThatIsNotReachedIsAskedAgain(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c, u := h.caseOf(t, "W1")
	h.will("sun", func(*providerv1.CheckRequest) (*providerv1.Outcome, error) {
		return nil, fault.New(connect.CodeUnavailable, "DOWN", "not now")
	})
	got, checks := h.run(t, c, "r")
	require.Equal(t, collecting, got.GetState())
	require.Equal(t, pending, checks["sun"].GetResult())
	require.Equal(t, "NOT_REACHED", checks["sun"].GetReason())
	h.due(t)
	require.Equal(t, pending, byInstrument(h.getCase(t, c))["sun"].GetResult())
	h.will("sun", nil)
	h.due(t)
	require.Equal(t, saysGenuine, byInstrument(h.getCase(t, c))["sun"].GetResult())
	require.Equal(t, checking, h.getCase(t, c).GetState())
	require.Equal(t, 3, h.asked[c+"/"+u+"/r/sun"], "with the same key")
}

func TestAnAuthenticatorThatRefusesIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c, _ := h.caseOf(t, "W1")
	h.will("sun", func(*providerv1.CheckRequest) (*providerv1.Outcome, error) {
		return nil, fault.New(connect.CodeInvalidArgument, "WHAT", "no")
	})
	_, checks := h.run(t, c, "r")
	require.Equal(t, saysInconclusive, checks["sun"].GetResult())
	require.Equal(t, "REFUSED", checks["sun"].GetReason())
}

func TestAnAuthenticatorIsWaitedForSoLong(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]any{"patience": "1h"})
	c, _ := h.caseOf(t, "W1")
	h.asks(t, c)
	_, err := h.Admin.Exec(t.Context(), `UPDATE p_inspection.check_made SET asked_at = now() - interval '2 h' WHERE result = 4`)
	require.NoError(t, err)
	h.due(t)
	require.Equal(t, "NOT_ANSWERED", byInstrument(h.getCase(t, c))["sun"].GetReason())
	require.Equal(t, checking, h.getCase(t, c).GetState())
}

func TestAWedgedAuthenticatorHoldsUpNobody(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c, _ := h.caseOf(t, "W1")
	h.wedged, h.s.authenticators.patience = "sun", 100*time.Millisecond
	res, err := h.ann.RunChecks(t.Context(), &inspectionv1.RunChecksRequest{CaseId: c, RunId: "r"})
	require.NoError(t, err)
	require.Equal(t, "NOT_REACHED", byInstrument(res.GetCase())["sun"].GetReason())
	require.Equal(t, saysGenuine, byInstrument(res.GetCase())["reg"].GetResult())
}

func TestAPendingCheckIsEndedByWhoWasAsked(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.instances[1].Plugin = "another"
	c, u := h.caseOf(t, "W1")
	h.will("reg", says(4, "registry", ""))
	h.asks(t, c)
	run := strings.Split(firstKey(h.asked, "/reg"), "/")[2]
	end := func(instance string, change func(*providerv1.Outcome)) *providerv1.CheckCompleted {
		o := &providerv1.Outcome{Key: c + "/" + u + "/" + run + "/" + instance, Result: 1, Method: methodOf[instance], Operators: []string{"acc_x", "acc_y"}}
		if change != nil {
			change(o)
		}
		return &providerv1.CheckCompleted{Key: c + "/" + u + "/" + run + "/" + instance, Outcome: o}
	}
	require.NoError(t, h.Deliver(t.Context(), "authenticators",
		&providerv1.CheckCompleted{Key: "never asked", Outcome: &providerv1.Outcome{Key: "never asked", Result: 1, Method: "tag"}},
		end("sun", nil), // of another plugin than the one that was asked
		end("reg", func(o *providerv1.Outcome) { o.Result = 4 })))
	require.Equal(t, collecting, h.getCase(t, c).GetState())
	require.NoError(t, h.Deliver(t.Context(), "authenticators", end("reg", nil), end("reg", func(o *providerv1.Outcome) { o.Result = 2 })))
	checks := byInstrument(h.getCase(t, c))
	require.Equal(t, saysGenuine, checks["reg"].GetResult(), "its first end is its end")
	require.Equal(t, "acc_x acc_y", checks["reg"].GetOperator())
	require.Equal(t, pending, checks["sun"].GetResult())
}

func firstKey(m map[string]int, suffix string) string {
	for k := range m {
		if strings.HasSuffix(k, suffix) {
			return k
		}
	}
	return "///"
}

func TestACopiedTagIsRaised(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetUnitId()
	c := id.New("cas")
	_, err := h.plugin.OpenCase(t.Context(), &inspectionv1.OpenCaseRequest{
		CaseId: c, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 1, UnitIds: []string{u}, Reference: "count-1",
	})
	require.NoError(t, err)
	h.will("sun", says(providerv1.Result_RESULT_COUNTERFEIT, "tag", "COUNTER_REPLAYED"))
	h.run(t, c, "r")
	raised := of[*inspectionv1.CloneSuspected](t, h)
	require.Len(t, raised, 1)
	require.Equal(t, "TAG_REPLAYED", raised[0].GetReason())
	require.Equal(t, c, raised[0].GetReference())
	require.Empty(t, h.getUnit(t, u).GetCertificateId())
}

func TestWhatBecameOfUnitsIsToldInOrderUntilItIsHeard(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetUnitId()
	h.mu.Lock()
	h.deaf = true
	h.instances = append(h.instances, &kernelv1.Instance{Instance: "mute", Capabilities: []string{"tag"}})
	h.mu.Unlock()
	h.sell(t, "ful_1", u)
	h.due(t)
	require.Empty(t, h.told)
	c := id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "warehouse", returnOf(c, u)))
	h.find(t, c, counterfeit)
	h.destroyCase(t, c)
	h.mu.Lock()
	h.deaf = false
	h.mu.Unlock()
	for range 3 {
		h.due(t)
	}
	var fates []providerv1.RetainRequest_Fate
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.told {
		require.Equal(t, gtin, r.GetGtin())
		require.Equal(t, "W1", r.GetSerial())
		fates = append(fates, r.GetFate())
	}
	// An errand of its own may be on its way at the same time and tell one again.
	require.Equal(t, []providerv1.RetainRequest_Fate{wasSold, cameBack, wasDestroyed}, slices.Compact(fates), "to the one that listens")
}

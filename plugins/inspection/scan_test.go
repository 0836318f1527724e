package main

import (
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// tagReader is an authenticator that believes each tap once, and answers the
// same key the same: what authenticator-sun does by cryptography.
func tagReader() func(*providerv1.CheckRequest) (*providerv1.Outcome, error) {
	var mu sync.Mutex
	used := make(map[string]string)
	return func(req *providerv1.CheckRequest) (*providerv1.Outcome, error) {
		mu.Lock()
		defer mu.Unlock()
		text := req.GetEvidence()[0].GetText()
		o := &providerv1.Outcome{Key: req.GetKey(), Method: "tag", Result: providerv1.Result_RESULT_COUNTERFEIT, Reason: "TAG_FORGED"}
		switch by := used[text]; {
		case text == "seal":
			o.Result, o.Reason = providerv1.Result_RESULT_INCONCLUSIVE, "SEAL_OPENED"
		case text == "nonsense":
			o.Result, o.Reason = providerv1.Result_RESULT_INCONCLUSIVE, "EVIDENCE_MALFORMED"
		case text == "down":
			return nil, fault.New(connect.CodeUnavailable, "DOWN", "not now")
		case len(text) < 4 || text[:4] != "tap ":
		case by != "" && by != req.GetKey():
			o.Reason = "COUNTER_REPLAYED"
		default:
			used[text] = req.GetKey()
			o.Result, o.Reason = providerv1.Result_RESULT_GENUINE, "TAG_VERIFIED"
		}
		return o, nil
	}
}

func scanOf(u *inspectionv1.Unit, text string) *inspectionv1.ScanTagRequest {
	return &inspectionv1.ScanTagRequest{ScanId: id.New("scn"), DigitalLink: u.GetDigitalLink(), TagUrl: text}
}

const (
	tagGenuine   = inspectionv1.ScanTagResponse_RESULT_GENUINE
	tagCopied    = inspectionv1.ScanTagResponse_RESULT_REPLAYED
	tagFalse     = inspectionv1.ScanTagResponse_RESULT_FALSE
	tagUncertain = inspectionv1.ScanTagResponse_RESULT_INCONCLUSIVE
	tagOfDead    = inspectionv1.ScanTagResponse_RESULT_DESTROYED
	tagInStock   = inspectionv1.ScanTagResponse_RESULT_NOT_SOLD
)

// Whoever holds goods learns whether the tag on them is theirs. Only a tag that
// is verified on goods that were destroyed raises the alarm: the rest anybody
// could make up.
func TestAnybodyHasTheTagOnGoodsVerified(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.will("sun", tagReader())
	stock, mine := h.shelve(t, "W1"), h.shelve(t, "W2")
	h.sell(t, "ful_1", mine.GetUnitId())
	dead := h.consign(t, "W3")
	h.find(t, dead.GetConsignment().GetCaseIds()[0], counterfeit)
	h.destroyCase(t, dead.GetConsignment().GetCaseIds()[0])
	gone := dead.GetUnits()[0]
	quiet := len(h.Published(t))

	scan := func(req *inspectionv1.ScanTagRequest) (*inspectionv1.ScanTagResponse, error) {
		return h.as(anybody).ScanTag(t.Context(), req)
	}
	first := scanOf(mine, "tap 1")
	for _, x := range []struct {
		name   string
		req    *inspectionv1.ScanTagRequest
		result inspectionv1.ScanTagResponse_Result
		reason string
	}{
		{"a tap", first, tagGenuine, "TAG_VERIFIED"},
		{"the same by who made it", first, tagGenuine, "TAG_VERIFIED"},
		{"the same by another", scanOf(mine, "tap 1"), tagCopied, "COUNTER_REPLAYED"},
		{"a later one", scanOf(mine, "tap 2"), tagGenuine, "TAG_VERIFIED"},
		{"a forged one", scanOf(mine, "e=00"), tagFalse, "TAG_FORGED"},
		{"of another make", scanOf(mine, "nonsense"), tagUncertain, "EVIDENCE_MALFORMED"},
		{"one whose seal was opened", scanOf(mine, "seal"), tagUncertain, "SEAL_OPENED"},
		{"of goods in stock", scanOf(stock, "tap 3"), tagInStock, "TAG_VERIFIED"},
		{"a copied tap of destroyed goods", scanOf(gone, "tap 1"), tagCopied, "COUNTER_REPLAYED"},
		{"a forged tap of destroyed goods", scanOf(gone, "e=00"), tagFalse, "TAG_FORGED"},
	} {
		res, err := scan(x.req)
		require.NoError(t, err, x.name)
		require.Equal(t, x.result, res.GetResult(), x.name)
		require.Equal(t, x.reason, res.GetReason(), x.name)
		require.Equal(t, x.req.GetDigitalLink(), res.GetPassport().GetDigitalLink(), x.name)
		text, err := protojson.Marshal(res)
		require.NoError(t, err)
		for _, private := range []string{"mrc_", "acc_", "ord_", "cas_", "warehouse/", "unt_"} {
			require.NotContains(t, string(text), private, x.name)
		}
	}
	require.Len(t, h.Published(t), quiet, "what anybody can make up raises nothing")
	require.NotEmpty(t, h.getUnit(t, mine.GetUnitId()).GetCertificateId())

	alive := scanOf(gone, "tap 9")
	for range 2 {
		res, err := scan(alive)
		require.NoError(t, err)
		require.Equal(t, tagOfDead, res.GetResult())
		require.True(t, res.GetPassport().GetCloneSuspected())
		raised := of[*inspectionv1.CloneSuspected](t, h)
		require.Len(t, raised, 1)
		require.Equal(t, []string{gone.GetUnitId(), alive.GetScanId(), "DESTROYED"}, []string{raised[0].GetUnitId(), raised[0].GetReference(), raised[0].GetReason()})
	}
	res, err := scan(scanOf(gone, "seal"))
	require.NoError(t, err)
	require.Equal(t, tagOfDead, res.GetResult(), "a tag that was torn off destroyed goods is theirs too")

	other := scanOf(mine, "tap 5")
	other.ScanId = first.GetScanId()
	_, err = scan(other)
	refused(t, connect.CodeAlreadyExists, "SCAN_DIFFERS", err)
	other.DigitalLink = "https://id.gs1.org/01/" + gtin + "/21/W9"
	_, err = scan(other)
	refused(t, connect.CodeNotFound, "UNIT_UNKNOWN", err)
	_, err = scan(scanOf(mine, "down"))
	refused(t, connect.CodeUnavailable, "NOT_ANSWERED", err)
	h.mu.Lock()
	h.instances = []*kernelv1.Instance{{Instance: "reg", Capabilities: []string{"registry"}, Ready: true}}
	h.mu.Unlock()
	_, err = scan(scanOf(mine, "tap 6"))
	refused(t, connect.CodeFailedPrecondition, "NO_AUTHENTICATOR", err)
}

// Nobody has more written or asked than the bound allows, and of scans at once
// with one id one is counted as verified by its own tap.
func TestScansAreBoundedAndAtOnceAreOne(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.will("sun", tagReader())
	u := h.shelve(t, "W1")
	h.sell(t, "ful_1", u.GetUnitId())
	same := scanOf(u, "tap 0")
	results := make([]inspectionv1.ScanTagResponse_Result, 8)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			res, err := h.as(anybody).ScanTag(t.Context(), same)
			if err == nil {
				results[i] = res.GetResult()
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		require.Equal(t, tagGenuine, r)
	}
	var n, kept int
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT (SELECT n FROM p_inspection.scan_count WHERE unit = $1), (SELECT count(*) FROM p_inspection.tag_scan)`,
		u.GetUnitId()).Scan(&n, &kept))
	require.Equal(t, 1, kept)
	for ; n < maxScans; n++ {
		_, err := h.as(anybody).ScanTag(t.Context(), scanOf(u, "e=00"))
		require.NoError(t, err)
	}
	for range 2 {
		_, err := h.as(anybody).ScanTag(t.Context(), scanOf(u, "tap 99"))
		refused(t, connect.CodeResourceExhausted, "SCAN_LIMIT", err)
	}
	res, err := h.as(anybody).ScanTag(t.Context(), same)
	require.NoError(t, err, "what was answered is answered again")
	require.Equal(t, tagGenuine, res.GetResult())
	// An hour later, and a day.
	_, err = h.Admin.Exec(t.Context(), `UPDATE p_inspection.scan_count SET since = since - interval '61 min'`)
	require.NoError(t, err)
	_, err = h.Admin.Exec(t.Context(), `UPDATE p_inspection.tag_scan SET at = at - interval '25 h'`)
	require.NoError(t, err)
	res, err = h.as(anybody).ScanTag(t.Context(), scanOf(u, "tap 99"))
	require.NoError(t, err)
	require.Equal(t, tagGenuine, res.GetResult(), "a refused scan used no tap up")
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_inspection.tag_scan`).Scan(&kept))
	require.Equal(t, 1, kept, "answers are kept for a day")
}

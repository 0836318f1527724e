package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/credential"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// reading is somebody's clients of certificates and events.
type reading struct {
	inspectionv1connect.CertificateServiceClient
	inspectionv1connect.EpcisServiceClient
}

func (h *house) reads(info call.Info) reading {
	c := h.Client(info)
	return reading{inspectionv1connect.NewCertificateServiceClient(c), inspectionv1connect.NewEpcisServiceClient(c)}
}

// certificate is the newest of a unit, as anybody reads it.
func (h *house) certificate(t require.TestingT, unitID string) *inspectionv1.GetCertificateResponse {
	res, err := h.reads(anybody).GetCertificate(context.Background(), &inspectionv1.GetCertificateRequest{UnitId: unitID})
	require.NoError(t, err)
	return res
}

// issuer is what is published of the key.
func (h *house) issuer(t require.TestingT) *credential.Issuer {
	res, err := h.reads(anybody).GetIssuer(context.Background(), &inspectionv1.GetIssuerRequest{})
	require.NoError(t, err)
	i, err := credential.ParseIssuer(res.GetDocument())
	require.NoError(t, err)
	require.Equal(t, res.GetIssuer(), i.ID)
	return i
}

// revoked is what the published list says of a certificate, by nothing but the
// published key.
func (h *house) revoked(t require.TestingT, document []byte) bool {
	c, err := credential.Verify(document, h.issuer(t), time.Now())
	require.NoError(t, err)
	res, err := h.reads(anybody).GetStatusList(context.Background(), &inspectionv1.GetStatusListRequest{List: 1})
	require.NoError(t, err)
	gone, err := credential.Revoked(c, res.GetCredential(), h.issuer(t), time.Now())
	require.NoError(t, err)
	return gone
}

// doubt finds something of a unit that stands in the warehouse.
func (h *house) doubt(t require.TestingT, unitID string, v verdict) (caseID string) {
	caseID = id.New("cas")
	_, err := h.eve.OpenCase(context.Background(), &inspectionv1.OpenCaseRequest{
		CaseId: caseID, Origin: inspectionv1.Case_ORIGIN_STOCK, Sku: watch, Quantity: 1, UnitIds: []string{unitID}, Reference: caseID,
	})
	require.NoError(t, err)
	h.find(t, caseID, v)
	return caseID
}

func TestEachGenuineUnitIsCertifiedByItsSerial(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	res := h.consign(t, "W1", "W2")
	for _, u := range res.GetUnits() {
		_, err := h.reads(anybody).GetCertificate(t.Context(), &inspectionv1.GetCertificateRequest{UnitId: u.GetUnitId()})
		refused(t, connect.CodeNotFound, "CERTIFICATE_UNKNOWN", err)
	}
	for _, c := range res.GetConsignment().GetCaseIds() {
		h.find(t, c, genuine)
	}
	issuer := h.issuer(t)
	for _, was := range res.GetUnits() {
		u, answer := h.getUnit(t, was.GetUnitId()), h.certificate(t, was.GetUnitId())
		require.Equal(t, u.GetCertificateId(), answer.GetCertificateId())
		require.False(t, answer.GetRevoked())
		// From here on nothing but the document and the key is needed.
		c, err := credential.Verify(answer.GetCredential(), issuer, time.Now())
		require.NoError(t, err)
		require.Equal(t, []string{"VerifiableCredential", "AuthenticityCertificate"}, c.Types)
		require.Equal(t, map[string]any{
			"id": "http://127.0.0.1:8080/01/" + gtin + "/21/" + u.GetSerial(), "gtin": gtin, "serial": u.GetSerial(), "sku": watch,
			"verdict": "GENUINE", "case": u.GetCaseId(),
		}, c.Subject, "it says which good, and nothing of anybody")
		require.False(t, h.revoked(t, answer.GetCredential()))
		byID, err := h.reads(anybody).GetCertificate(t.Context(), &inspectionv1.GetCertificateRequest{CertificateId: u.GetCertificateId()})
		require.NoError(t, err)
		require.Equal(t, answer.GetCredential(), byID.GetCredential())
	}
	require.Len(t, of[*inspectionv1.CertificateIssued](t, h), 2)
	sum, err := h.ann.SumInspection(t.Context(), &inspectionv1.SumInspectionRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 2, sum.GetCertificatesIssued())
	require.Zero(t, sum.GetCertificatesRevoked())

	// Goods that nothing tells apart pass too, and have none.
	lot := h.consign(t).GetConsignment().GetCaseIds()[0]
	require.Equal(t, closed, h.find(t, lot, genuine).GetState())
	require.Len(t, of[*inspectionv1.CertificateIssued](t, h), 2)
	for _, req := range []*inspectionv1.GetCertificateRequest{{}, {CertificateId: "crf_1", UnitId: "unt_1"}} {
		_, err = h.reads(anybody).GetCertificate(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
}

func TestNothingElseThanGenuineIsCertified(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, v := range []verdict{counterfeit, inconclusive, wrongItem, damaged} {
		res := h.consign(t, fmt.Sprintf("W-%d", v))
		h.find(t, res.GetConsignment().GetCaseIds()[0], v)
	}
	// One person's word is none.
	h.propose(t, h.consign(t, "W-alone").GetConsignment().GetCaseIds()[0], genuine)
	require.Empty(t, of[*inspectionv1.CertificateIssued](t, h))
}

func TestACertificateThatWasTouchedIsRefused(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	first, second := h.certificate(t, h.shelve(t, "W1").GetUnitId()).GetCredential(), h.certificate(t, h.shelve(t, "W2").GetUnitId()).GetCredential()
	issuer := h.issuer(t)
	read := func(b []byte) map[string]any {
		var o map[string]any
		require.NoError(t, json.Unmarshal(b, &o))
		return o
	}
	subject := func(o map[string]any) map[string]any { return o["credentialSubject"].(map[string]any) }
	for name, change := range map[string]func(o map[string]any){
		"another serial":  func(o map[string]any) { subject(o)["serial"] = "W3" },
		"another product": func(o map[string]any) { subject(o)["gtin"] = "09520123456788" },
		"another good":    func(o map[string]any) { subject(o)["id"] = subject(read(second))["id"] },
		"another place":   func(o map[string]any) { o["credentialStatus"] = read(second)["credentialStatus"] },
		"no status":       func(o map[string]any) { delete(o, "credentialStatus") },
		"another date":    func(o map[string]any) { o["validFrom"] = "2020-01-01T00:00:00Z" },
		"another's proof": func(o map[string]any) { o["proof"] = read(second)["proof"] },
		"something more":  func(o map[string]any) { subject(o)["owner"] = "me" },
	} {
		o := read(first)
		change(o)
		b, err := json.Marshal(o)
		require.NoError(t, err)
		_, err = credential.Verify(b, issuer, time.Now())
		require.ErrorIs(t, err, credential.ErrTampered, name)
	}
	forger, err := credential.NewSigner(bytes.Repeat([]byte{9}, 32))
	require.NoError(t, err)
	o := read(first)
	delete(o, "proof")
	forged, err := forger.Sign(o, time.Now())
	require.NoError(t, err)
	_, err = credential.Verify(forged, issuer, time.Now())
	require.ErrorIs(t, err, credential.ErrKeyUnknown)
}

func TestTheStatusListTellsFromTheMomentOn(t *testing.T) {
	t.Parallel()
	move := func(holder, bizStep, disposition string) func(*testing.T, *house, string) {
		return func(t *testing.T, h *house, u string) {
			_, err := h.ann.MoveCustody(t.Context(), &inspectionv1.MoveCustodyRequest{
				Document: "doc-1", UnitIds: []string{u}, Holder: holder, BizStep: bizStep, Disposition: disposition,
			})
			require.NoError(t, err)
		}
	}
	h := open(t, nil)
	neighbour := h.certificate(t, h.shelve(t, "W0").GetUnitId()).GetCredential()
	for name, x := range map[string]struct {
		happens func(t *testing.T, h *house, u string)
		reason  string
	}{
		"found false":    {func(t *testing.T, h *house, u string) { h.doubt(t, u, counterfeit) }, "COUNTERFEIT"},
		"found doubtful": {func(t *testing.T, h *house, u string) { h.doubt(t, u, inconclusive) }, "INCONCLUSIVE"},
		"found damaged":  {func(t *testing.T, h *house, u string) { h.destroyCase(t, h.doubt(t, u, damaged)) }, "GENUINE_BUT_DAMAGED"},
		"destroyed": {func(t *testing.T, h *house, u string) {
			// Found false, found genuine since, and destroyed by the first word.
			first := h.doubt(t, u, counterfeit)
			_, err := h.DB.Do(t.Context(), `UPDATE unit SET verdict = 1 WHERE id = $1`, u)
			require.NoError(t, err)
			require.NoError(t, h.DB.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				units, err := lockUnits(ctx, tx, []string{u})
				if err != nil {
					return err
				}
				return h.s.issueCertificates(ctx, tx, units, first)
			}))
			require.False(t, h.revoked(t, h.certificate(t, u).GetCredential()))
			h.destroyCase(t, first)
		}, "DESTROYED"},
		"seen a second time": {func(t *testing.T, h *house, u string) { h.sell(t, "ful_1", u); h.consign(t, "seen-a-second-time") }, "CLONED"},
		"disposed of":        {move("nobody", "other", "disposed"), "DISPOSED"},
		"stolen":             {move("warehouse/main", "stock_taking", "stolen"), "STOLEN"},
		"captured as stolen": {func(t *testing.T, h *house, u string) {
			h.capture(t, observed(h.getUnit(t, u).GetDigitalLink()).with(object{"bizStep": "stock_taking", "disposition": "stolen"}))
		}, "STOLEN"},
	} {
		u := h.shelve(t, strings.ReplaceAll(name, " ", "-")).GetUnitId()
		certificate := h.certificate(t, u)
		require.False(t, h.revoked(t, certificate.GetCredential()), "%s: and the list is kept from here on", name)
		x.happens(t, h, u)
		require.True(t, h.revoked(t, certificate.GetCredential()), name)
		require.False(t, h.revoked(t, neighbour))
		now := h.certificate(t, u)
		require.True(t, now.GetRevoked(), name)
		require.Equal(t, x.reason, now.GetRevocationReason(), name)
		require.Empty(t, h.getUnit(t, u).GetCertificateId(), name)
		told := of[*inspectionv1.CertificateRevoked](t, h)
		last := told[len(told)-1]
		require.Equal(t, now.GetCertificateId(), last.GetCertificateId(), name)
		require.Equal(t, x.reason, last.GetReason(), name)
	}
	for _, sql := range []string{
		`UPDATE certificate SET revoked_at = NULL, reason = '' WHERE revoked_at IS NOT NULL`, `DELETE FROM certificate`,
		`UPDATE certificate SET credential = 'x'`, `UPDATE certificate SET entry = entry + 1`, `UPDATE status_order SET secret = 'x'`,
	} {
		_, err := h.DB.Do(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

// What is certified anew has a place of its own: the old one stays marked.
func TestWhatWasRevokedStaysRevoked(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetUnitId()
	first := h.certificate(t, u)
	c := h.doubt(t, u, counterfeit)
	_, err := h.merchant.Appeal(t.Context(), &inspectionv1.AppealRequest{CaseId: c, Reason: "it is not"})
	require.NoError(t, err)
	require.True(t, h.revoked(t, first.GetCredential()), "an appeal is no verdict")
	h.find(t, c, genuine)
	second := h.certificate(t, u)
	require.NotEqual(t, first.GetCertificateId(), second.GetCertificateId())
	require.False(t, second.GetRevoked())
	require.False(t, h.revoked(t, second.GetCredential()))
	require.True(t, h.revoked(t, first.GetCredential()))

	// A genuine return keeps what it has.
	h.sell(t, "ful_1", u)
	r := id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "warehouse", &warehousev1.InspectionRequested{
		CaseId: r, MerchantId: "mrc_one", Sku: watch, Quantity: 1, UnitIds: []string{u}, Site: "main", Reference: "ret_1", Reason: "RETURN_AS_NEW", Market: "GB",
	}))
	h.find(t, r, genuine)
	require.Equal(t, second.GetCertificateId(), h.certificate(t, u).GetCertificateId())
	_, err = h.reads(anybody).GetStatusList(t.Context(), &inspectionv1.GetStatusListRequest{List: 2})
	refused(t, connect.CodeNotFound, "LIST_UNKNOWN", err)
}

// A place in a list tells nobody when its certificate was issued, and belongs
// to one.
func TestPlacesInAListAreEachTakenOnceInASecretOrder(t *testing.T) {
	t.Parallel()
	const n = 4000
	taken := make(map[[2]int32]int64, 2*n)
	neighbours := 0
	var last int32
	for _, from := range []int64{0, credential.Entries - n/2} {
		for i := from; i < from+n; i++ {
			list, entry := placeOf(i, "secret")
			require.EqualValues(t, i/credential.Entries+1, list)
			require.True(t, entry >= 0 && entry < credential.Entries)
			other, twice := taken[[2]int32{list, entry}]
			require.False(t, twice, "%d and %d", i, other)
			taken[[2]int32{list, entry}] = i
			if d := entry - last; d == 1 || d == -1 {
				neighbours++
			}
			last = entry
		}
	}
	require.Less(t, neighbours, 10)
	_, a := placeOf(7, "secret")
	_, b := placeOf(7, "another")
	require.NotEqual(t, a, b)
}

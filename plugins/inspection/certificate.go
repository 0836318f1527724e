package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/sdk/credential"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// records is what certificates keep of the instance.
type records struct {
	signer *credential.Signer
	// lists are the status lists that were signed last, by number.
	lists   map[int32]signedList
	listsMu sync.Mutex
}

// registerRecords takes the signing key and serves certificates and events.
func (s *service) registerRecords(in *plugin.Instance) error {
	seed, err := base64.StdEncoding.DecodeString(in.Secrets["signing_key"])
	if err != nil {
		return errors.New("signing_key is no base64")
	}
	if s.signer, err = credential.NewSigner(seed); err != nil {
		return fmt.Errorf("signing_key: %w", err)
	}
	s.lists = make(map[int32]signedList)
	inspectionv1connect.RegisterCertificateServiceHandler(in.Server, s)
	inspectionv1connect.RegisterEpcisServiceHandler(in.Server, s)
	return nil
}

// terms say what the members of a certificate's subject mean.
var terms = map[string]any{
	"gtin": "https://gs1.org/voc/gtin", "serial": "https://gs1.org/voc/hasSerialNumber", "lot": "https://gs1.org/voc/hasBatchLotNumber",
	"sku": "https://schema.org/sku", "verdict": "urn:entrepot:inspection:verdict", "case": "urn:entrepot:inspection:case",
	"AuthenticityCertificate": "urn:entrepot:inspection:AuthenticityCertificate",
}

// certificateOf is what is certified of a unit: that it, and no other, was
// found genuine.
func (s *service) certificateOf(certificateID string, u *unit, caseID string, place credential.Status, at time.Time) map[string]any {
	subject := map[string]any{
		"id": u.digitalLink, "serial": u.serial, "sku": u.sku, "verdict": verdictWord(genuine), "case": caseID,
	}
	for name, v := range map[string]string{"gtin": u.gtin, "lot": u.lot} {
		if v != "" {
			subject[name] = v
		}
	}
	return map[string]any{
		"@context": []any{credential.Context, terms}, "id": s.base + "/certificate/" + certificateID,
		"type": []any{"VerifiableCredential", "AuthenticityCertificate"}, "issuer": s.signer.ID(),
		"validFrom": at.UTC().Format(time.RFC3339), "credentialSubject": subject, "credentialStatus": credential.StatusEntry(place),
	}
}

// issueCertificates issues one for each unit, of which none is in force, and
// sets unit.certificate_id. Two statements, however many units there are.
func (s *service) issueCertificates(ctx context.Context, tx *store.Tx, units []*unit, caseID string) error {
	at := time.Now().UTC().Truncate(time.Second)
	var certificates, signed []string
	var lists, entries []int32
	rows, err := tx.Rows(ctx, `SELECT nextval('certificate_number'), o.secret FROM status_order o, generate_series(1, $1)`, len(units))
	if err := each(rows, err, func(r row) error {
		var n int64
		var secret string
		if err := r.Scan(&n, &secret); err != nil {
			return err
		}
		u := units[len(certificates)]
		list, entry := placeOf(n, secret)
		u.certificateID = id.New("crf")
		b, err := s.signer.Sign(s.certificateOf(u.certificateID, u, caseID, credential.Status{List: s.listURL(list), Index: int(entry)}, at), at)
		certificates, signed, lists, entries = append(certificates, u.certificateID), append(signed, string(b)), append(lists, list), append(entries, entry)
		return err
	}); err != nil {
		return err
	}
	for _, u := range units {
		if err := tx.Publish(&inspectionv1.CertificateIssued{UnitId: u.id, CertificateId: u.certificateID}); err != nil {
			return err
		}
	}
	_, err = tx.Do(ctx, `WITH x AS (SELECT * FROM unnest($1::text[], $2::text[], $3::int4[], $4::int4[], $5::text[]) x(id, unit, list, entry, credential)),
		made AS (INSERT INTO certificate (id, unit, case_id, list, entry, credential, issued_at) SELECT id, unit, $6, list, entry, credential, $7 FROM x)
		UPDATE unit u SET certificate_id = x.id, updated_at = now() FROM x WHERE u.id = x.unit`,
		certificates, ids(units), lists, entries, signed, caseID, at)
	return err
}

// placeOf is the place of the n-th certificate: lists are filled in turn, the
// entries of each in an order that only the secret tells.
func placeOf(n int64, secret string) (list, entry int32) {
	const bits = 9 // of each half: 2^18 places, of which the lower half are entries
	list = int32(n/credential.Entries) + 1
	entry = int32(n % credential.Entries)
	for {
		// A Feistel network permutes the places; walking on until the lower half
		// is reached permutes that half.
		left, right := entry>>bits, entry&(1<<bits-1)
		for round := range byte(6) {
			h := hmac.New(sha256.New, []byte(secret))
			_, _ = h.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{round}, uint32(list)), uint32(right))) // never fails
			left, right = right, left^int32(binary.BigEndian.Uint16(h.Sum(nil)))&(1<<bits-1)
		}
		if entry = left<<bits | right; entry < credential.Entries {
			return list, entry
		}
	}
}

// revokeCertificates revokes those in force of the units and clears
// unit.certificate_id. From the commit on, the status list says so.
func (s *service) revokeCertificates(ctx context.Context, tx *store.Tx, unitIDs []string, reason string) error {
	if len(unitIDs) == 0 {
		return nil
	}
	rows, err := tx.Rows(ctx, `WITH gone AS (UPDATE certificate SET revoked_at = now(), reason = $2 WHERE unit = ANY ($1) AND revoked_at IS NULL RETURNING id, unit),
		cleared AS (UPDATE unit u SET certificate_id = '', updated_at = now() FROM gone WHERE u.id = gone.unit)
		SELECT id, unit FROM gone ORDER BY unit`, unitIDs, reason)
	return each(rows, err, func(r row) error {
		e := &inspectionv1.CertificateRevoked{Reason: reason}
		if err := r.Scan(&e.CertificateId, &e.UnitId); err != nil {
			return err
		}
		return tx.Publish(e)
	})
}

// lost are the dispositions of goods that are out of their holders' hands for
// good, and why their certificates are revoked: whoever has such a good, or its
// serial, shall not show one. A good that is found again is inspected, and gets
// another.
var lost = map[string]string{"stolen": "STOLEN", "disposed": "DISPOSED"}

// lose revokes what is certified of units that steps tell to be lost. Others
// cost no statement.
func (s *service) lose(ctx context.Context, tx *store.Tx, steps []step) error {
	for _, st := range steps {
		if reason := lost[st.disposition]; reason != "" && len(st.units) > 0 {
			if err := s.revokeCertificates(ctx, tx, ids(st.units), reason); err != nil {
				return err
			}
		}
	}
	return nil
}

// countCertificates tells how many were issued and revoked.
func (s *service) countCertificates(ctx context.Context) (issued, revoked int64, err error) {
	return issued, revoked, s.db.Row(ctx, `SELECT count(*), count(revoked_at) FROM certificate`).Scan(&issued, &revoked)
}

// GetCertificate answers a certificate as it was signed; of a unit, the newest.
func (s *service) GetCertificate(ctx context.Context, req *inspectionv1.GetCertificateRequest) (*inspectionv1.GetCertificateResponse, error) {
	if (req.GetCertificateId() == "") == (req.GetUnitId() == "") {
		return nil, fault.Field("certificate_id", "give it, or a unit_id")
	}
	res := &inspectionv1.GetCertificateResponse{}
	var issuedAt time.Time
	err := s.db.Row(ctx, `SELECT id, credential, revoked_at IS NOT NULL, reason, issued_at FROM certificate WHERE id = $1 OR unit = $2 ORDER BY issued_at DESC, id DESC LIMIT 1`,
		req.GetCertificateId(), req.GetUnitId()).Scan(&res.CertificateId, &res.Credential, &res.Revoked, &res.RevocationReason, &issuedAt)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(connect.CodeNotFound, "CERTIFICATE_UNKNOWN", "no such certificate")
	}
	res.IssuedAt = timestamppb.New(issuedAt)
	return res, store.Wrap(err)
}

// GetIssuer answers the public key of certificates.
func (s *service) GetIssuer(context.Context, *inspectionv1.GetIssuerRequest) (*inspectionv1.GetIssuerResponse, error) {
	return &inspectionv1.GetIssuerResponse{Issuer: s.signer.ID(), Document: s.signer.Document()}, nil
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// maxScans is how often one good's tag is scanned in an hour: enough for a
	// curious owner, and a bound on what strangers can have written and asked.
	maxScans = 30
	// maxReaders is how many authenticators one scan asks.
	maxReaders = 3
	tagMethod  = "tag"
)

// scanned is what a scan is answered, apart from the goods' passport.
type scanned struct {
	result inspectionv1.ScanTagResponse_Result
	reason string
}

// ScanTag tells anybody whether the tag on goods is theirs. The scan is counted
// before anybody is asked, and its answer written before it is told: who
// repeats it with its id is answered the same, although the tap is used up.
func (s *service) ScanTag(ctx context.Context, req *inspectionv1.ScanTagRequest) (*inspectionv1.ScanTagResponse, error) {
	u, err := s.byLink(ctx, req.GetDigitalLink())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if u == nil {
		return nil, unknownUnit()
	}
	sum := sha256.Sum256([]byte(u.id + " " + req.GetTagUrl()))
	var known *scanned
	var category string
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		known, category, err = countScan(ctx, tx, req.GetScanId(), u, sum[:])
		return err
	}); err != nil {
		return nil, err
	}
	if known == nil {
		if known, err = s.readTag(ctx, req, u, category); err != nil {
			return nil, err
		}
		if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
			return s.keepScan(ctx, tx, req.GetScanId(), u, sum[:], known)
		}); err != nil {
			return nil, err
		}
	}
	passport, err := s.GetPassport(ctx, &inspectionv1.GetPassportRequest{DigitalLink: u.digitalLink})
	return &inspectionv1.ScanTagResponse{Result: known.result, Reason: known.reason, Passport: passport.GetPassport()}, err
}

// countScan finds a scan that was answered before, or counts another one. It
// tells the category of the goods too.
func countScan(ctx context.Context, tx *store.Tx, scanID string, u *unit, sum []byte) (known *scanned, category string, err error) {
	rows, err := tx.Rows(ctx, `SELECT sha256, result, reason FROM tag_scan WHERE id = $1`, scanID)
	if err := each(rows, err, func(r row) error {
		var was []byte
		known = &scanned{}
		if err := r.Scan(&was, &known.result, &known.reason); err != nil {
			return err
		}
		if !bytes.Equal(was, sum) {
			return fault.New(connect.CodeAlreadyExists, "SCAN_DIFFERS", "this id was used for another scan; take a new one")
		}
		return nil
	}); err != nil || known != nil {
		return known, "", err
	}
	var n int
	var wait float64
	if err := tx.Row(ctx, `WITH old AS (DELETE FROM tag_scan WHERE unit = $1 AND at < now() - interval '1 day'),
		counted AS (INSERT INTO scan_count AS x (unit, since, n) VALUES ($1, now(), 1) ON CONFLICT (unit) DO UPDATE SET
		  n = CASE WHEN x.since < now() - interval '1 h' THEN 1 ELSE least(x.n, $2) + 1 END,
		  since = CASE WHEN x.since < now() - interval '1 h' THEN now() ELSE x.since END RETURNING n, since)
		SELECT n, extract(epoch FROM since + interval '1 h' - now())::float8,
		  coalesce((SELECT c.category FROM case_file c WHERE c.sku = $3 AND c.category <> '' ORDER BY c.opened_at DESC LIMIT 1), '') FROM counted`,
		u.id, maxScans, u.sku).Scan(&n, &wait, &category); err != nil {
		return nil, "", err
	}
	if n > maxScans {
		return nil, "", fault.Retry(fault.New(connect.CodeResourceExhausted, "SCAN_LIMIT", "the tag of these goods was scanned often in the last hour; wait a little"),
			max(time.Second, time.Duration(wait*float64(time.Second))))
	}
	return nil, category, nil
}

// readTag has the tag verified by those who can, in the order of their
// binding, until one can tell.
func (s *service) readTag(ctx context.Context, req *inspectionv1.ScanTagRequest, u *unit, category string) (*scanned, error) {
	fits, err := s.authenticators.fitting(ctx, &caseFile{market: s.marketOf(ctx), merchant: u.merchant, category: category}, []string{tagMethod})
	if err != nil {
		return nil, err
	}
	if len(fits) == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_AUTHENTICATOR", "tags cannot be verified in this market")
	}
	inputs, err := proto.Marshal(&providerv1.CheckRequest{
		UnitId: u.id, Sku: u.sku, Gtin: u.gtin, Serial: u.serial, Lot: u.lot, Quantity: 1, Category: category,
		Evidence: []*providerv1.Evidence{{Kind: "tag-url", Text: req.GetTagUrl()}},
	})
	if err != nil {
		return nil, err
	}
	var last answer
	for _, f := range fits[:min(len(fits), maxReaders)] {
		last = s.authenticators.ask(ctx, question{
			key: req.GetScanId() + "/" + f.GetInstance(), unit: u.id, market: s.marketOf(ctx), instance: f.GetInstance(), plugin: f.GetPlugin(),
			methods: []string{tagMethod}, inputs: inputs,
		})
		if last.result == pending {
			return nil, fault.Retry(fault.Downstream(fault.New(connect.CodeUnavailable, "NOT_ANSWERED", "the tag could not be verified now; repeat the scan with its id")), 2*time.Second)
		}
		if last.result != saysInconclusive || aboutSeal(last.reason) {
			break
		}
	}
	return meaning(last, u), nil
}

// aboutSeal tells whether a tag was verified that could not vouch for its seal.
func aboutSeal(reason string) bool {
	return slices.Contains([]string{"SEAL_OPENED", "SEAL_UNKNOWN"}, reason)
}

// meaning is what an answer says of goods, by where they are.
func meaning(a answer, u *unit) *scanned {
	out := &scanned{inspectionv1.ScanTagResponse_RESULT_INCONCLUSIVE, a.reason}
	verified := a.result == saysGenuine
	switch kind := kindOf(u.holder); {
	case (verified || aboutSeal(a.reason)) && u.disposition == destroyed:
		out.result = inspectionv1.ScanTagResponse_RESULT_DESTROYED
	case verified && (kind == consumer || kind == atCarrier):
		out.result = inspectionv1.ScanTagResponse_RESULT_GENUINE
	case verified:
		out.result = inspectionv1.ScanTagResponse_RESULT_NOT_SOLD
	case a.result == saysCounterfeit && a.reason == "COUNTER_REPLAYED":
		out.result = inspectionv1.ScanTagResponse_RESULT_REPLAYED
	case a.result != saysInconclusive:
		out.result = inspectionv1.ScanTagResponse_RESULT_FALSE
	}
	return out
}

// keepScan writes what a scan is answered. Goods that were destroyed and whose
// tag answers are a sighting: nobody can make that up.
func (s *service) keepScan(ctx context.Context, tx *store.Tx, scanID string, u *unit, sum []byte, x *scanned) error {
	if _, err := tx.Do(ctx, `INSERT INTO tag_scan (id, unit, sha256, result, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		scanID, u.id, sum, int16(x.result), x.reason); err != nil {
		return err
	}
	if x.result != inspectionv1.ScanTagResponse_RESULT_DESTROYED {
		return nil
	}
	return s.raise(ctx, tx, sighting{u, scanID, seenDestroyed})
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// The contract's words, shorter.
type result = inspectionv1.Check_Result

const (
	saysGenuine      = inspectionv1.Check_RESULT_GENUINE
	saysCounterfeit  = inspectionv1.Check_RESULT_COUNTERFEIT
	saysInconclusive = inspectionv1.Check_RESULT_INCONCLUSIVE
	pending          = inspectionv1.Check_RESULT_PENDING
)

// check is one look at goods by one method.
type check struct {
	id, caseID, unit             string
	method, instrument, instance string
	operator, inputsSHA256       string
	result                       result
	reason, note                 string
	blobs                        list[string]
	at                           time.Time
}

const checkColumns = `k.id, k.case_id, k.unit, k.method, k.instrument, k.instance, k.operator, k.inputs_sha256, k.result, k.reason, k.note,
  to_json(k.blobs), k.at`

func (k *check) scan(r row) error {
	return r.Scan(&k.id, &k.caseID, &k.unit, &k.method, &k.instrument, &k.instance, &k.operator, &k.inputsSHA256, &k.result, &k.reason, &k.note,
		&k.blobs, &k.at)
}

func (k *check) proto() *inspectionv1.Check {
	return &inspectionv1.Check{
		CheckId: k.id, CaseId: k.caseID, UnitId: k.unit, Method: k.method, Instrument: k.instrument, Operator: k.operator,
		InputsSha256: k.inputsSHA256, Result: k.result, Reason: k.reason, Note: k.note, BlobIds: k.blobs, At: timestamppb.New(k.at),
	}
}

// maxChecks is how many checks an answer tells: the last.
const maxChecks = 2000

// loadChecks reads the checks of a case, oldest first.
func loadChecks(ctx context.Context, db reader, caseID string) ([]*check, error) {
	return readChecks(ctx, db, `k.case_id = $1`, caseID)
}

func readChecks(ctx context.Context, db reader, where string, arg string) ([]*check, error) {
	var out []*check
	rows, err := db.Rows(ctx, `SELECT `+checkColumns+` FROM check_made k WHERE `+where+` ORDER BY k.n DESC LIMIT $2`, arg, maxChecks)
	err = each(rows, err, func(r row) error {
		k := &check{}
		out = append(out, k)
		return k.scan(r)
	})
	slices.Reverse(out)
	return out, err
}

// lastWords reads, of the checks of a case, the last of each eye: what somebody
// said of a piece by one method and instrument.
func lastWords(ctx context.Context, db reader, caseID string) ([]*check, error) {
	var out []*check
	rows, err := db.Rows(ctx, `SELECT DISTINCT ON (k.unit, k.method, coalesce(nullif(k.instance, ''), k.instrument)) `+checkColumns+` FROM check_made k
		WHERE k.case_id = $1 ORDER BY k.unit, k.method, coalesce(nullif(k.instance, ''), k.instrument), k.n DESC`, caseID)
	return out, each(rows, err, func(r row) error {
		k := &check{}
		out = append(out, k)
		return k.scan(r)
	})
}

// settled moves a case on after its checks changed: it is collecting while one
// is pending, and checking when none is.
const settled = `UPDATE case_file c SET state = CASE WHEN EXISTS (SELECT FROM check_made k WHERE k.case_id = c.id AND k.result = 4) THEN 2 ELSE 3 END
  WHERE c.id = ANY ($1) AND c.state IN (1, 2, 3)`

// digest is the SHA-256 of what was looked at, and what that is. Evidence is
// kept as it came, so that the digest can be computed again.
func digest(m proto.Message) (inputs []byte, sum string, err error) {
	if inputs, err = (proto.MarshalOptions{Deterministic: true}).Marshal(m); err != nil {
		return nil, "", err
	}
	s := sha256.Sum256(inputs)
	return inputs, hex.EncodeToString(s[:]), nil
}

// RecordCheck records what a person or an instrument found.
func (s *service) RecordCheck(ctx context.Context, req *inspectionv1.RecordCheckRequest) (*inspectionv1.RecordCheckResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	inputs, sum, err := digest(&inspectionv1.RunChecksRequest{Evidence: req.GetInputs()})
	if err != nil {
		return nil, err
	}
	var blobs []string
	for _, e := range req.GetInputs() {
		if e.GetBlobId() != "" {
			blobs = append(blobs, e.GetBlobId())
		}
	}
	if err := s.sent(ctx, "inputs.blob_id", blobs); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.RecordCheckResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		known, err := readChecks(ctx, tx, `k.id = $1`, req.GetCheckId())
		switch {
		case err != nil:
			return nil, err
		case len(known) > 0:
			k := known[0]
			if k.caseID != c.id || k.unit != req.GetUnitId() || k.method != req.GetMethod() || k.result != req.GetResult() || k.inputsSHA256 != sum || k.operator != who {
				return nil, fault.New(connect.CodeAlreadyExists, "CHECK_DIFFERS", "this id was used for another check; take a new one")
			}
			return &inspectionv1.RecordCheckResponse{Check: k.proto()}, nil
		}
		if err := c.must(recordCheck); err != nil {
			return nil, err
		}
		if req.GetUnitId() != "" && !slices.Contains(c.units, req.GetUnitId()) {
			return nil, fault.Field("unit_id", "is no unit of this case")
		}
		if _, err := tx.Do(ctx, `INSERT INTO check_made (id, case_id, unit, key, methods, method, instrument, operator, inputs, inputs_sha256, result, note, blobs)
			VALUES ($1, $2, $3, $1, ARRAY[$4], $4, $5, $6, $7, $8, $9, $10, $11)`, req.GetCheckId(), c.id, req.GetUnitId(), req.GetMethod(),
			req.GetInstrument(), who, inputs, sum, int16(req.GetResult()), req.GetNote(), append([]string{}, blobs...)); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, settled, []string{c.id}); err != nil {
			return nil, err
		}
		if known, err = readChecks(ctx, tx, `k.id = $1`, req.GetCheckId()); err != nil {
			return nil, err
		}
		return &inspectionv1.RecordCheckResponse{Check: known[0].proto()}, nil
	})
}

// weigh tells whether checks bear a verdict: of each method and instrument the
// last word on a piece, so that a look can be taken again. A conclusive check
// of the whole case is one of each of its units.
func (c *caseFile) weigh(last []*check, v verdict) error {
	var waiting, otherwise []string
	answered := 0
	said := make(map[string]map[result]bool) // by unit; "" is the whole case
	for _, k := range last {
		switch k.result {
		case pending:
			waiting = append(waiting, k.method)
			continue
		case saysGenuine, saysInconclusive:
		default:
			otherwise = append(otherwise, k.method)
		}
		answered++
		if said[k.unit] == nil {
			said[k.unit] = make(map[result]bool)
		}
		said[k.unit][k.result] = true
	}
	switch {
	case v == genuine && len(otherwise) > 0:
		return fault.New(connect.CodeFailedPrecondition, "CHECKS_CONTRADICT", "a check says otherwise", "methods", words(otherwise))
	case v == genuine && len(waiting) > 0:
		return fault.New(connect.CodeFailedPrecondition, "CHECKS_PENDING", "a check is not answered yet", "methods", words(waiting))
	case answered == 0:
		return fault.New(connect.CodeFailedPrecondition, "CHECKS_MISSING", "nobody has looked at the goods yet")
	case v == inconclusive:
		return nil
	}
	pieces := c.units
	if len(pieces) == 0 {
		pieces = []string{""}
	}
	for _, u := range pieces {
		if !bears(said[""], v) && !bears(said[u], v) {
			return fault.New(connect.CodeFailedPrecondition, "CHECKS_MISSING", "no check of this piece is conclusive", "unit_id", u)
		}
	}
	return nil
}

// bears tells whether what was said of a piece is conclusive, for genuine
// goods in their favour.
func bears(said map[result]bool, v verdict) bool {
	for r := range said {
		if r == saysGenuine || v != genuine && r != saysInconclusive {
			return true
		}
	}
	return false
}

func words(methods []string) string {
	slices.Sort(methods)
	return strings.Join(slices.Compact(methods), " ")
}

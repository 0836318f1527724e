package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// States of a destruction.
const (
	destructionOrdered   = inspectionv1.Destruction_STATE_ORDERED
	destructionConfirmed = inspectionv1.Destruction_STATE_CONFIRMED
)

type destruction struct {
	id, caseID                      string
	state                           inspectionv1.Destruction_State
	ground                          inspectionv1.Ground
	reason                          string
	merchant, sku                   string
	quantity                        int64
	units                           list[string]
	orderedBy, confirmedBy, witness string
	weightGrams                     int64
	blobs                           list[string]
	evidenceSHA256                  string
	orderedAt                       time.Time
	confirmedAt                     *time.Time
	unmatched                       int64
}

const destructionColumns = `d.id, d.case_id, d.state, d.ground, d.reason, d.merchant, d.sku, d.quantity,
  (SELECT coalesce(json_agg(cu.unit ORDER BY cu.unit), '[]') FROM case_unit cu WHERE cu.case_id = d.case_id), d.ordered_by, d.confirmed_by, d.witness,
  d.weight_grams, to_json(d.blobs), d.evidence_sha256, d.ordered_at, d.confirmed_at, d.unmatched`

func (d *destruction) scan(r row) error {
	return r.Scan(&d.id, &d.caseID, &d.state, &d.ground, &d.reason, &d.merchant, &d.sku, &d.quantity, &d.units, &d.orderedBy, &d.confirmedBy, &d.witness,
		&d.weightGrams, &d.blobs, &d.evidenceSHA256, &d.orderedAt, &d.confirmedAt, &d.unmatched)
}

func (d *destruction) proto() *inspectionv1.Destruction {
	return &inspectionv1.Destruction{
		DestructionId: d.id, CaseId: d.caseID, State: d.state, Ground: d.ground, MerchantId: d.merchant, Sku: d.sku, Quantity: d.quantity, UnitIds: d.units,
		OrderedBy: d.orderedBy, ConfirmedBy: d.confirmedBy, Witness: d.witness, WeightGrams: d.weightGrams, BlobIds: d.blobs,
		EvidenceSha256: d.evidenceSHA256, OrderedAt: timestamppb.New(d.orderedAt), ConfirmedAt: stamp(d.confirmedAt), Unmatched: d.unmatched,
	}
}

func unknownDestruction() error {
	return fault.New(connect.CodeNotFound, "DESTRUCTION_UNKNOWN", "no such destruction")
}

// loadDestruction reads one; not_found when there is none.
func loadDestruction(ctx context.Context, db reader, id string) (*destruction, error) {
	d := &destruction{}
	err := d.scan(db.Row(ctx, `SELECT `+destructionColumns+` FROM destruction d WHERE d.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, unknownDestruction()
	}
	return d, err
}

// OrderDestruction asks for goods to be destroyed, once their merchant has had
// its time to appeal, or has appealed.
func (s *service) OrderDestruction(ctx context.Context, req *inspectionv1.OrderDestructionRequest) (*inspectionv1.OrderDestructionResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.OrderDestructionResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		d, err := loadDestruction(ctx, tx, req.GetDestructionId())
		switch {
		case err == nil && (d.caseID != c.id || d.ground != req.GetGround() || d.orderedBy != who):
			return nil, fault.New(connect.CodeAlreadyExists, "DESTRUCTION_DIFFERS", "this id was used for another order; take a new one")
		case err == nil:
			return &inspectionv1.OrderDestructionResponse{Destruction: d.proto()}, nil
		case connect.CodeOf(err) != connect.CodeNotFound:
			return nil, err
		}
		if err := s.mayDestroy(c); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `WITH c AS (UPDATE case_file SET state = 6, ordered = 4, orders = orders + 1 WHERE id = $2)
			INSERT INTO destruction (id, case_id, ground, reason, merchant, sku, quantity, ordered_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			req.GetDestructionId(), c.id, int16(req.GetGround()), req.GetReason(), c.merchant, c.sku, c.quantity, who); err != nil {
			return nil, err
		}
		if err := note(ctx, tx, c.id, "ordered destruction "+req.GetGround().String(), req.GetReason()); err != nil {
			return nil, err
		}
		if d, err = loadDestruction(ctx, tx, req.GetDestructionId()); err != nil {
			return nil, err
		}
		return &inspectionv1.OrderDestructionResponse{Destruction: d.proto()}, nil
	})
}

// mayDestroy refuses while the goods may yet be found genuine.
func (s *service) mayDestroy(c *caseFile) error {
	if err := c.must(orderDestruction); err != nil {
		return err
	}
	if c.verdict == genuine {
		return fault.New(connect.CodeFailedPrecondition, "VERDICT_GENUINE", "these goods passed; they are not destroyed")
	}
	if until := c.confirmedAt.Add(s.appeal); !c.appealed && time.Now().Before(until) {
		return fault.New(connect.CodeFailedPrecondition, "APPEAL_OPEN", "the merchant can still appeal", "until", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// ConfirmDestruction records that it was done: from this moment the units are
// destroyed and nothing certifies them.
func (s *service) ConfirmDestruction(ctx context.Context, req *inspectionv1.ConfirmDestructionRequest) (*inspectionv1.ConfirmDestructionResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	known, err := loadDestruction(ctx, s.db, req.GetDestructionId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	var started *saga.Started
	if err := s.sent(ctx, "blob_ids", req.GetBlobIds()); err != nil {
		return nil, err
	}
	res, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ConfirmDestructionResponse, error) {
		started = nil
		// The case first, as everywhere: an appeal may be taking the order back.
		c, err := lockCase(ctx, tx, known.caseID)
		if err != nil {
			return nil, err
		}
		d, err := loadDestruction(ctx, tx, known.id)
		if err != nil {
			return nil, err
		}
		if d.state != destructionOrdered {
			if d.confirmedBy != who || d.witness != req.GetWitness() || d.weightGrams != req.GetWeightGrams() {
				return nil, fault.New(connect.CodeAlreadyExists, "DESTRUCTION_DIFFERS", "this destruction was recorded otherwise")
			}
			return &inspectionv1.ConfirmDestructionResponse{Destruction: d.proto()}, nil
		}
		switch err := c.must(confirmDestruction); {
		case err != nil:
			return nil, err
		case who == d.orderedBy:
			return nil, samePerson("another than the one who ordered the destruction confirms it")
		case req.GetWitness() == who || req.GetWitness() == d.orderedBy:
			return nil, samePerson("the witness is neither who ordered the destruction nor who confirms it")
		}
		if started, err = s.destroy(ctx, tx, c, d, who, req); err != nil {
			return nil, err
		}
		if d, err = loadDestruction(ctx, tx, d.id); err != nil {
			return nil, err
		}
		return &inspectionv1.ConfirmDestructionResponse{Destruction: d.proto()}, nil
	})
	if err == nil {
		s.nudge()
		s.launch(ctx, started)
	}
	return res, err
}

// destroy records a destruction. The stock is written off by a saga where the
// goods stood in the warehouse; others were in no books.
func (s *service) destroy(ctx context.Context, tx *store.Tx, c *caseFile, d *destruction, who string, req *inspectionv1.ConfirmDestructionRequest) (*saga.Started, error) {
	evidence := sha256.Sum256([]byte(strings.Join(req.GetBlobIds(), "")))
	if _, err := tx.Do(ctx, `WITH c AS (UPDATE case_file SET state = 7 WHERE id = $2)
		UPDATE destruction SET state = 2, confirmed_by = $3, witness = $4, weight_grams = $5, blobs = $6, evidence_sha256 = $7, confirmed_at = now() WHERE id = $1`,
		d.id, c.id, who, req.GetWitness(), req.GetWeightGrams(), req.GetBlobIds(), hex.EncodeToString(evidence[:])); err != nil {
		return nil, err
	}
	c.state = executed
	if err := note(ctx, tx, c.id, "destroyed", "witness "+req.GetWitness()); err != nil {
		return nil, err
	}
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return nil, err
	}
	if err := s.kill(ctx, tx, c, units, d.id); err != nil {
		return nil, err
	}
	if err := tx.Publish(&inspectionv1.GoodsDestroyed{
		DestructionId: d.id, CaseId: c.id, MerchantId: c.merchant, Sku: c.sku, Quantity: c.quantity, UnitIds: c.units, Ground: d.ground,
		WeightGrams: req.GetWeightGrams(),
	}); err != nil {
		return nil, err
	}
	if !c.inWarehouse() {
		return nil, s.close(ctx, tx, c)
	}
	info := call.From(ctx)
	info.Market = c.market
	return tx.StartSaga(call.With(ctx, info), destroySaga, d.id, saga.Requests{
		"write-off": c.refusal(toEnd, d.id), "close": &inspectionv1.CloseCaseRequest{CaseId: c.id},
	})
}

// kill ends units, or goods without.
func (s *service) kill(ctx context.Context, tx *store.Tx, c *caseFile, units []*unit, destructionID string) error {
	end := step{bizStep: "destroying", disposition: destroyed, holder: nobody, document: destructionID, merchant: c.merchant, action: "DELETE"}
	if len(c.units) == 0 {
		end.sku, end.gtin, end.lot, end.quantity, end.from = c.sku, c.gtin, c.lot, c.quantity, c.where()
		return s.recordStep(ctx, tx, end)
	}
	here := atHand(units)
	var elsewhere []sighting
	for _, u := range units {
		if u.holder == consumer || kindOf(u.holder) == atCarrier {
			// What was destroyed bore the serial of a good that was sold.
			elsewhere = append(elsewhere, sighting{u, destructionID, seenSold})
		}
	}
	if err := s.raise(ctx, tx, elsewhere...); err != nil {
		return err
	}
	if err := s.revokeCertificates(ctx, tx, ids(here), "DESTROYED"); err != nil {
		return err
	}
	if err := s.carry(ctx, tx, byHolder(here, end)...); err != nil {
		return err
	}
	return retain(ctx, tx, here, wasDestroyed, destructionID)
}

// GetDestruction tells one; a merchant its own.
func (s *service) GetDestruction(ctx context.Context, req *inspectionv1.GetDestructionRequest) (*inspectionv1.GetDestructionResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	d, err := loadDestruction(ctx, s.db, req.GetDestructionId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if merchant != "" && d.merchant != merchant {
		return nil, unknownDestruction()
	}
	return &inspectionv1.GetDestructionResponse{Destruction: d.proto()}, nil
}

// ListDestructions pages through them, newest first.
func (s *service) ListDestructions(ctx context.Context, req *inspectionv1.ListDestructionsRequest) (*inspectionv1.ListDestructionsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pageOf(req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Rows(ctx, `SELECT `+destructionColumns+` FROM destruction d
		WHERE ($1 = '' OR d.merchant = $1) AND ($2 = 0 OR d.state = $2) AND (d.ordered_at, d.id) < ($3, $4)
		ORDER BY d.ordered_at DESC, d.id DESC LIMIT $5`, merchant, int16(req.GetState()), p.at, p.id, p.size+1)
	var found []*destruction
	if err := each(rows, err, func(r row) error {
		d := &destruction{}
		found = append(found, d)
		return d.scan(r)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &inspectionv1.ListDestructionsResponse{}
	for i, d := range found {
		if i == p.size {
			res.NextPageToken = token(found[i-1].orderedAt, found[i-1].id)
			break
		}
		res.Destructions = append(res.Destructions, d.proto())
	}
	return res, nil
}

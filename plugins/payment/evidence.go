package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

func unknownDispute() error {
	return fault.New(connect.CodeNotFound, "DISPUTE_UNKNOWN", "there is no such dispute")
}

func notOpen(d *dispute) error {
	return fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the bank no longer waits for a response", "state", d.state.String())
}

// SubmitEvidence hands evidence to the company. What is handed over is written
// down before, all but what it says.
func (s *service) SubmitEvidence(ctx context.Context, req *paymentv1.SubmitEvidenceRequest) (*paymentv1.SubmitEvidenceResponse, error) {
	if len(req.GetEvidence()) == 0 && !req.GetSubmit() {
		return nil, fault.Field("evidence", "is empty")
	}
	kinds := make([]int16, len(req.GetEvidence()))
	text := sha256.New()
	for i, e := range req.GetEvidence() {
		kinds[i] = int16(e.GetKind())
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, err
	}
	_, _ = text.Write(body)
	digest := hex.EncodeToString(text.Sum(nil))
	var d *dispute
	var done bool
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		d, done, err = s.intendEvidence(ctx, tx, req, kinds, digest)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if !done {
		told, err := s.handOver(ctx, d, req)
		if err != nil {
			return nil, err
		}
		if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.Do(ctx, `UPDATE dispute_evidence SET state = 2 WHERE id = $1 AND state = 1`, req.GetEvidenceId()); err != nil {
				return err
			}
			return s.hearDispute(ctx, tx, d.instance, d.reference, d.paymentReference, told)
		}); err != nil {
			return nil, store.Wrap(err)
		}
	}
	out, err := s.showDispute(ctx, req.GetDisputeId())
	return &paymentv1.SubmitEvidenceResponse{Dispute: out}, err
}

// intendEvidence writes down that evidence is handed over; done: it was,
// before.
func (s *service) intendEvidence(ctx context.Context, tx *store.Tx, req *paymentv1.SubmitEvidenceRequest, kinds []int16, digest string) (_ *dispute, done bool, _ error) {
	d, err := lockDispute(ctx, tx, req.GetDisputeId())
	if err != nil {
		return nil, false, err
	}
	var before struct {
		digest, code string
		state        int16
	}
	rows, err := tx.Rows(ctx, `SELECT digest, state, code FROM dispute_evidence WHERE id = $1`, req.GetEvidenceId())
	if err := each(rows, err, func() error { return rows.Scan(&before.digest, &before.state, &before.code) }); err != nil {
		return nil, false, err
	}
	switch {
	case before.digest != "" && before.digest != digest:
		return nil, false, fault.New(connect.CodeAlreadyExists, "EVIDENCE_DIFFERS", "this evidence was submitted with another request; take another id")
	case before.state == 2:
		return d, true, nil
	case before.state == 3:
		return nil, false, refusedEvidence(before.code)
	case before.state == 1:
		return d, false, nil
	case d.state != needsResponse || d.accepting || d.due.Valid && d.due.Time.Before(time.Now()):
		return nil, false, notOpen(d)
	}
	who := call.From(ctx).Principal
	if who.Kind == call.Merchant && req.GetSubmit() {
		var missing int
		if err := tx.Row(ctx, `SELECT count(*) FROM dispute_share x WHERE x.dispute = $1 AND x.merchant <> $2
			AND NOT EXISTS (SELECT FROM dispute_evidence e WHERE e.dispute = $1 AND e.merchant = x.merchant AND e.state = 2)`, d.id, who.Merchant).Scan(&missing); err != nil {
			return nil, false, err
		}
		if missing > 0 {
			return nil, false, fault.New(connect.CodeFailedPrecondition, "EVIDENCE_INCOMPLETE", "others have a share in it and have not added their evidence; add yours without submitting")
		}
	}
	_, err = tx.Do(ctx, `INSERT INTO dispute_evidence (id, dispute, merchant, kinds, digest, submit) VALUES ($1, $2, $3, $4, $5, $6)`,
		req.GetEvidenceId(), d.id, who.Merchant, kinds, digest, req.GetSubmit())
	return d, false, err
}

func refusedEvidence(code string) error {
	return fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the payment provider does not take this evidence", "code", code)
}

// handOver asks the company to take evidence. Its no is written down; anything
// else that is no answer may have happened, and is repeated under its key.
func (s *service) handOver(ctx context.Context, d *dispute, req *paymentv1.SubmitEvidenceRequest) (*providerv1.Dispute, error) {
	ask := &providerv1.SubmitEvidenceRequest{Key: req.GetEvidenceId(), DisputeReference: d.reference, Submit: req.GetSubmit()}
	for _, e := range req.GetEvidence() {
		ask.Evidence = append(ask.Evidence, &providerv1.Evidence{Kind: providerv1.Evidence_Kind(e.GetKind()), Text: e.GetText()})
	}
	cctx, cancel := bounded(host.ToInstance(ctx, d.instance))
	defer cancel()
	res, err := s.providers.client.SubmitEvidence(cctx, ask)
	if err == nil {
		return s.itself(d, res.GetDispute())
	}
	if code, ok := refusedBy(err); ok {
		if _, err := s.db.Do(ctx, `UPDATE dispute_evidence SET state = 3, code = $2 WHERE id = $1 AND state = 1`, req.GetEvidenceId(), code); err != nil {
			return nil, store.Wrap(err)
		}
		return nil, refusedEvidence(code)
	}
	s.log.WarnContext(ctx, "outcome unknown", "evidence", req.GetEvidenceId(), "dispute", d.id, "instance", d.instance, "error", err)
	return nil, outcomeUnknown(host.Relay(err), time.Second)
}

// itself takes an answer only when it is about the dispute that was asked for.
func (s *service) itself(d *dispute, t *providerv1.Dispute) (*providerv1.Dispute, error) {
	if err := sound(d.instance, t); err != nil {
		return nil, outcomeUnknown(err, time.Second)
	}
	if t.GetReference() != d.reference {
		return nil, outcomeUnknown(nil, time.Second)
	}
	return t, nil
}

// AcceptDispute gives a dispute up.
func (s *service) AcceptDispute(ctx context.Context, req *paymentv1.AcceptDisputeRequest) (*paymentv1.AcceptDisputeResponse, error) {
	var d *dispute
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		if d, err = lockDispute(ctx, tx, req.GetDisputeId()); err != nil || d.state == accepted || d.state == lost || d.accepting {
			return err
		}
		if d.state != needsResponse {
			return notOpen(d)
		}
		if who := call.From(ctx).Principal; who.Kind == call.Merchant {
			var others int
			if err := tx.Row(ctx, `SELECT count(*) FROM dispute_share WHERE dispute = $1 AND merchant <> $2`, d.id, who.Merchant).Scan(&others); err != nil {
				return err
			}
			if others > 0 {
				return fault.New(connect.CodeFailedPrecondition, "DISPUTE_SHARED", "others have a share in it; the marketplace decides")
			}
		}
		d.accepting = true
		_, err = tx.Do(ctx, `UPDATE dispute SET accepting = true, next_try = now() + interval '30 s', tries = 0 WHERE id = $1`, d.id)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if !closed(d.state) {
		if err := s.giveUp(ctx, d); err != nil {
			return nil, err
		}
	}
	out, err := s.showDispute(ctx, req.GetDisputeId())
	if err == nil && out.GetState() == won {
		return nil, fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the dispute was won before it was given up")
	}
	return &paymentv1.AcceptDisputeResponse{Dispute: out}, err
}

// giveUp tells the company that a dispute is given up, as often as needed.
func (s *service) giveUp(ctx context.Context, d *dispute) error {
	cctx, cancel := bounded(host.ToInstance(ctx, d.instance))
	defer cancel()
	res, err := s.providers.client.AcceptDispute(cctx, &providerv1.AcceptDisputeRequest{Key: d.id + "/accept", DisputeReference: d.reference})
	if code, ok := refusedBy(err); err != nil && ok {
		if _, err := s.db.Do(ctx, `UPDATE dispute SET accepting = false, next_try = now() WHERE id = $1 AND state < 3`, d.id); err != nil {
			return store.Wrap(err)
		}
		return fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the payment provider does not take it any more", "code", code)
	}
	if err != nil {
		s.log.WarnContext(ctx, "outcome unknown", "dispute", d.id, "instance", d.instance, "error", err)
		return outcomeUnknown(host.Relay(err), time.Second)
	}
	told, err := s.itself(d, res.GetDispute())
	if err != nil {
		return err
	}
	return store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		return s.hearDispute(ctx, tx, d.instance, d.reference, d.paymentReference, told)
	}))
}

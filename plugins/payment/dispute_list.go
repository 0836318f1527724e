package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// concerned keeps disputes to those that a merchant ($1) has a share in; for
// others (”) to those of a payment that is known.
const concerned = ` d.payment IS NOT NULL AND ($1 = '' OR EXISTS (SELECT FROM dispute_share x WHERE x.merchant = $1 AND x.dispute = d.id)) `

// lockDispute reads a dispute that the caller may act on, and locks it.
func lockDispute(ctx context.Context, tx *store.Tx, id string) (*dispute, error) {
	d := &dispute{}
	err := d.scan(tx.Row(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE `+concerned+` AND d.id = $2 FOR UPDATE`, call.From(ctx).Principal.Merchant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, unknownDispute()
	}
	return d, err
}

// ListDisputes tells disputes, the newest first.
func (s *service) ListDisputes(ctx context.Context, req *paymentv1.ListDisputesRequest) (*paymentv1.ListDisputesResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	after, err := pageToken("dsp_", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	states := make([]int16, len(req.GetStates()))
	for i, state := range req.GetStates() {
		states[i] = int16(state)
	}
	size := pageSize(req.GetPageSize())
	found, err := disputes(s.db.Rows(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE `+concerned+` AND ($2::int2[] = '{}' OR d.state = ANY ($2::int2[]))
		AND (d.at, d.id) < ($3, $4) ORDER BY d.at DESC, d.id DESC LIMIT $5`, merchant, states, after.at, after.id, size+1))
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &paymentv1.ListDisputesResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = place{found[size-1].at, found[size-1].id}.token()
	}
	res.Disputes, err = s.tellDisputes(ctx, found)
	return res, err
}

// GetDispute tells one.
func (s *service) GetDispute(ctx context.Context, req *paymentv1.GetDisputeRequest) (*paymentv1.GetDisputeResponse, error) {
	d, err := s.showDispute(ctx, req.GetDisputeId())
	return &paymentv1.GetDisputeResponse{Dispute: d}, err
}

func (s *service) showDispute(ctx context.Context, id string) (*paymentv1.Dispute, error) {
	found, err := disputes(s.db.Rows(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE `+concerned+` AND d.id = $2`, call.From(ctx).Principal.Merchant, id))
	if err != nil {
		return nil, store.Wrap(err)
	}
	if len(found) == 0 {
		return nil, unknownDispute()
	}
	all, err := s.tellDisputes(ctx, found)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// tellDisputes tells disputes as the caller may see them.
func (s *service) tellDisputes(ctx context.Context, found []*dispute) ([]*paymentv1.Dispute, error) {
	who := call.From(ctx).Principal
	ids := make([]string, len(found))
	for i, d := range found {
		ids[i] = d.id
	}
	shares, err := sharesOfDisputes(ctx, s.db, ids)
	if err != nil {
		return nil, store.Wrap(err)
	}
	evidence, err := s.evidenceOf(ctx, ids, who.Merchant)
	if err != nil {
		return nil, err
	}
	out := make([]*paymentv1.Dispute, len(found))
	for i, d := range found {
		t := &paymentv1.Dispute{
			DisputeId: d.id, PaymentId: d.payment, Reference: d.order, State: d.state, Reason: d.reason, Code: d.code,
			EvidenceDueAt: stamp(d.due), Evidence: evidence[d.id], OpenedAt: timestamppb.New(d.openedAt), ClosedAt: stamp(d.closedAt),
		}
		for _, b := range shares[d.id] {
			if who.Kind == call.Merchant && b.merchant != who.Merchant {
				continue
			}
			one := &paymentv1.DisputeShare{MerchantId: b.merchant, Amount: d.money(b.amount())}
			if b.charged > 0 {
				one.Fee = money.Money{Currency: d.feeCurrency, Minor: b.charged}.Proto()
			}
			t.Shares = append(t.Shares, one)
		}
		if who.Kind != call.Merchant {
			t.Instance, t.ProviderReference, t.Amount = d.instance, d.reference, d.money(d.amount)
			if d.posted < d.amount && d.state != won {
				t.Excess = d.money(d.amount - d.posted)
			}
			if d.fee > 0 {
				t.Fee = money.Money{Currency: d.feeCurrency, Minor: d.fee}.Proto()
			}
		}
		out[i] = t
	}
	return out, nil
}

// evidenceOf tells what was handed over, by dispute; to a merchant its own.
func (s *service) evidenceOf(ctx context.Context, ids []string, merchant string) (map[string][]*paymentv1.EvidenceSubmission, error) {
	out := make(map[string][]*paymentv1.EvidenceSubmission)
	rows, err := s.db.Rows(ctx, `SELECT dispute, id, merchant, array_to_json(kinds), submit, at FROM dispute_evidence
		WHERE dispute = ANY ($1) AND state = 2 AND ($2 = '' OR merchant = $2) ORDER BY at, id`, ids, merchant)
	return out, store.Wrap(each(rows, err, func() error {
		var of string
		var kinds []byte
		var at sql.NullTime
		e := &paymentv1.EvidenceSubmission{}
		if err := rows.Scan(&of, &e.EvidenceId, &e.MerchantId, &kinds, &e.Submitted, &at); err != nil {
			return err
		}
		e.At = stamp(at)
		out[of] = append(out[of], e)
		return json.Unmarshal(kinds, &e.Kinds)
	}))
}

package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"strconv"

	"connectrpc.com/connect/v2"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

func (s *service) reconciliation(ctx context.Context, id string) (*reconciliation, error) {
	r := &reconciliation{}
	err := r.scan(s.db.Row(ctx, `SELECT `+reconciliationColumns+` FROM reconciliation r WHERE r.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(connect.CodeNotFound, "RECONCILIATION_UNKNOWN", "there is no such reconciliation")
	}
	return r, store.Wrap(err)
}

// differencesOf reads differences of a reconciliation, as they were found.
func (s *service) differencesOf(ctx context.Context, id string, after, limit int) ([]*paymentv1.Difference, error) {
	var out []*paymentv1.Difference
	rows, err := s.db.Rows(ctx, `SELECT kind, key, subject, ours, theirs FROM reconciliation_difference WHERE reconciliation = $1 AND n > $2 ORDER BY n LIMIT $3`,
		id, after, limit)
	return out, store.Wrap(each(rows, err, func() error {
		d := &paymentv1.Difference{}
		out = append(out, d)
		return rows.Scan(&d.Kind, &d.Key, &d.SubjectId, &d.Ours, &d.Theirs)
	}))
}

// ListReconciliations tells reconciliations, the newest first.
func (s *service) ListReconciliations(ctx context.Context, req *paymentv1.ListReconciliationsRequest) (*paymentv1.ListReconciliationsResponse, error) {
	after, err := pageToken("rec_", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	var found []*reconciliation
	rows, err := s.db.Rows(ctx, `SELECT `+reconciliationColumns+` FROM reconciliation r WHERE ($1 = '' OR r.instance = $1) AND (r.started_at, r.id) < ($2, $3)
		ORDER BY r.started_at DESC, r.id DESC LIMIT $4`, req.GetInstance(), after.at, after.id, size+1)
	if err := each(rows, err, func() error {
		r := &reconciliation{}
		found = append(found, r)
		return r.scan(rows)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &paymentv1.ListReconciliationsResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = place{found[size-1].startedAt, found[size-1].id}.token()
	}
	for _, r := range found {
		res.Reconciliations = append(res.Reconciliations, r.proto())
	}
	return res, nil
}

// GetReconciliation tells one with a page of its differences.
func (s *service) GetReconciliation(ctx context.Context, req *paymentv1.GetReconciliationRequest) (*paymentv1.GetReconciliationResponse, error) {
	after, size := 0, int(req.GetPageSize())
	if token := req.GetPageToken(); token != "" {
		b, err := base64.RawURLEncoding.DecodeString(token)
		n, nerr := strconv.Atoi(string(b))
		if after = n; err != nil || nerr != nil || n < 0 || n > maxDifferences {
			return nil, fault.Field("page_token", "is not one that this method gave")
		}
	}
	if size == 0 {
		size = listed
	}
	r, err := s.reconciliation(ctx, req.GetReconciliationId())
	if err != nil {
		return nil, err
	}
	found, err := s.differencesOf(ctx, r.id, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &paymentv1.GetReconciliationResponse{Reconciliation: r.proto(), Differences: found}
	if len(found) > size {
		res.Differences = found[:size]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(after + size)))
	}
	return res, nil
}

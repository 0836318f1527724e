package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// jobs are tasks to open, as columns.
type jobs struct{ ids, shipments, merchants, kinds, reasons []string }

func (j *jobs) add(one *shipment, kind, reason string) {
	j.ids, j.shipments, j.merchants = append(j.ids, id.New("tsk")), append(j.shipments, one.id), append(j.merchants, one.merchant)
	j.kinds, j.reasons = append(j.kinds, kind), append(j.reasons, reason)
}

// open writes them: one for each kind of trouble and shipment.
func (j *jobs) open(ctx context.Context, tx *store.Tx) error {
	if len(j.ids) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO task (id, shipment_id, merchant, kind, reason)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) ON CONFLICT (shipment_id, kind) DO NOTHING`,
		j.ids, j.shipments, j.merchants, j.kinds, j.reasons)
	return err
}

const taskColumns = `id, shipment_id, merchant, kind, reason, opened_at, resolved_at, resolved_by, note`

func scanTask(row interface{ Scan(...any) error }) (*logisticsv1.Task, error) {
	t := &logisticsv1.Task{State: logisticsv1.Task_STATE_OPEN}
	var opened time.Time
	var resolved *time.Time
	if err := row.Scan(&t.TaskId, &t.ShipmentId, &t.MerchantId, &t.Kind, &t.Reason, &opened, &resolved, &t.ResolvedBy, &t.Note); err != nil {
		return nil, err
	}
	if t.OpenedAt = timestamppb.New(opened); resolved != nil {
		t.State, t.ResolvedAt = logisticsv1.Task_STATE_RESOLVED, timestamppb.New(*resolved)
	}
	return t, nil
}

// ListTasks pages by rising id: oldest first.
func (s *service) ListTasks(ctx context.Context, req *logisticsv1.ListTasksRequest) (*logisticsv1.ListTasksResponse, error) {
	after, err := pageToken(req.GetPageToken(), "tsk_")
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	res := &logisticsv1.ListTasksResponse{}
	rows, err := s.db.Rows(ctx, `SELECT `+taskColumns+` FROM task WHERE ($1 = '' OR merchant = $1) AND id > $2
		AND ($3 = 0 OR ($3 = 1) = (resolved_at IS NULL)) ORDER BY id LIMIT $4`, owner(ctx), after, int16(req.GetState()), size+1)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		t, err := scanTask(rows)
		res.Tasks = append(res.Tasks, t)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetTasks()) > size {
		res.Tasks = res.GetTasks()[:size]
		res.NextPageToken = nextToken(res.GetTasks()[size-1].GetTaskId())
	}
	return res, nil
}

// ResolveTask says what was done about it. Resolved once, it stays so.
func (s *service) ResolveTask(ctx context.Context, req *logisticsv1.ResolveTaskRequest) (*logisticsv1.ResolveTaskResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.ResolveTaskResponse, error) {
		if _, err := tx.Do(ctx, `UPDATE task SET resolved_at = now(), resolved_by = $2, note = $3 WHERE id = $1 AND resolved_at IS NULL AND ($4 = '' OR merchant = $4)`,
			req.GetTaskId(), call.From(ctx).Principal.String(), req.GetNote(), owner(ctx)); err != nil {
			return nil, err
		}
		t, err := scanTask(tx.Row(ctx, `SELECT `+taskColumns+` FROM task WHERE id = $1 AND ($2 = '' OR merchant = $2)`, req.GetTaskId(), owner(ctx)))
		if errors.Is(err, sql.ErrNoRows) {
			return nil, fault.New(connect.CodeNotFound, "TASK_UNKNOWN", "there is no such task, or it is not yours")
		}
		return &logisticsv1.ResolveTaskResponse{Task: t}, err
	})
}

// mayByID: shipments' ids are for those who work with them.
func mayByID(ctx context.Context) error {
	switch call.From(ctx).Principal.Kind {
	case call.Merchant, call.Staff, call.Operator, call.Plugin:
		return nil
	}
	return noShipment()
}

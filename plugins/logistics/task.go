package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
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
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING`,
		j.ids, j.shipments, j.merchants, j.kinds, j.reasons)
	return err
}

const taskColumns = `id, shipment_id, merchant, kind, reason, opened_at, resolved_at, resolved_by, note, request, starts_at, ends_at`

func scanTask(row interface{ Scan(...any) error }) (*logisticsv1.Task, error) {
	t := &logisticsv1.Task{State: logisticsv1.Task_STATE_OPEN}
	var opened time.Time
	var resolved, from, until *time.Time
	if err := row.Scan(&t.TaskId, &t.ShipmentId, &t.MerchantId, &t.Kind, &t.Reason, &opened, &resolved, &t.ResolvedBy, &t.Note,
		&t.CarriageRequestId, &from, &until); err != nil {
		return nil, err
	}
	if from != nil && until != nil {
		t.From, t.Until = timestamppb.New(*from), timestamppb.New(*until)
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

// GetTask tells of one.
func (s *service) GetTask(ctx context.Context, req *logisticsv1.GetTaskRequest) (*logisticsv1.GetTaskResponse, error) {
	t, err := scanTask(s.db.Row(ctx, readTask, req.GetTaskId(), owner(ctx)))
	if err != nil {
		return nil, noTask(err)
	}
	if t.GetState() != logisticsv1.Task_STATE_OPEN || t.GetKind() != redirectAsked {
		return &logisticsv1.GetTaskResponse{Task: t}, nil
	}
	var ref string
	if err := s.db.Row(ctx, `SELECT address_ref FROM task WHERE id = $1`, t.GetTaskId()).Scan(&ref); err != nil {
		return nil, store.Wrap(err)
	}
	to := make([]end, 1)
	if err := s.reveal(ctx, []string{ref}, to); err != nil {
		return nil, err
	}
	t.Address = to[0].address
	return &logisticsv1.GetTaskResponse{Task: t}, nil
}

const readTask = `SELECT ` + taskColumns + ` FROM task WHERE id = $1 AND ($2 = '' OR merchant = $2)`

func noTask(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fault.New(connect.CodeNotFound, "TASK_UNKNOWN", "there is no such task, or it is not yours")
	}
	return store.Wrap(err)
}

// ResolveTask says what was done about it. Resolved once, it stays so.
func (s *service) ResolveTask(ctx context.Context, req *logisticsv1.ResolveTaskRequest) (*logisticsv1.ResolveTaskResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.ResolveTaskResponse, error) {
		done, err := tx.Do(ctx, `UPDATE task SET resolved_at = now(), resolved_by = $2, note = $3 WHERE id = $1 AND resolved_at IS NULL AND ($4 = '' OR merchant = $4)`,
			req.GetTaskId(), call.From(ctx).Principal.String(), req.GetNote(), owner(ctx))
		if err != nil {
			return nil, err
		}
		n, err := done.RowsAffected()
		if err != nil {
			return nil, err
		}
		t, err := scanTask(tx.Row(ctx, readTask, req.GetTaskId(), owner(ctx)))
		if err != nil {
			return nil, noTask(err)
		}
		if asked := t.GetCarriageRequestId(); n == 1 && asked != "" {
			err = tx.Publish(&logisticsv1.CarriageAnswered{ShipmentId: t.GetShipmentId(), CarriageRequestId: asked, Arranged: !req.GetRefused()})
		}
		return &logisticsv1.ResolveTaskResponse{Task: t}, err
	})
}

const (
	redirectAsked = "REDIRECT_ASKED"
	pickupAsked   = "PICKUP_ASKED"
)

// onRequested opens a task for what a consumer asks of a carrier: no carrier's
// contract has it, so a person asks. A shipment that is not known here is not
// this module's to send.
func onRequested(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.CarriageRequested]) error {
	r := e.Body
	kind, ok := map[string]string{"redirect": redirectAsked, "pickup": pickupAsked}[r.GetWhat()]
	if !ok {
		return nil
	}
	var from, until *time.Time
	if r.GetFrom() != nil && r.GetUntil() != nil {
		a, b := r.GetFrom().AsTime(), r.GetUntil().AsTime()
		from, until = &a, &b
	}
	_, err := tx.Do(ctx, `INSERT INTO task (id, shipment_id, merchant, kind, reason, request, address_ref, starts_at, ends_at)
		SELECT $1, s.id, s.merchant, $3, $4, $5, $6, $7, $8 FROM shipment s WHERE s.id = $2 ON CONFLICT DO NOTHING`,
		id.Derive("tsk", r.GetCarriageRequestId()), r.GetShipmentId(), kind, r.GetCaseId(), r.GetCarriageRequestId(), r.GetAddressRef(), from, until)
	return err
}

// onResolved closes a task whose request was answered in its conversation.
func onResolved(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.CarriageResolved]) error {
	_, err := tx.Do(ctx, `UPDATE task SET resolved_at = now(), resolved_by = 'aftersale', note = $2 WHERE request = $1 AND request <> '' AND resolved_at IS NULL`,
		e.Body.GetCarriageRequestId(), map[bool]string{true: "arranged", false: "refused"}[e.Body.GetArranged()])
	return err
}

// mayByID: shipments' ids are for those who work with them.
func mayByID(ctx context.Context) error {
	switch call.From(ctx).Principal.Kind {
	case call.Merchant, call.Staff, call.Operator, call.Plugin:
		return nil
	}
	return noShipment()
}

package saga

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Operator serves entrepot.operator.v1.SagaService.
type Operator struct{ runner *Runner }

var _ operatorv1connect.SagaServiceHandler = (*Operator)(nil)

// NewOperator makes the service.
func NewOperator(r *Runner) *Operator { return &Operator{runner: r} }

// Counts are the sagas by state, all states named, as tx sees them.
func Counts(ctx context.Context, tx pgx.Tx) (map[string]int64, error) {
	rows, err := tx.Query(ctx, `SELECT n::int2, count(s.id) FROM generate_series(0, 5) n LEFT JOIN bus.saga s ON s.status = n GROUP BY n`)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	var st int16
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&st, &n}, func() error {
		counts[stateName(stateOf(st))] = n
		return nil
	})
	return counts, err
}

func (o *Operator) unavailable(ctx context.Context, err error) error {
	o.runner.log.WarnContext(ctx, "saga: an operator's request failed", "error", err)
	return fault.New(connect.CodeUnavailable, "SAGA_UNAVAILABLE", "the database does not answer; try again").WithCause(err)
}

// ListSagas lists sagas, newest first.
func (o *Operator) ListSagas(ctx context.Context, req *operatorv1.ListSagasRequest) (*operatorv1.ListSagasResponse, error) {
	size := int(req.GetPageSize())
	if size <= 0 || size > 200 {
		size = 50
	}
	before, last := time.Now().Add(time.Hour), uuid.Max
	if t := req.GetPageToken(); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		var micros int64
		var text string
		if err == nil {
			_, err = fmt.Sscanf(string(b), "%d/%s", &micros, &text)
		}
		if err == nil {
			last, err = uuid.Parse(text)
		}
		if err != nil {
			return nil, fault.Field("page_token", "it is not one that this list answered")
		}
		before = time.UnixMicro(micros)
	}
	qctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := o.runner.c.Pool.Query(qctx, `SELECT `+rowColumns+`, s.key, s.created_at, coalesce(s.node, '') FROM bus.saga s
		WHERE (s.created_at, s.id) < ($1, $2) AND ($3 = 0 OR s.status = $3 - 1) ORDER BY s.created_at DESC, s.id DESC LIMIT $4`,
		before, last, int32(req.GetState()), size+1)
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	found, err := pgx.CollectRows(rows, scanListed)
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	res := &operatorv1.ListSagasResponse{}
	if len(found) > size {
		found = found[:size]
		l := found[size-1]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%s", l.created.UnixMicro(), l.id))
	}
	if err := o.steps(qctx, found); err != nil {
		return nil, o.unavailable(ctx, err)
	}
	for _, l := range found {
		res.Sagas = append(res.Sagas, l.saga)
	}
	return res, nil
}

// listed is a saga on its way to the list.
type listed struct {
	row
	created time.Time
	saga    *operatorv1.Saga
}

func scanListed(cr pgx.CollectableRow) (listed, error) {
	var l listed
	var key, node string
	err := cr.Scan(&l.id, &l.def, &l.ver, &l.status, &l.step, &l.epoch, &l.tried, &l.attempt, &l.timed, &l.waited, &l.input, &l.err, &l.trouble,
		&key, &l.created, &node)
	l.saga = &operatorv1.Saga{
		SagaId: l.id.String(), Definition: fmt.Sprintf("%s@%d", l.def, l.ver), Key: key, State: stateOf(l.status),
		CreatedAt: timestamppb.New(l.created), Node: node, Epoch: l.epoch,
	}
	return l, err
}

// steps fills in how the steps of the listed sagas stand.
func (o *Operator) steps(ctx context.Context, found []listed) error {
	ids := make([]uuid.UUID, len(found))
	for i, l := range found {
		ids[i] = l.id
	}
	rows, err := o.runner.c.Pool.Query(ctx, `SELECT saga, n, dir, status, attempt, CASE WHEN status = 2 THEN res END FROM bus.saga_step
		WHERE saga = ANY ($1) ORDER BY saga, dir, CASE dir WHEN 0 THEN n ELSE -n END`, ids)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var n, dir, st, attempt int16
	var res []byte
	type at struct{ n, dir int16 }
	known := map[uuid.UUID]map[at]*operatorv1.SagaStepStatus{}
	order := map[uuid.UUID][]at{}
	_, err = pgx.ForEachRow(rows, []any{&id, &n, &dir, &st, &attempt, &res}, func() error {
		if known[id] == nil {
			known[id] = map[at]*operatorv1.SagaStepStatus{}
		}
		s := &operatorv1.SagaStepStatus{Direction: "do", Status: "begun", Attempt: int32(attempt)}
		if dir == 1 {
			s.Direction = "undo"
		}
		switch status(st) {
		case done:
			s.Status = "done"
		case refused:
			s.Status, s.Error = "refused", words(res)
		case unknown:
			s.Status = "unknown"
		}
		known[id][at{n, dir}] = s
		order[id] = append(order[id], at{n, dir})
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range found {
		def, err := o.runner.defs.get(ctx, l.def, l.ver)
		if err != nil {
			return err
		}
		if l.tried != 0 && l.status != int16(kernelv1.SagaState_SAGA_STATE_DONE)-1 {
			k := at{l.tried, 0}
			if l.tried < 0 {
				k = at{-l.tried, 1}
			}
			// A module's step that failed has left no record.
			if known[l.id][k] == nil {
				if known[l.id] == nil {
					known[l.id] = map[at]*operatorv1.SagaStepStatus{}
				}
				known[l.id][k] = &operatorv1.SagaStepStatus{Direction: [2]string{"do", "undo"}[k.dir], Status: "unknown"}
				order[l.id] = append(order[l.id], k)
			}
			if s := known[l.id][k]; s.GetStatus() != "done" {
				s.Attempt, s.Error = int32(l.attempt), words(l.trouble)
			}
		}
		for _, k := range order[l.id] {
			s := known[l.id][k]
			s.Name = def.stepName(int(k.n))
			l.saga.Steps = append(l.saga.Steps, s)
		}
	}
	return nil
}

// words are a kept error's code and message.
func words(status []byte) string {
	if len(status) == 0 {
		return ""
	}
	return errorOf(status).Error()
}

// ResumeSaga lets a stuck saga try its failed step again, its attempts counted
// anew. A refusal that stuck it is forgotten, or it would be answered again.
func (o *Operator) ResumeSaga(ctx context.Context, req *operatorv1.ResumeSagaRequest) (*operatorv1.ResumeSagaResponse, error) {
	id, err := uuid.Parse(req.GetSagaId())
	if err != nil {
		return nil, fault.Field("saga_id", "it is no UUID")
	}
	qctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	tag, err := o.runner.c.Pool.Exec(qctx, `WITH s AS (SELECT id, tried FROM bus.saga WHERE id = $1 AND status = 5 FOR UPDATE),
		f AS (DELETE FROM bus.saga_step t USING s WHERE t.saga = s.id AND t.n = s.tried AND t.dir = 0 AND t.status = 2)
		UPDATE bus.saga g SET status = CASE WHEN s.tried < 0 THEN 2 ELSE 0 END, step = CASE WHEN s.tried < 0 THEN g.step ELSE 0 END,
		  error = CASE WHEN s.tried < 0 THEN g.error END, tried = 0, attempt = 0, trouble = NULL, wait_until = NULL,
		  due = now(), lease_until = NULL, ended_at = NULL, epoch = g.epoch + 1
		FROM s WHERE g.id = s.id`, id)
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	if tag.RowsAffected() == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "SAGA_NOT_STUCK", "only a stuck saga is resumed")
	}
	o.runner.log.InfoContext(ctx, "saga: resumed by the operator", "saga", id, "who", call.From(ctx).Principal.String())
	o.runner.lookAgain()
	return &operatorv1.ResumeSagaResponse{}, nil
}

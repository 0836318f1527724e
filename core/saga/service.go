package saga

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Service serves entrepot.kernel.v1.SagaService.
type Service struct {
	runner *Runner
	caller func(context.Context) (plugin string, ok bool)
}

var _ kernelv1connect.SagaServiceHandler = (*Service)(nil)

// NewService makes the service. caller tells on which plugin's socket a call
// came in; a plugin can run its own sagas only.
func NewService(r *Runner, caller func(context.Context) (plugin string, ok bool)) *Service {
	return &Service{runner: r, caller: caller}
}

// Run drives a saga and waits for its end.
func (s *Service) Run(ctx context.Context, req *kernelv1.RunRequest) (*kernelv1.RunResponse, error) {
	plugin, ok := s.caller(ctx)
	if !ok || req.GetDefinition() != "" && !strings.HasPrefix(req.GetDefinition(), plugin+"/") {
		return nil, fault.New(connect.CodePermissionDenied, "SAGA_FOREIGN", "a plugin runs the sagas that it declares")
	}
	id, err := uuid.Parse(req.GetSagaId())
	if err != nil {
		return nil, fault.Field("saga_id", "it is no UUID")
	}
	w, leave, err := s.runner.watch(id)
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	defer leave()
	e, err := s.start(ctx, plugin, id, req)
	switch {
	case err != nil:
		return nil, s.answer(ctx, err)
	case e != nil:
		return response(e)
	case !req.GetWait():
		return &kernelv1.RunResponse{State: kernelv1.SagaState_SAGA_STATE_RUNNING}, nil
	}
	select {
	case <-w.done:
		return response(w.end)
	case <-ctx.Done():
		return nil, fault.New(connect.CodeDeadlineExceeded, "SAGA_RUNNING", "the saga goes on; call again to wait for its end")
	}
}

// start drives the saga from what the caller gives, or from the database.
func (s *Service) start(ctx context.Context, plugin string, id uuid.UUID, req *kernelv1.RunRequest) (*end, error) {
	if req.GetDefinition() == "" || req.GetInput() == nil {
		return s.runner.take(ctx, plugin, id)
	}
	if s.runner.isDriven(id) {
		return nil, s.runner.owned(plugin, id)
	}
	def, err := s.runner.defs.get(ctx, req.GetDefinition(), req.GetVersion())
	if err != nil {
		return nil, err
	}
	// Its first driver has epoch 1: bus.saga_start gives it.
	return nil, s.runner.begin(s.runner.newDrive(id, 1, def, req.GetInput()))
}

func response(e *end) (*kernelv1.RunResponse, error) {
	if e.state == kernelv1.SagaState_SAGA_STATE_UNSPECIFIED {
		return nil, errorFound(errGone)
	}
	return &kernelv1.RunResponse{State: e.state, Step: e.step, Error: e.status}, nil
}

// answer makes an error fit to leave the kernel.
func (s *Service) answer(ctx context.Context, err error) error {
	if !errors.Is(err, errGone) && !errors.Is(err, errBusy) && ctx.Err() == nil {
		s.runner.log.WarnContext(ctx, "saga: cannot be run now", "error", err)
	}
	return errorFound(err)
}

func errorFound(err error) error {
	switch {
	case errors.Is(err, errGone):
		return fault.New(connect.CodeNotFound, "SAGA_UNKNOWN", "there is no such saga").WithCause(err)
	case errors.Is(err, errBusy):
		return fault.Retry(fault.New(connect.CodeResourceExhausted, "SAGA_LIMIT", "too many sagas are running; this one goes on later").WithCause(err), time.Second)
	default:
		return fault.Retry(fault.New(connect.CodeUnavailable, "SAGA_UNAVAILABLE", "the saga cannot be run now; it goes on later").WithCause(err), time.Second)
	}
}

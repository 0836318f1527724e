package persistence

import (
	"context"
	"errors"
	"log/slog"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Reasons of StateService.
const (
	ReasonStateConflict = "STATE_CONFLICT"
	ReasonStateFull     = "STATE_FULL"
)

// maxStateKeys bounds the keys of one instance.
const maxStateKeys = 10_000

// State serves entrepot.kernel.v1.StateService.
type State struct {
	pool   *pgxpool.Pool
	plugin func(ctx context.Context) (string, bool)
	log    *slog.Logger
}

var _ kernelv1connect.StateServiceHandler = (*State)(nil)

// NewState makes the service. plugin names the plugin that calls: it reads
// and writes its own state only.
func (db *DB) NewState(plugin func(ctx context.Context) (name string, ok bool)) *State {
	return &State{pool: db.admin, plugin: plugin, log: db.log}
}

// GetState returns a value, or version 0 when there is none.
func (s *State) GetState(ctx context.Context, req *kernelv1.GetStateRequest) (*kernelv1.GetStateResponse, error) {
	plugin, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res := &kernelv1.GetStateResponse{}
	err = s.pool.QueryRow(ctx, "SELECT version, value FROM kernel.provider_state WHERE plugin = $1 AND instance = $2 AND key = $3",
		plugin, req.GetInstance(), req.GetKey()).Scan(&res.Version, &res.Value)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, s.failed(ctx, err)
	}
	return res, nil
}

// PutState stores a value if the stored version is the expected one.
func (s *State) PutState(ctx context.Context, req *kernelv1.PutStateRequest) (*kernelv1.PutStateResponse, error) {
	plugin, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	value := req.GetValue()
	if value == nil {
		value = []byte{}
	}
	var version int64
	if req.GetExpectedVersion() == 0 {
		version, err = s.insert(ctx, plugin, req, value)
	} else {
		err = s.pool.QueryRow(ctx, `UPDATE kernel.provider_state SET version = version + 1, value = $5, updated_at = now()
			WHERE plugin = $1 AND instance = $2 AND key = $3 AND version = $4 RETURNING version`,
			plugin, req.GetInstance(), req.GetKey(), req.GetExpectedVersion(), value).Scan(&version)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fault.New(connect.CodeAborted, ReasonStateConflict, "the state has another version: read it again")
	case errors.Is(err, errStateFull):
		return nil, fault.New(connect.CodeResourceExhausted, ReasonStateFull, "the instance has as many keys as it may have")
	case err != nil:
		return nil, s.failed(ctx, err)
	}
	return &kernelv1.PutStateResponse{Version: version}, nil
}

var errStateFull = errors.New("too many keys")

func (s *State) insert(ctx context.Context, plugin string, req *kernelv1.PutStateRequest, value []byte) (version int64, err error) {
	var keys int
	if err := s.pool.QueryRow(ctx, "SELECT count(*) FROM kernel.provider_state WHERE plugin = $1 AND instance = $2", plugin, req.GetInstance()).Scan(&keys); err != nil {
		return 0, err
	}
	if keys >= maxStateKeys {
		return 0, errStateFull
	}
	err = s.pool.QueryRow(ctx, `INSERT INTO kernel.provider_state (plugin, instance, key, version, value) VALUES ($1, $2, $3, 1, $4)
		ON CONFLICT DO NOTHING RETURNING version`, plugin, req.GetInstance(), req.GetKey(), value).Scan(&version)
	return version, err
}

func (s *State) caller(ctx context.Context) (string, error) {
	if name, ok := s.plugin(ctx); ok {
		return name, nil
	}
	return "", fault.New(connect.CodePermissionDenied, "PLUGIN_ONLY", "only plugins have state")
}

func (s *State) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.log.Error("provider state", "error", err)
	return fault.New(connect.CodeUnavailable, "DATABASE_UNREACHABLE", "the state cannot be reached now")
}

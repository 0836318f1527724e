package store

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/pgerr"
)

// SQLState returns the SQLSTATE of an error, empty when it is none of
// PostgreSQL's.
func SQLState(err error) string { return pgerr.State(err) }

// IsConstraint tells whether an error is the violation of the named
// constraint.
func IsConstraint(err error, name string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.ConstraintName == name
}

// Wrap gives a database error the code that a caller can act on; its text
// stays here, as the cause. Authored errors pass.
func Wrap(err error) error {
	var ce *connect.Error
	if err == nil || errors.As(err, &ce) {
		return err
	}
	unavailable := func(message string) error {
		return fault.Retry(connect.NewError(connect.CodeUnavailable, message).WithCause(err), 100*time.Millisecond)
	}
	switch state := SQLState(err); {
	case state == busdb.StaleDelivery:
		return fault.New(connect.CodeAborted, fault.ReasonStaleDelivery, "another delivery won").WithCause(err)
	case state == busdb.StaleSaga, state == busdb.StepEnded:
		return fault.New(connect.CodeAborted, fault.ReasonStaleSaga, "another driver has this saga").WithCause(err)
	case state == "57014" && errors.Is(err, context.Canceled), errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, "canceled").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), state == "57014":
		return connect.NewError(connect.CodeDeadlineExceeded, "the database did not answer in time").WithCause(err)
	case pgerr.Conflict(err), state == "55P03":
		return unavailable("the rows are busy; try again")
	case pgerr.Unreachable(err):
		return unavailable("the database cannot be reached; try again")
	}
	return err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
)

// SQLState returns the SQLSTATE of an error, empty when it is none of
// PostgreSQL's.
func SQLState(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// IsConstraint tells whether an error is the violation of the named
// constraint.
func IsConstraint(err error, name string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.ConstraintName == name
}

func isConflict(err error) bool {
	switch SQLState(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	return false
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
	case isConflict(err), state == "55P03":
		return unavailable("the rows are busy; try again")
	case state == "53300", len(state) == 5 && (state[:2] == "08" || state[:2] == "57"), isConnection(err):
		return unavailable("the database cannot be reached; try again")
	}
	return err
}

func isConnection(err error) bool {
	var ne net.Error
	var co *pgconn.ConnectError
	return errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) || errors.As(err, &ne) || errors.As(err, &co) || pgconn.SafeToRetry(err) ||
		errors.Is(err, net.ErrClosed) || SQLState(err) == "" && isEOF(err)
}

func isEOF(err error) bool {
	s := err.Error()
	for _, suffix := range []string{"EOF", "broken pipe", "connection reset by peer", "conn closed", "bad connection"} {
		if len(s) >= len(suffix) && s[len(s)-len(suffix):] == suffix {
			return true
		}
	}
	return false
}

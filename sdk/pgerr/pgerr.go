// Package pgerr tells what errors of PostgreSQL and its driver mean to who has
// to decide what to do next.
package pgerr

import (
	"database/sql"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// State returns the SQLSTATE of an error, empty when it is none of
// PostgreSQL's.
func State(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// Conflict tells whether a transaction lost to another one and may simply be
// run again.
func Conflict(err error) bool {
	switch State(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	return false
}

// Unreachable tells whether the database, or the connection to it, was away:
// it starts, stops or recovers, it takes no more connections, or one broke.
// Whether a statement had its effect is then unknown.
func Unreachable(err error) bool {
	switch state := State(err); {
	case state == "53300": // too_many_connections
		return true
	case state == "57014": // query_canceled
		return false
	case len(state) == 5: // connection exceptions and operator intervention
		return state[:2] == "08" || state[:2] == "57"
	}
	var ne net.Error
	var co *pgconn.ConnectError
	return errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &ne) || errors.As(err, &co) || pgconn.SafeToRetry(err) || broke(err)
}

// broke knows what drivers say in words alone.
func broke(err error) bool {
	s := err.Error()
	for _, words := range []string{"EOF", "broken pipe", "connection reset by peer", "conn closed", "bad connection", "closed pool"} {
		if strings.HasSuffix(s, words) {
			return true
		}
	}
	return false
}

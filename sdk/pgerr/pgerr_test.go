package pgerr_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/pgerr"
)

func TestADatabaseThatIsAwayIsToldFromOneThatRefuses(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return fmt.Errorf("select: %w", &pgconn.PgError{Code: code}) }
	for _, err := range []error{
		state("53300"), state("57P01"), state("57P02"), state("57P03"), state("08006"), sql.ErrConnDone, fmt.Errorf("read: %w", io.ErrUnexpectedEOF),
		errors.New("write unix: broken pipe"), errors.New("driver: bad connection"), &pgconn.ConnectError{},
	} {
		require.True(t, pgerr.Unreachable(err), "%v", err)
	}
	for _, err := range []error{state("57014"), state("23505"), state("42P01"), state("40001"), context.Canceled, sql.ErrNoRows, errors.New("no")} {
		require.False(t, pgerr.Unreachable(err), "%v", err)
	}
	require.True(t, pgerr.Conflict(state("40P01")))
	require.False(t, pgerr.Conflict(state("23505")))
	require.Equal(t, "23505", pgerr.State(state("23505")))
	require.Empty(t, pgerr.State(io.EOF))
}

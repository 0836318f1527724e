package kernel

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// What the kernel's services did not author reaches nobody with its text, and
// whoever called while the database was away is told to ask again.
func TestErrorsThatNobodyAuthoredAreGuarded(t *testing.T) {
	t.Parallel()
	k := &kernel{log: slog.New(slog.DiscardHandler)}
	authored := connect.NewError(connect.CodeNotFound, "no such account")
	for _, c := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{authored, connect.CodeNotFound, "no such account"},
		{&pgconn.PgError{Code: "57P02", Message: "crash of another server process"}, connect.CodeUnavailable, "the database cannot be reached"},
		{&pgconn.PgError{Code: "42P01", Message: "relation kernel.account"}, connect.CodeInternal, "internal error"},
		{errors.New("account of ann@example.com"), connect.CodeInternal, "internal error"},
	} {
		err := k.guard(func(context.Context, connect.Spec, connect.ServerStream) error { return c.err })(t.Context(), connect.Spec{}, nil)
		require.Equal(t, c.code, connect.CodeOf(err), "%v", c.err)
		require.Contains(t, err.Error(), c.text)
	}
	require.NoError(t, k.guard(func(context.Context, connect.Spec, connect.ServerStream) error { return nil })(t.Context(), connect.Spec{}, nil))
}

package identity

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/persistence"
	"github.com/entrepot/entrepot/core/vault"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestTheKernelLaysDownTheTablesOnceHoweverOftenItStarts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	for range 2 {
		p, err := persistence.Open(t.Context(), persistence.Config{
			URL: db.URL, ModuleFunctions: vault.ModuleFunctions,
			Schemas: []persistence.Schema{{Name: "kernel", Files: Migrations()}, {Name: vault.Schema, Files: vault.Migrations()}},
		})
		require.NoError(t, err)
		pool, err := p.Pool(t.Context(), "identity", 2)
		require.NoError(t, err)
		var accounts, subjects int
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM kernel.account), (SELECT count(*) FROM vault.subject)`).Scan(&accounts, &subjects))
		p.Close(t.Context())
	}
}

// Package vault holds what is known of natural persons: names, addresses,
// phones, mails. Each record is encrypted under a key of its subject, each
// subject's key under the deployment's master key; everybody else holds a
// reference. Destroying a subject's key erases the person and leaves every
// ledger true.
package vault

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of the vault.
const Schema = "vault"

// ModuleFunctions are the functions that a module's runtime role may execute.
var ModuleFunctions = []string{"vault.store(text, bytea, text[], text[], bytea[])"}

// SubjectErased is the SQLSTATE of vault.store for a subject whose key was
// destroyed.
const SubjectErased = "VA001"

// Migrations returns the vault's schema as files "<14 digits>_<words>.sql" at
// the root, to be run in order by the kernel's role.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Querier is a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Caller is the plugin that asks.
type Caller struct {
	// Plugin is its name, which the record of reveals keeps.
	Plugin string
	// Reveals are the purposes its manifest was granted.
	Reveals []string
}

// Options configure a vault.
type Options struct {
	// Pool is the kernel's own. The schema must be migrated.
	Pool *pgxpool.Pool
	// KeyFile holds the master key, "<data>/keys/vault.json", mode 0600. It is
	// created on the first start. Without it every person in the database is
	// lost, so it belongs in the backup, apart from the database.
	KeyFile string
	// CallerFrom tells which plugin makes a call of VaultService; false
	// refuses the call.
	CallerFrom func(context.Context) (Caller, bool)
}

// Vault seals, reveals and erases. It is safe for concurrent use.
type Vault struct {
	pool       *pgxpool.Pool
	callerFrom func(context.Context) (Caller, bool)
	keys       *keyring
}

// Open reads or creates the master key and proves that it is the one the
// database was written with. It refuses, with words for the operator, when it
// is not.
func Open(ctx context.Context, o Options) (*Vault, error) {
	keys, created, err := openKeyring(o.KeyFile)
	if err != nil {
		return nil, err
	}
	v := &Vault{pool: o.Pool, callerFrom: o.CallerFrom, keys: keys}
	if err := v.prove(ctx, o.KeyFile, created); err != nil {
		return nil, err
	}
	return v, nil
}

// prove keeps one known value under the master key in the database, and opens
// it. A database without subjects takes a new key.
func (v *Vault) prove(ctx context.Context, file string, created bool) error {
	proof, err := v.keys.master.Encrypt(proofText, proofText)
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	_, err = v.pool.Exec(ctx, `
		INSERT INTO vault.master AS m (proof) VALUES ($1)
		ON CONFLICT (one) DO UPDATE SET proof = excluded.proof WHERE $2 AND NOT EXISTS (SELECT FROM vault.subject)`,
		proof, created)
	if err != nil {
		return fmt.Errorf("vault: write the proof of the master key: %w", err)
	}
	if err := v.pool.QueryRow(ctx, `SELECT proof FROM vault.master`).Scan(&proof); err != nil {
		return fmt.Errorf("vault: read the proof of the master key: %w", err)
	}
	if _, err := v.keys.master.Decrypt(proof, proofText); err == nil {
		return nil
	}
	if created {
		_ = os.Remove(file) // made for nothing a moment ago
		return fmt.Errorf("vault: the database holds personal data but the master key %s is missing: restore it from the backup; nothing was changed", file)
	}
	return fmt.Errorf("vault: the master key %s does not open this database: restore the key that belongs to it, or name the database that belongs to the key", file)
}

package persistence

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrations embed.FS

// kernelSchema holds the kernel's own tables, those of this package too.
const kernelSchema = "kernel"

// migrateKernel closes the database to everybody without a grant, and brings
// the kernel's schemas up to date.
func (db *DB) migrateKernel(ctx context.Context, schemas []Schema) error {
	own, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	// A schema may come from several rooms: its steps are one sequence.
	var order []string
	steps := map[string][]step{}
	for _, s := range append(slices.Clone(schemas), Schema{Name: kernelSchema, Files: own}) {
		more, err := readSteps(s.Files)
		if err != nil {
			return fmt.Errorf("schema %s: %w", s.Name, err)
		}
		if steps[s.Name] == nil {
			order = append(order, s.Name)
		}
		steps[s.Name] = append(steps[s.Name], more...)
	}
	return db.locked(ctx, "entrepot:kernel", func(conn *pgx.Conn) error {
		if err := db.close(ctx, conn); err != nil {
			return err
		}
		for _, name := range order {
			todo, err := pending(ctx, conn, name, steps[name])
			if err != nil {
				return err
			}
			if len(todo) == 0 {
				continue
			}
			if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quote(name)); err != nil {
				return err
			}
			if err := apply(ctx, conn, name, todo, ""); err != nil {
				return err
			}
			db.log.Info("schema migrated", "schema", name, "steps", len(todo))
		}
		return nil
	})
}

// close takes from PUBLIC what PostgreSQL gives it: connections, temporary
// tables, schema public. A session's advisory locks go as well where we may:
// an idle session could hold the sequencer's for ever, and nobody would see a
// transaction to end.
func (db *DB) close(ctx context.Context, conn *pgx.Conn) error {
	statements := []string{
		"REVOKE ALL ON DATABASE " + quote(db.name) + " FROM PUBLIC",
		"DO $$ BEGIN IF to_regnamespace('public') IS NOT NULL THEN REVOKE ALL ON SCHEMA public FROM PUBLIC; END IF; END $$",
	}
	if db.superuser {
		for _, f := range []string{"pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"} {
			statements = append(statements, fmt.Sprintf("REVOKE EXECUTE ON FUNCTION pg_catalog.%s(bigint), pg_catalog.%[1]s(int, int) FROM PUBLIC", f))
		}
	}
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// schemasOf are the schemas of functions, each once.
func schemasOf(functions []string) []string {
	var schemas []string
	for _, f := range functions {
		if schema, _, ok := strings.Cut(f, "."); ok && !slices.Contains(schemas, schema) {
			schemas = append(schemas, schema)
		}
	}
	return schemas
}

// Package persistence is PostgreSQL for the kernel and its modules: the
// private cluster or the one the operator names, the kernel's own schemas, a
// schema and a role for each module, and the small state of providers.
package persistence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot/entrepot/sdk/pglocal"
)

// localDatabase is the database's name in the private cluster.
const localDatabase = "entrepot"

// Config says where the database is and what the kernel's rooms keep there.
type Config struct {
	// URL of a database that the operator runs, "postgres://...": at least
	// PostgreSQL 15, with a role that may create roles and schemas. Empty:
	// a private cluster in DataDir.
	URL string
	// DataDir is the deployment's data folder; the cluster stands in
	// "postgres" below it.
	DataDir string
	// Schemas are the kernel's own, made and migrated by Open in this order.
	// This package's own tables are added to schema "kernel".
	Schemas []Schema
	// ModuleFunctions are what every module's role may execute of those
	// schemas, written "schema.function(argument types)".
	ModuleFunctions []string
	// OwnerFunctions are what the owner of a module's schema may execute:
	// SECURITY DEFINER functions of the module call them.
	OwnerFunctions []string
	// Logger; nil means slog.Default().
	Logger *slog.Logger
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	// External is true for a database that the operator runs.
	External bool

	url            *url.URL
	name           string
	role           string
	superuser      bool
	cluster        *pglocal.Cluster
	admin          *pgxpool.Pool
	functions      []string // that runtime roles may execute
	ownerFunctions []string
	log            *slog.Logger

	mu      sync.Mutex
	pools   []*pgxpool.Pool
	secrets map[string]string // by runtime role
}

// Open starts the private cluster or reaches the operator's, checks what it
// may do there, and migrates the kernel's schemas. Several kernels may open
// one database at a time.
func Open(ctx context.Context, c Config) (*DB, error) {
	db := &DB{External: c.URL != "", functions: c.ModuleFunctions, ownerFunctions: c.OwnerFunctions, log: c.Logger, secrets: map[string]string{}}
	if db.log == nil {
		db.log = slog.Default()
	}
	if err := db.open(ctx, c); err != nil {
		db.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("database: %w", err)
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, c Config) (err error) {
	if db.External {
		db.url, err = parseURL(c.URL)
	} else {
		db.url, err = db.startCluster(ctx, filepath.Join(c.DataDir, "postgres"))
	}
	if err != nil {
		return err
	}
	if db.admin, err = db.Pool(ctx, "kernel", 4); err != nil {
		return err
	}
	if err := db.check(ctx); err != nil {
		return err
	}
	return db.migrateKernel(ctx, c.Schemas)
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The cause would repeat the password.
		return nil, errors.New(`database_url is no URL: write "postgres://role:password@host:5432/name?sslmode=verify-full"`)
	}
	return u, nil
}

func (db *DB) startCluster(ctx context.Context, dir string) (*url.URL, error) {
	cluster, err := pglocal.Start(ctx, pglocal.Options{Dir: dir, Durable: true})
	if err != nil {
		return nil, err
	}
	db.cluster = cluster
	conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", localDatabase).Scan(&exists); err != nil {
		return nil, err
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+localDatabase); err != nil {
			return nil, err
		}
	}
	return url.Parse(cluster.URL(localDatabase))
}

// check tells what is missing before anything half works.
func (db *DB) check(ctx context.Context) error {
	var version int
	var encoding string
	var mayRoles, maySchemas, owns bool
	err := db.admin.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_database(), current_user::text,
		 r.rolsuper, r.rolsuper OR r.rolcreaterole, has_database_privilege(current_database(), 'CREATE'),
		 pg_has_role(current_user, d.datdba, 'MEMBER')
		FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()`).
		Scan(&version, &encoding, &db.name, &db.role, &db.superuser, &mayRoles, &maySchemas, &owns)
	switch {
	case err != nil:
		return err
	case version < pglocal.MinVersion*10000:
		return fmt.Errorf("PostgreSQL %d is too old: at least %d is needed", version/10000, pglocal.MinVersion)
	case encoding != "UTF8":
		return fmt.Errorf("database %s has encoding %s: create it with ENCODING 'UTF8'", db.name, encoding)
	case !mayRoles:
		return fmt.Errorf("role %s may not create roles, one of which each module gets: ALTER ROLE %[1]s CREATEROLE", db.role)
	case !maySchemas:
		return fmt.Errorf("role %s may not create schemas: GRANT CREATE ON DATABASE %s TO %[1]s", db.role, db.name)
	case !owns:
		return fmt.Errorf("role %s does not own database %s, so it cannot close it to others: ALTER DATABASE %[2]s OWNER TO %[1]s", db.role, db.name)
	}
	return nil
}

// Pool opens a pool of the kernel's own role for one of its rooms. It stands
// in pg_stat_activity as "entrepot/<room>" and is closed by Close.
func (db *DB) Pool(ctx context.Context, room string, maxConns int32) (*pgxpool.Pool, error) {
	conf, err := pgxpool.ParseConfig(db.url.String())
	if err != nil {
		return nil, errors.New("database_url cannot be used: check its parameters") // the cause would repeat the password
	}
	conf.MaxConns = maxConns
	conf.MaxConnIdleTime = 5 * time.Minute
	conf.ConnConfig.ConnectTimeout = 10 * time.Second
	conf.ConnConfig.RuntimeParams["application_name"] = "entrepot/" + room
	conf.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60s"
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	db.mu.Lock()
	db.pools = append(db.pools, pool)
	db.mu.Unlock()
	if err := pool.Ping(ctx); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return pool, nil
}

// Kind is what the operator is shown: "embedded" or "external".
func (db *DB) Kind() string {
	if db.External {
		return "external"
	}
	return "embedded"
}

// Exited is closed when the private cluster has ended, also unasked; it is
// nil for an external database.
func (db *DB) Exited() <-chan struct{} {
	if db.cluster == nil {
		return nil
	}
	return db.cluster.Exited()
}

// Close closes the pools and stops the private cluster. Connections that a
// pool has lent are waited for until ctx ends.
func (db *DB) Close(ctx context.Context) {
	db.mu.Lock()
	pools := db.pools
	db.pools = nil
	db.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		for _, p := range pools {
			p.Close()
		}
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
	if db.cluster != nil {
		if err := db.cluster.Stop(ctx); err != nil {
			db.log.Error("database did not stop in order", "error", err)
		}
	}
}

// urlFor is the connection URL of another role.
func (db *DB) urlFor(role, password string) string {
	u := *db.url
	u.User = url.UserPassword(role, password)
	return u.String()
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

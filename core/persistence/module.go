package persistence

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// maxIdentifier is the longest name PostgreSQL keeps whole, in bytes.
const maxIdentifier = 63

// Module is what EnsureModule needs to know of a module.
type Module struct {
	// Name in the manifest.
	Name string
	// Migrations of its schema, as it described them.
	Migrations []*pluginv1.Migration
	// MaxConnections its process may open; 0 means 8. The role is allowed
	// twice as many, for the moment when a new process replaces an old one.
	MaxConnections int32
}

// Credentials let a module's process into its schema.
type Credentials struct {
	// Role is the session user by which the bus knows the module.
	Role string
	// Schema of the module, which is also its search path.
	Schema string
	// URL with the role and its password. A secret.
	URL            string
	MaxConnections int32
}

// EnsureModule gives a module its schema "p_<name>", an owner role
// "m_<name>" that only migrations use, and the runtime role "p_<name>", which
// reads and writes rows there and executes the kernel's module functions, and
// brings the schema up to date. What a migration revokes from the runtime
// role stays revoked.
//
// The password is made once per DB: a process that replaces another gets the
// same, so that the old one can connect until it has drained.
func (db *DB) EnsureModule(ctx context.Context, m Module) (Credentials, error) {
	name := strings.ReplaceAll(m.Name, "-", "_")
	s := module{db: db, name: m.Name, schema: "p_" + name, owner: "m_" + name, runtime: "p_" + name, connections: m.MaxConnections}
	if s.connections <= 0 {
		s.connections = 8
	}
	if len(s.schema) > maxIdentifier {
		return Credentials{}, fmt.Errorf("module %s: its name is longer than the %d bytes a schema's may have", m.Name, maxIdentifier-2)
	}
	steps := make([]step, len(m.Migrations))
	for i, g := range m.Migrations {
		steps[i] = step{name: g.GetName(), sql: g.GetSql()}
	}
	// Grants on what modules share (the database, schema bus) must not run
	// side by side: PostgreSQL answers "tuple concurrently updated".
	var password string
	if err := db.locked(ctx, "entrepot:roles", func(conn *pgx.Conn) (err error) {
		if err := s.provision(ctx, conn); err != nil {
			return err
		}
		password, err = s.password(ctx, conn)
		return err
	}); err != nil {
		return Credentials{}, fmt.Errorf("module %s: %w", m.Name, err)
	}
	if err := db.locked(ctx, "entrepot:migrate:"+s.schema, func(conn *pgx.Conn) error { return s.migrate(ctx, conn, steps) }); err != nil {
		return Credentials{}, fmt.Errorf("module %s: %w", m.Name, err)
	}
	return Credentials{Role: s.runtime, Schema: s.schema, URL: db.urlFor(s.runtime, password), MaxConnections: s.connections}, nil
}

// module is one module's place in the database.
type module struct {
	db                     *DB
	name                   string
	schema, owner, runtime string
	connections            int32
}

// mark is the comment on a module's roles. Roles belong to the whole server:
// a second deployment on it would take the first one's.
func (s module) mark() string { return "entrepot module " + s.name + " of database " + s.db.name }

func (s module) provision(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, role := range []string{s.owner, s.runtime} {
			if err := s.ensureRole(ctx, tx, role); err != nil {
				return err
			}
		}
		database, schema, owner, runtime := quote(s.db.name), quote(s.schema), quote(s.owner), quote(s.runtime)
		statements := []string{
			"ALTER ROLE " + owner + " NOLOGIN NOINHERIT CONNECTION LIMIT 2 PASSWORD NULL",
			"ALTER ROLE " + owner + " SET search_path = " + schema,
			fmt.Sprintf("ALTER ROLE %s LOGIN NOINHERIT CONNECTION LIMIT %d", runtime, 2*s.connections),
			"ALTER ROLE " + runtime + " SET search_path = " + schema,
			"ALTER ROLE " + runtime + " SET statement_timeout = '30s'",
			"ALTER ROLE " + runtime + " SET lock_timeout = '5s'",
			"ALTER ROLE " + runtime + " SET idle_in_transaction_session_timeout = '10s'",
			"GRANT CONNECT ON DATABASE " + database + " TO " + owner + ", " + runtime,
			"CREATE SCHEMA IF NOT EXISTS " + schema + " AUTHORIZATION " + owner,
			"GRANT USAGE ON SCHEMA " + schema + " TO " + runtime,
			"ALTER DEFAULT PRIVILEGES FOR ROLE " + owner + " IN SCHEMA " + schema + " GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO " + runtime,
			"ALTER DEFAULT PRIVILEGES FOR ROLE " + owner + " IN SCHEMA " + schema + " GRANT USAGE, SELECT ON SEQUENCES TO " + runtime,
		}
		for _, shared := range schemasOf(s.db.functions) {
			statements = append(statements, "GRANT USAGE ON SCHEMA "+quote(shared)+" TO "+runtime)
		}
		for _, f := range s.db.functions {
			statements = append(statements, "GRANT EXECUTE ON FUNCTION "+f+" TO "+runtime)
		}
		for _, shared := range schemasOf(s.db.ownerFunctions) {
			statements = append(statements, "GRANT USAGE ON SCHEMA "+quote(shared)+" TO "+owner)
		}
		for _, f := range s.db.ownerFunctions {
			statements = append(statements, "GRANT EXECUTE ON FUNCTION "+f+" TO "+owner)
		}
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

func (s module) ensureRole(ctx context.Context, tx pgx.Tx, role string) error {
	var exists bool
	var mark string
	err := tx.QueryRow(ctx, `SELECT count(*) > 0, coalesce(max(shobj_description(oid, 'pg_authid')), '') FROM pg_roles WHERE rolname = $1`, role).Scan(&exists, &mark)
	if err != nil {
		return err
	}
	if exists && mark != s.mark() {
		return fmt.Errorf("role %s exists on this server and is not this deployment's (%q): give each deployment a PostgreSQL server of its own, or drop the role", role, mark)
	}
	if exists {
		return nil
	}
	// The grant lets a kernel that is no superuser act for the role and end
	// its connections.
	for _, sql := range []string{"CREATE ROLE " + quote(role), "COMMENT ON ROLE " + quote(role) + " IS " + literal(s.mark()), "GRANT " + quote(role) + " TO CURRENT_USER"} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// migrate runs the module's steps logged in as the owner: SET ROLE on the
// kernel's connection would leave a hostile step one RESET ROLE away from
// the kernel's rights. The owner can log in for this moment only.
func (s module) migrate(ctx context.Context, conn *pgx.Conn, steps []step) error {
	todo, err := pending(ctx, conn, s.schema, steps)
	if err != nil || len(todo) == 0 {
		return err
	}
	password := rand.Text()
	if err := s.db.setPassword(ctx, conn, s.owner, "LOGIN", password); err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, err := conn.Exec(end, "ALTER ROLE "+quote(s.owner)+" NOLOGIN PASSWORD NULL"); err != nil {
			s.db.log.Error("owner role keeps its login until the module's next start", "role", s.owner, "error", err)
		}
	}()
	config, err := pgx.ParseConfig(s.db.urlFor(s.owner, password))
	if err != nil {
		return fmt.Errorf("connection of role %s cannot be configured", s.owner) // the cause would repeat the password
	}
	config.RuntimeParams["application_name"] = "entrepot/migrate"
	owner, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("log in as %s: %w", s.owner, err)
	}
	defer func() { _ = owner.Close(context.WithoutCancel(ctx)) }()
	if err := apply(ctx, owner, s.schema, todo, "REVOKE ALL ON "+ledger(s.schema)+" FROM "+quote(s.runtime)); err != nil {
		return err
	}
	s.db.log.Info("schema migrated", "schema", s.schema, "steps", len(todo))
	return nil
}

// password makes the runtime role's password unless this DB has.
func (s module) password(ctx context.Context, conn *pgx.Conn) (string, error) {
	s.db.mu.Lock()
	p, made := s.db.secrets[s.runtime]
	s.db.mu.Unlock()
	if made {
		return p, nil
	}
	p = rand.Text()
	if err := s.db.setPassword(ctx, conn, s.runtime, "LOGIN", p); err != nil {
		return "", err
	}
	s.db.mu.Lock()
	s.db.secrets[s.runtime] = p
	s.db.mu.Unlock()
	return p, nil
}

func (db *DB) setPassword(ctx context.Context, conn *pgx.Conn, role, attribute, password string) error {
	v, err := verifier(password)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "ALTER ROLE "+quote(role)+" "+attribute+" PASSWORD '"+v+"'"); err != nil {
		return fmt.Errorf("set the password of role %s: %w", role, err)
	}
	return nil
}

// DropModule removes a module's schema with all its data, and its roles.
func (db *DB) DropModule(ctx context.Context, name string) error {
	id := strings.ReplaceAll(name, "-", "_")
	return db.locked(ctx, "entrepot:roles", func(conn *pgx.Conn) error {
		for _, sql := range []string{
			"DROP SCHEMA " + quote("p_"+id) + " CASCADE",
			"DROP OWNED BY " + quote("p_"+id) + ", " + quote("m_"+id),
			"DROP ROLE " + quote("p_"+id) + ", " + quote("m_"+id),
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		db.mu.Lock()
		delete(db.secrets, "p_"+id)
		db.mu.Unlock()
		return nil
	})
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/sdk/pglocal"
)

// cluster is the PostgreSQL of a running shop, entered as its superuser, and
// PostgreSQL's own programs beside it.
type cluster struct {
	data, programs, socket, port, password string
}

func openCluster(dir string) (*cluster, error) {
	dir = filepath.Join(dir, "data", "postgres")
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		return nil, err
	}
	c := &cluster{data: filepath.Join(dir, "data"), password: strings.TrimSpace(string(password))}
	pid, err := os.ReadFile(filepath.Join(c.data, "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(pid), "\n")
	if len(lines) < 5 {
		return nil, fmt.Errorf("postmaster.pid has %d lines", len(lines))
	}
	c.port, c.socket = lines[3], lines[4]
	programs, err := pglocal.Find()
	if err != nil {
		return nil, err
	}
	c.programs = programs.Dir
	return c, nil
}

const superuser = "entrepot"

func (c *cluster) dsn(database string) string {
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s", c.socket, c.port, superuser, c.password, database)
}

func (c *cluster) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.dsn(database))
}

// program makes a command of one of PostgreSQL's programs for a database.
func (c *cluster) program(ctx context.Context, database, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.programs, name), args...)
	cmd.Env = append(os.Environ(), "PGHOST="+c.socket, "PGPORT="+c.port, "PGUSER="+superuser, "PGPASSWORD="+c.password,
		"PGDATABASE="+database, "PGOPTIONS=-c search_path="+modules)
	return cmd
}

// modules' schemas, in which the limit script finds the tables of all.
const modules = "p_order,p_payment,p_warehouse,p_catalog"

// limitDatabase is a copy of the shop's that the kernel knows nothing of.
const limitDatabase = "pgbench"

// copy makes it, with other names in it. In the copy the superuser may
// publish what the modules may and do their steps: the script has one session
// for all their roles, and both functions ask for the session's user.
func (c *cluster) copy(ctx context.Context, renamed *strings.Replacer) (*pgx.Conn, error) {
	shop, err := c.connect(ctx, superuser)
	if err != nil {
		return nil, err
	}
	_, err = shop.Exec(ctx, "CREATE DATABASE "+limitDatabase)
	_ = shop.Close(ctx)
	if err != nil {
		return nil, err
	}
	dump := c.program(ctx, superuser, "pg_dump")
	var said bytes.Buffer
	dump.Stderr = &said
	text, err := dump.Output()
	if err != nil {
		return nil, fmt.Errorf("pg_dump: %w: %s", err, said.String())
	}
	load := c.program(ctx, limitDatabase, "psql", "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--output", os.DevNull)
	load.Stdin = strings.NewReader(renamed.Replace(string(text)))
	if out, err := load.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("psql: %w: %s", err, out)
	}
	db, err := c.connect(ctx, limitDatabase)
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, `INSERT INTO bus.pubgrant (role, topic, plugin) SELECT DISTINCT ON (topic) session_user, topic, plugin FROM bus.pubgrant;
		INSERT INTO bus.serves (role, contract) SELECT DISTINCT session_user, contract FROM bus.serves;
		UPDATE bus.saga_def SET owner = session_user;
		SET search_path = `+modules, pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		_, err = db.Exec(ctx, "VACUUM ANALYZE")
	}
	if err != nil {
		_ = db.Close(ctx)
		return nil, err
	}
	return db, nil
}

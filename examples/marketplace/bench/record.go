package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// statement is what a module's role sent, with its arguments as text; nil is
// NULL.
type statement struct {
	role string
	sql  string
	args []*string
}

// record has PostgreSQL log everything while do runs and answers what the
// modules sent for it, transaction by transaction. Deliveries of events are
// left out: they are the bus's work, and go on after the answer.
func (c *cluster) record(ctx context.Context, db *pgx.Conn, do func() error) ([]statement, error) {
	logs, err := filepath.Glob(filepath.Join(c.data, "log", "*.log"))
	if err != nil || len(logs) == 0 {
		return nil, errors.Join(err, errors.New("PostgreSQL keeps no log"))
	}
	f, err := os.Open(slices.Max(logs))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if err := logStatements(ctx, db, "all"); err != nil {
		return nil, err
	}
	if err := errors.Join(do(), logStatements(ctx, db, "none")); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return transactions(string(text))
}

func logStatements(ctx context.Context, db *pgx.Conn, which string) error {
	for _, sql := range []string{"ALTER SYSTEM SET log_statement = '" + which + "'", "SELECT pg_reload_conf()"} {
		if _, err := db.Exec(ctx, sql); err != nil {
			return err
		}
	}
	// A session takes the new setting with its next statement: once this one
	// has it, the others do.
	for now := ""; now != which; {
		if err := db.QueryRow(ctx, "SELECT current_setting('log_statement') FROM pg_sleep(0.01)").Scan(&now); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

var (
	// entry of the log by a module: session, role, kind, text. The lines of a
	// text after its first begin with a tab.
	entry = regexp.MustCompile(`(?m)^\d{4}-\S+ \S+ \S+ \[(\d+)\] (p_\w+)@\w+ \S+ (LOG|DETAIL):  ((?:.*)(?:\n\t.*)*)`)
	sent  = regexp.MustCompile(`(?s)^(?:statement|execute [^:]+): (.*)$`)
	value = regexp.MustCompile(`(?s)\$\d+ = (NULL|'(?:[^']|'')*')`)
)

// transactions reads a log into the statements of whole transactions, in the
// order of their ends.
func transactions(log string) ([]statement, error) {
	var out []statement
	open, last := map[string][]statement{}, map[string]*statement{}
	var groups [][]statement
	for _, m := range entry.FindAllStringSubmatch(log, -1) {
		session, text := m[1], strings.ReplaceAll(m[4], "\n\t", "\n")
		if m[3] == "DETAIL" {
			if s := last[session]; s != nil {
				s.args = arguments(text)
			}
			continue
		}
		s := sent.FindStringSubmatch(text)
		if s == nil || strings.HasPrefix(s[1], "-- ping") {
			continue
		}
		open[session] = append(open[session], statement{role: m[2], sql: s[1]})
		group := open[session]
		last[session] = &group[len(group)-1]
		if group[0].sql != "begin" || s[1] == "commit" {
			groups = append(groups, group)
			delete(open, session)
		}
	}
	if len(open) > 0 {
		return nil, fmt.Errorf("%d transactions have no end in the log", len(open))
	}
	for _, g := range groups {
		if !slices.ContainsFunc(g, func(s statement) bool { return strings.Contains(s.sql, "bus.ack") }) {
			out = append(out, g...)
		}
	}
	return out, nil
}

func arguments(detail string) []*string {
	var out []*string
	for _, m := range value.FindAllStringSubmatch(detail, -1) {
		if m[1] == "NULL" {
			out = append(out, nil)
			continue
		}
		v := strings.ReplaceAll(m[1][1:len(m[1])-1], "''", "'")
		out = append(out, &v)
	}
	return out
}

// commits counts the transactions that write.
func commits(statements []statement) (n int) {
	inside := false
	for _, s := range statements {
		switch {
		case s.sql == "begin":
			inside = true
		case s.sql == "commit":
			inside, n = false, n+1
		case !inside && !strings.HasPrefix(s.sql, "SELECT"):
			n++
		}
	}
	return n
}

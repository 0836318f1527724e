package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The last digits of every identifier in the script are a variable, so that
// each run of it writes rows of its own, at the end of each index as time
// does. Nine decimal digits are eighteen of hexadecimal, which pgbench can
// still count.
const varying = 9

// numbered is a sku as the copy knows it, so that the script can draw one.
const numbered = "sku_00000000000000000"

// firstNumber keeps all numbers at nine digits.
const firstNumber = 100_000_000

// numbers gives the articles numbers, in the order of their skus: the old name
// and the new one in turns.
func numbers(skus []string) []string {
	slices.Sort(skus)
	var names []string
	for i, s := range skus {
		names = append(names, s, numbered+strconv.Itoa(firstNumber+i))
	}
	return names
}

var (
	identifier = regexp.MustCompile(`\b[a-z]{3}_[0-9a-z]{26}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|^[0-9a-f]{32}$`)
	parameter  = regexp.MustCompile(`\$(\d+)`)
	// colon before a name, which pgbench takes for a variable even in a string.
	colon = regexp.MustCompile(`([^:]):([A-Za-z_])`)
)

// scripter turns a recorded checkout into a pgbench script.
type scripter struct {
	db *pgx.Conn
	// parts tells of each name in the recording what is written instead: the
	// fixed part, then a variable.
	parts map[string]part
	names *regexp.Regexp
}

type part struct{ fixed, variable string }

// prelude of a script: number is this run's own, by client and turn; hexed the
// same as bytes; sku1 and so on are neighbours among so many articles.
func prelude(articles, drawn int) string {
	var b strings.Builder
	b.WriteString("\\set turn :turn + 1\n\\set number :base + :turn * 64 + :client_id\n\\set hexed 0")
	for k, tens, hundreds := 0, 1, 1; k < varying; k, tens, hundreds = k+1, tens*10, hundreds*100 {
		fmt.Fprintf(&b, " + (:number / %d %% 10 + 30) * %d", tens, hundreds)
	}
	fmt.Fprintf(&b, "\n\\set sku1 random(%d, %d)\n", firstNumber, firstNumber+articles-drawn)
	for i := 2; i <= drawn; i++ {
		fmt.Fprintf(&b, "\\set sku%d :sku1 + %d\n", i, i-1)
	}
	return b.String()
}

// script writes what a recorded checkout sent as statements of pgbench: the
// same texts, the arguments as literals of the types that PostgreSQL takes
// them for. Names that the checkout made vary with the run; the skus are
// drawn; merchants and all else stay.
func (s *scripter) script(ctx context.Context, statements []statement, articles int) (string, error) {
	s.parts = make(map[string]part)
	var skus, fixed []string
	for _, st := range statements {
		for _, a := range st.args {
			if a == nil {
				continue
			}
			for _, name := range identifier.FindAllString(*a, -1) {
				if strings.HasPrefix(name, "sku_") && !slices.Contains(skus, name) {
					skus = append(skus, name)
				}
				if _, known := s.parts[name]; known || strings.HasPrefix(name, "sku_") || strings.HasPrefix(name, "mrc_") {
					continue
				}
				stem := name[:len(name)-varying]
				if slices.Contains(fixed, stem) {
					return "", fmt.Errorf("two names begin with %s: record again", stem)
				}
				fixed = append(fixed, stem)
				s.parts[name] = part{stem, "number"}
				s.parts[hex.EncodeToString([]byte(name))] = part{hex.EncodeToString([]byte(stem)), "hexed"}
			}
		}
	}
	slices.Sort(skus)
	for i, sku := range skus {
		s.parts[sku] = part{numbered, "sku" + strconv.Itoa(i+1)}
	}
	var names []string
	for name := range s.parts {
		names = append(names, name)
	}
	s.names = regexp.MustCompile(strings.Join(names, "|"))
	var b strings.Builder
	b.WriteString(prelude(articles, len(skus)))
	for _, st := range statements {
		text, err := s.statement(ctx, st)
		if err != nil {
			return "", err
		}
		b.WriteString(text + ";\n")
	}
	return b.String(), nil
}

func (s *scripter) statement(ctx context.Context, st statement) (string, error) {
	if len(st.args) == 0 {
		return st.sql, nil
	}
	d, err := s.db.Prepare(ctx, "", st.sql)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, st.sql)
	}
	if len(d.ParamOIDs) != len(st.args) {
		return "", fmt.Errorf("%d arguments for %d parameters: %s", len(st.args), len(d.ParamOIDs), st.sql)
	}
	text := parameter.ReplaceAllStringFunc(split(st.sql), func(p string) string {
		n, _ := strconv.Atoi(p[1:]) // digits, by the expression
		typ, ok := s.db.TypeMap().TypeForOID(d.ParamOIDs[n-1])
		if !ok {
			err = fmt.Errorf("a parameter of type %d: %s", d.ParamOIDs[n-1], st.sql)
			return p
		}
		if st.args[n-1] == nil {
			return "NULL::" + typ.Name
		}
		return s.literal(*st.args[n-1]) + "::" + typ.Name
	})
	return text, err
}

// literal writes a value with variables where names stand in it.
func (s *scripter) literal(v string) string {
	var terms []string
	quote := func(v string) { terms = append(terms, split("'"+strings.ReplaceAll(v, "'", "''")+"'")) }
	at := 0
	for _, m := range s.names.FindAllStringIndex(v, -1) {
		p := s.parts[v[m[0]:m[1]]]
		quote(v[at:m[0]] + p.fixed)
		terms = append(terms, ":"+p.variable+"::text")
		at = m[1]
	}
	if at == 0 || at < len(v) {
		quote(v[at:])
	}
	if len(terms) == 1 {
		return terms[0]
	}
	return "(" + strings.Join(terms, " || ") + ")"
}

// split breaks strings after a colon, which SQL puts together again.
func split(sql string) string { return colon.ReplaceAllString(sql, "$1:'\n'$2") }

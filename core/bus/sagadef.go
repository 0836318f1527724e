package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// validateSagas checks what could never run, or would let a plugin reach
// further than its manifest says.
func (r *Registration) validateSagas() error {
	seen := map[string]bool{}
	for _, d := range r.Sagas {
		id := fmt.Sprintf("%s@%d", d.GetName(), d.GetVersion())
		if d.GetName() == "" || d.GetVersion() < 1 || len(d.GetSteps()) == 0 || len(d.GetSteps()) > 64 || seen[id] {
			return fmt.Errorf("saga %q: it needs a name, a version from 1, 1 to 64 steps, and stands once", id)
		}
		seen[id] = true
		names := map[string]bool{}
		for i, s := range d.GetSteps() {
			if s.GetName() == "" || names[s.GetName()] {
				return fmt.Errorf("saga %s: step %d: the name %q is empty or stands twice", id, i+1, s.GetName())
			}
			names[s.GetName()] = true
			if err := r.validateStep(s); err != nil {
				return fmt.Errorf("saga %s: step %s: %w", id, s.GetName(), err)
			}
		}
	}
	return nil
}

func (r *Registration) validateStep(s *pluginv1.SagaStep) error {
	switch {
	case s.GetKind() < pluginv1.SagaStep_KIND_COMPENSATABLE || s.GetKind() > pluginv1.SagaStep_KIND_RETRIABLE:
		return errors.New("it has no kind")
	case s.GetMethod() == "" && s.GetCompensation() == "":
		return errors.New("it has neither method nor compensation")
	case s.GetMethod() == "" && (s.GetWaitSignal() != "" || s.GetWaitSeconds() != 0):
		return errors.New("without a method there is nothing to wait for")
	case s.GetKind() != pluginv1.SagaStep_KIND_COMPENSATABLE && s.GetCompensation() != "":
		return errors.New("a pivot or retriable step is never compensated")
	}
	for _, m := range []string{s.GetMethod(), s.GetCompensation()} {
		if m == "" {
			continue
		}
		c := contractOf(m)
		if c == "" {
			return fmt.Errorf(`%q is no method; it is written "/package.Service/Method"`, m)
		}
		served := slices.ContainsFunc(r.Manifest.GetServes(), func(x *pluginv1.ServedContract) bool { return x.GetContract() == c })
		if !served && !slices.Contains(r.Manifest.GetCalls(), c) {
			return fmt.Errorf("the manifest's calls do not list %s", c)
		}
	}
	return nil
}

// contractOf is the proto package of "/package.Service/Method", empty when it
// is none.
func contractOf(method string) string {
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	dot := strings.LastIndexByte(service, '.')
	if !ok || name == "" || dot <= 0 || dot == len(service)-1 || !strings.HasPrefix(method, "/") || strings.Contains(name, "/") {
		return ""
	}
	return service[:dot]
}

// sagas stores the definitions. A version that a saga was ever started with
// does not change: the saga goes on by it.
func (r *Registration) sagas(ctx context.Context, tx pgx.Tx) error {
	for _, d := range r.Sagas {
		def := r.Plugin + "/" + d.GetName()
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
		if err != nil {
			return fmt.Errorf("saga %s: %w", def, err)
		}
		if err := r.unchanged(ctx, tx, def, d); err != nil {
			return err
		}
		contracts, undos := make([]string, len(d.GetSteps())), make([]string, len(d.GetSteps()))
		for i, s := range d.GetSteps() {
			contracts[i], undos[i] = contractOf(s.GetMethod()), contractOf(s.GetCompensation())
		}
		_, err = tx.Exec(ctx, `INSERT INTO bus.saga_def (def, ver, owner, body, contracts, undos) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (def, ver) DO UPDATE SET owner = excluded.owner, body = excluded.body, contracts = excluded.contracts, undos = excluded.undos`,
			def, d.GetVersion(), r.Role, body, contracts, undos)
		if err != nil {
			return fmt.Errorf("saga %s: %w", def, err)
		}
	}
	return nil
}

func (r *Registration) unchanged(ctx context.Context, tx pgx.Tx, def string, d *pluginv1.SagaDefinition) error {
	var stored []byte
	var used bool
	err := tx.QueryRow(ctx, `SELECT d.body, EXISTS (SELECT 1 FROM bus.saga s WHERE s.def = d.def AND s.ver = d.ver)
		FROM bus.saga_def d WHERE d.def = $1 AND d.ver = $2 FOR UPDATE`, def, d.GetVersion()).Scan(&stored, &used)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	was := &pluginv1.SagaDefinition{}
	if err := proto.Unmarshal(stored, was); err != nil {
		return fmt.Errorf("saga %s: the stored definition: %w", def, err)
	}
	if used && !proto.Equal(was, d) {
		return fmt.Errorf("saga %s@%d differs from what sagas were started with; give it version %d", def, d.GetVersion(), d.GetVersion()+1)
	}
	return nil
}

package saga

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// definition is a saga as its plugin declared it. It never changes.
type definition struct {
	name  string // "<plugin>/<name>"
	owner string // the plugin
	steps []*pluginv1.SagaStep
}

// step is step n, counted from 1.
func (d *definition) step(n int) *pluginv1.SagaStep { return d.steps[n-1] }

func (d *definition) stepName(n int) string {
	if n < 1 || n > len(d.steps) {
		return ""
	}
	return d.step(n).GetName()
}

func attempts(s *pluginv1.SagaStep) int {
	if s.GetMaxAttempts() > 0 {
		return int(s.GetMaxAttempts())
	}
	return 12
}

func timeout(s *pluginv1.SagaStep, otherwise time.Duration) time.Duration {
	if s.GetTimeoutSeconds() > 0 {
		return time.Duration(s.GetTimeoutSeconds()) * time.Second
	}
	return otherwise
}

// contractOf is the proto package of "/package.Service/Method".
func contractOf(method string) string {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if i := strings.LastIndexByte(service, '.'); i > 0 {
		return service[:i]
	}
	return ""
}

// definitions are the definitions that were needed so far. A version that a
// saga was started with does not change (bus.Register sees to that), so what
// is known stays true.
type definitions struct {
	pool  *pgxpool.Pool
	mu    sync.Mutex
	known map[string]*definition
	// modules are contracts that a module serves: it records its steps itself.
	modules sync.Map
}

// maxDefinitions bounds the memory; beyond it everything is forgotten.
const maxDefinitions = 1000

func (s *definitions) get(ctx context.Context, name string, ver int32) (*definition, error) {
	id := fmt.Sprintf("%s@%d", name, ver)
	s.mu.Lock()
	d := s.known[id]
	s.mu.Unlock()
	if d != nil {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	var body []byte
	var modules []string
	err := s.pool.QueryRow(ctx, `SELECT body, ARRAY(SELECT contract FROM bus.serves WHERE contract = ANY (contracts || undos))
		FROM bus.saga_def WHERE def = $1 AND ver = $2`, name, ver).Scan(&body, &modules)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("saga definition %s: %w", id, err)
	}
	def := &pluginv1.SagaDefinition{}
	if err := proto.Unmarshal(body, def); err != nil {
		return nil, fmt.Errorf("saga definition %s: %w", id, err)
	}
	owner, _, _ := strings.Cut(name, "/")
	d = &definition{name: name, owner: owner, steps: def.GetSteps()}
	for _, c := range modules {
		s.modules.Store(c, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxDefinitions {
		clear(s.known)
	}
	s.known[id] = d
	return d, nil
}

// byModule tells whether a module serves a contract, as far as known.
func (s *definitions) byModule(contract string) bool {
	_, ok := s.modules.Load(contract)
	return ok
}

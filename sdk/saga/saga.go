// Package saga declares sagas: money and goods move across processes by lists
// of steps, each one transaction of the module that serves it, undone
// backwards when a later one is refused. The kernel runs them; a module
// declares them as data and starts them inside its own transactions.
package saga

import (
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Kind is what may be done about a step.
type Kind = pluginv1.SagaStep_Kind

// The kinds of step.
const (
	// Compensatable steps are undone when a later one is refused.
	Compensatable = pluginv1.SagaStep_KIND_COMPENSATABLE
	// Pivot: once it is done the saga only goes forward.
	Pivot = pluginv1.SagaStep_KIND_PIVOT
	// Retriable steps are repeated until they succeed.
	Retriable = pluginv1.SagaStep_KIND_RETRIABLE
)

// Step is one step of a saga. Do and Undo are procedures as generated code
// names them, for example
// warehousev1connect.StockServiceReserveStockProcedure.
type Step struct {
	Name string
	// Do is called with the request given under Name. Empty: the transaction
	// that starts the saga has done it, and there is only something to undo.
	Do string
	// Undo is called with the request given under Name+".undo", or with the
	// step's own. Empty: there is nothing to undo.
	Undo string
	// Kind defaults to Compensatable.
	Kind Kind
	// TimeoutSeconds bounds one attempt; 0 means 10.
	TimeoutSeconds int32
	// MaxAttempts bounds attempts whose outcome is not known; 0 means 12.
	MaxAttempts int32
	// WaitSignal makes the step wait for store.Tx.Signal of that name.
	WaitSignal string
	// WaitSeconds bounds the wait for the signal, or pauses without one.
	WaitSeconds int32
}

// Definition is a declared saga.
type Definition struct {
	def *pluginv1.SagaDefinition
}

// Define declares a saga. It panics on a definition that could never run: it
// is called at the start of a program with constants.
func Define(name string, version int32, steps ...Step) *Definition {
	def := &pluginv1.SagaDefinition{Name: name, Version: version}
	seen := make(map[string]bool, len(steps))
	for _, s := range steps {
		if s.Kind == pluginv1.SagaStep_KIND_UNSPECIFIED {
			s.Kind = Compensatable
		}
		if s.Name == "" || seen[s.Name] {
			panic(fmt.Sprintf("saga %s: step name %q is empty or stands twice", name, s.Name))
		}
		if s.Do == "" && s.Undo == "" {
			panic(fmt.Sprintf("saga %s: step %s does nothing and undoes nothing", name, s.Name))
		}
		seen[s.Name] = true
		def.Steps = append(def.Steps, &pluginv1.SagaStep{
			Name: s.Name, Method: s.Do, Compensation: s.Undo, Kind: s.Kind, TimeoutSeconds: s.TimeoutSeconds,
			MaxAttempts: s.MaxAttempts, WaitSignal: s.WaitSignal, WaitSeconds: s.WaitSeconds,
		})
	}
	if len(steps) == 0 {
		panic(fmt.Sprintf("saga %s has no steps", name))
	}
	return &Definition{def: def}
}

// Proto returns the definition as it is described to the kernel. The caller
// does not change it.
func (d *Definition) Proto() *pluginv1.SagaDefinition { return d.def }

// Requests are the requests of a saga's steps by step name, "<name>.undo" for
// a compensation that takes another than its step.
type Requests map[string]proto.Message

// Started is a saga that a transaction started. After the commit it is given
// to host.Host.RunSaga.
type Started struct {
	// ID is the saga's UUID. When (definition, key) had been started before,
	// it is that saga's from the commit on.
	ID string
	// Definition is "<plugin>/<name>".
	Definition string
	Version    int32
	Key        string
	Input      *kernelv1.SagaInput
	// Existing tells after the commit that the saga had been started before.
	Existing bool
}

// Start prepares the start of a saga of a plugin. market is the country whose
// bindings its steps use.
func Start(plugin string, d *Definition, key, market string, requests Requests) (*Started, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("saga id: %w", err)
	}
	in := &kernelv1.SagaInput{Market: market, Requests: make(map[string][]byte, len(requests))}
	for name, m := range requests {
		if in.Requests[name], err = proto.Marshal(m); err != nil {
			return nil, fmt.Errorf("saga %s: request of step %s: %w", d.def.GetName(), name, err)
		}
	}
	return &Started{ID: id.String(), Definition: plugin + "/" + d.def.GetName(), Version: d.def.GetVersion(), Key: key, Input: in}, nil
}

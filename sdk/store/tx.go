package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/saga"
)

// maxEvents is what one transaction may publish: each key holds a lock in
// shared memory until the commit.
const maxEvents = 500

// Tx is one transaction of a module. Business rows are written at once; what
// goes to the kernel's schemas is kept and sent as one statement before the
// commit, so that the locks of published keys are held shortly. It belongs to
// one goroutine and ends with DB.Run.
type Tx struct {
	bun.Tx
	db     *DB
	events []Event
	sagas  []*saga.Started
	sealed []*kernelv1.SealResponse
	// calls are further function calls of the last statement.
	calls []string
	args  []any
	// unattended: nobody waits for the end of what the transaction starts.
	unattended bool
}

// Event is a message as the bus takes it.
type Event struct {
	Topic, Key string
	Payload    []byte
}

// Publish puts events on the bus with this transaction: the topic is the
// message's full name, the key the field named by its event option. Events
// carry references and facts, never personal data.
func (tx *Tx) Publish(events ...proto.Message) error {
	if len(tx.events)+len(events) > maxEvents {
		return fmt.Errorf("store: more than %d events in one transaction", maxEvents)
	}
	for _, m := range events {
		o, err := Encode(m)
		if err != nil {
			return err
		}
		tx.events = append(tx.events, o)
	}
	return nil
}

// Encode makes the event of a message and refuses what is no event.
func Encode(m proto.Message) (Event, error) {
	r := m.ProtoReflect()
	name := r.Descriptor().FullName()
	opt, _ := proto.GetExtension(r.Descriptor().Options(), optionsv1.E_Event).(*optionsv1.Event)
	field := r.Descriptor().Fields().ByName(protoreflect.Name(opt.GetKey()))
	if field == nil || field.Kind() != protoreflect.StringKind {
		return Event{}, fmt.Errorf("store: %s is no event: it has no option entrepot.options.v1.event with a string key", name)
	}
	key := r.Get(field).String()
	if key == "" {
		return Event{}, fmt.Errorf("store: event %s has an empty key %s", name, field.Name())
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return Event{}, fmt.Errorf("store: event %s: %w", name, err)
	}
	return Event{Topic: string(name), Key: key, Payload: b}, nil
}

// StartSaga starts a saga with this transaction. Starting the same
// (definition, key) again finds the one that is there. After the commit hand
// the answer to host.Host.RunSaga or LaunchSaga, or leave it: a kernel node
// takes it up within 15 seconds. One that an event's handler starts is taken up
// within a second.
func (tx *Tx) StartSaga(ctx context.Context, d *saga.Definition, key string, requests saga.Requests) (*saga.Started, error) {
	s, err := saga.Start(tx.db.plugin, d, key, call.From(ctx).Market, requests)
	if err != nil {
		return nil, err
	}
	tx.sagas = append(tx.sagas, s)
	return s, nil
}

// Signal gives a saga that this module started what it waits for, or the
// request of a later step under that step's name. A name is taken once.
func (tx *Tx) Signal(sagaID, name string, payload proto.Message) error {
	b, err := proto.Marshal(payload)
	if err != nil {
		return fmt.Errorf("store: signal %s: %w", name, err)
	}
	tx.later("bus.saga_signal(%s::uuid, %s, %s)", sagaID, name, b)
	return nil
}

// SetTimer asks for an event at a time. The same id moves it.
func (tx *Tx) SetTimer(id string, due time.Time, event proto.Message) error {
	o, err := Encode(event)
	if err != nil {
		return err
	}
	tx.later("bus.timer_set(%s, %s, %s, %s, %s)", id, o.Topic, o.Key, o.Payload, due)
	return nil
}

// CancelTimer takes a timer back. One that has fired stays fired.
func (tx *Tx) CancelTimer(id string) {
	tx.later("bus.timer_cancel(%s)", id)
}

// Keep stores what the vault sealed, so that the references and the rows that
// hold them are one commit.
func (tx *Tx) Keep(sealed *kernelv1.SealResponse) {
	tx.sealed = append(tx.sealed, sealed)
}

// casts are the parameter types of the functions, so that PostgreSQL need not
// guess them.
func cast(v any) string {
	switch v.(type) {
	case []string:
		return "::text[]"
	case [][]byte:
		return "::bytea[]"
	case []byte:
		return "::bytea"
	case int16:
		return "::int2"
	case int32:
		return "::int4"
	case int64:
		return "::int8"
	case bool:
		return "::bool"
	case time.Time:
		return "::timestamptz"
	case *string, string:
		return "::text"
	default:
		return ""
	}
}

// later adds one function call to the last statement.
func (tx *Tx) later(format string, args ...any) {
	marks := make([]any, len(args))
	for i, a := range args {
		tx.args = append(tx.args, a)
		marks[i] = "$" + strconv.Itoa(len(tx.args)) + cast(a)
	}
	text := fmt.Sprintf(format, marks...)
	// UUIDs travel as text.
	text = strings.ReplaceAll(text, "::text::uuid", "::uuid")
	tx.calls = append(tx.calls, text)
}

// flush sends everything that goes to the kernel's schemas as one SELECT.
// PostgreSQL evaluates its columns from left to right: vault records and
// sagas first, then events, the step's record last.
func (tx *Tx) flush(ctx context.Context) error {
	for _, s := range tx.sealed {
		refs, kinds, texts := make([]string, len(s.GetItems())), make([]string, len(s.GetItems())), make([][]byte, len(s.GetItems()))
		for i, it := range s.GetItems() {
			refs[i], kinds[i], texts[i] = it.GetRef(), it.GetKind(), it.GetCiphertext()
		}
		wrapped := s.GetWrappedKey()
		if wrapped == nil {
			wrapped = []byte{}
		}
		tx.later("vault.store(%s, nullif(%s, ''::bytea), %s, %s, %s)", s.GetSubjectId(), wrapped, refs, kinds, texts)
	}
	ids := make([]string, 0, len(tx.sagas))
	for _, s := range tx.sagas {
		in, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Input)
		if err != nil {
			return fmt.Errorf("saga input: %w", err)
		}
		node := tx.db.node
		if tx.unattended {
			node = ""
		}
		tx.later("bus.saga_start(%s::uuid, %s, %s, %s, %s, %s)::text", s.ID, s.Definition, s.Version, s.Key, in, node)
		ids = append(ids, tx.calls[len(tx.calls)-1])
	}
	if len(tx.events) > 0 {
		topics, keys, payloads := make([]string, len(tx.events)), make([]string, len(tx.events)), make([][]byte, len(tx.events))
		for i, e := range tx.events {
			topics[i], keys[i], payloads[i] = e.Topic, e.Key, e.Payload
		}
		tx.later("bus.publish(%s, %s, %s, nullif(%s, ''))", topics, keys, payloads, call.From(ctx).Traceparent)
	}
	if step, ok := ctx.Value(stepKey{}).(*stepRecord); ok && step.result != nil {
		tx.later("bus.step_end(%s::uuid, %s, %s, %s, %s, %s)",
			step.Saga, int16(step.N), step.dir(), int16(step.status), step.result, step.Last)
	}
	if len(tx.calls) == 0 {
		return nil
	}
	dest := make([]any, len(tx.calls))
	for i := range dest {
		dest[i] = new(any)
	}
	if err := tx.Row(ctx, "SELECT "+strings.Join(tx.calls, ", "), tx.args...).Scan(dest...); err != nil {
		return err
	}
	return tx.started(ids, dest)
}

// started reads back which saga each start found.
func (tx *Tx) started(ids []string, dest []any) error {
	at := 0
	for i, c := range tx.calls {
		if at == len(ids) || c != ids[at] {
			continue
		}
		id, ok := (*dest[i].(*any)).(string)
		if !ok {
			return fmt.Errorf("store: saga_start answered %T", *dest[i].(*any))
		}
		s := tx.sagas[at]
		s.Existing, s.ID = id != s.ID, id
		at++
	}
	return nil
}

// published tells the kernel, on the answer that is under way to it, how many
// events were committed, so that it delivers at once and not at its next poll.
func published(ctx context.Context, events int) {
	if events == 0 {
		return
	}
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		n, _ := strconv.Atoi(info.ResponseHeader().Get(call.HeaderEvents))
		info.ResponseHeader().Set(call.HeaderEvents, strconv.Itoa(n+events))
	}
}

package store

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

type stepKey struct{}

// stepRecord is a saga step inside its transaction; flush writes its record.
type stepRecord struct {
	call.Step
	status int
	result []byte // nil until the step has its answer
}

func (s *stepRecord) dir() int16 {
	if s.Undo {
		return 1
	}
	return 0
}

// begun is what step_begin found.
type begun struct {
	done   bool
	status int16
	result []byte
	// did is, with an undo, the status of the step itself.
	did int16
}

func (tx *Tx) stepBegin(ctx context.Context, s *stepRecord) (b begun, err error) {
	var did *int16
	err = tx.Row(ctx, "SELECT b.done, b.status, b.res, b.did FROM bus.step_begin($1, $2, $3, $4) b",
		s.Saga, int16(s.N), s.dir(), s.Epoch).Scan(&b.done, &b.status, &b.result, &did)
	if did != nil {
		b.did = *did
	}
	return b, err
}

// step runs fn as one saga step: its effect and its record are one commit, a
// repetition gets the stored answer, and a refusal is recorded as one.
func step[Res proto.Message](ctx context.Context, db *DB, st call.Step, fn func(context.Context, *Tx) (Res, error)) (Res, error) {
	res := empty[Res]()
	rec := &stepRecord{Step: st}
	ctx = context.WithValue(ctx, stepKey{}, rec)
	var stored error
	err := db.Run(ctx, func(ctx context.Context, tx *Tx) error {
		rec.result, stored = nil, nil
		b, err := tx.stepBegin(ctx, rec)
		if err != nil {
			return err
		}
		switch {
		case b.done:
			stored = recall(b, res)
			return nil
		case st.Undo && b.did == busdb.StepRefused:
			// It never happened: the tombstone is set, there is nothing to undo.
		default:
			if res, err = fn(ctx, tx); err != nil {
				return err
			}
		}
		return rec.done(res)
	})
	switch {
	case err == nil && stored == nil:
		recorded(ctx, call.RecordedDone)
		return res, nil
	case err == nil:
		recorded(ctx, call.RecordedRefused)
		return empty[Res](), stored
	case st.Undo || !IsRefusal(err):
		return empty[Res](), err
	}
	return empty[Res](), refuse(ctx, db, rec, err)
}

// refuse records a refusal in a transaction of its own: the step's work was
// rolled back.
func refuse(ctx context.Context, db *DB, rec *stepRecord, refusal error) error {
	st, err := proto.Marshal(fault.Status(refusal))
	if err != nil {
		return err
	}
	err = db.Run(ctx, func(ctx context.Context, tx *Tx) error {
		rec.result = nil
		b, err := tx.stepBegin(ctx, rec)
		if err != nil || b.done {
			return err
		}
		rec.status, rec.result = busdb.StepRefused, st
		return nil
	})
	if err != nil {
		return err
	}
	recorded(ctx, call.RecordedRefused)
	return refusal
}

func (s *stepRecord) done(res proto.Message) error {
	b, err := proto.Marshal(res)
	if err != nil {
		return fmt.Errorf("answer of the step: %w", err)
	}
	if b == nil {
		b = []byte{}
	}
	s.status, s.result = busdb.StepDone, b
	return nil
}

// recall gives a step's stored answer, or the refusal it recorded.
func recall(b begun, into proto.Message) error {
	if b.status == busdb.StepDone {
		if err := proto.Unmarshal(b.result, into); err != nil {
			return fmt.Errorf("stored answer of the step: %w", err)
		}
		return nil
	}
	st := &spb.Status{}
	if len(b.result) == 0 {
		// A tombstone: the step was undone before it was done.
		return fault.New(connect.CodeFailedPrecondition, fault.ReasonUndone, "this step was undone before it was done")
	}
	if err := proto.Unmarshal(b.result, st); err != nil {
		return fmt.Errorf("stored refusal of the step: %w", err)
	}
	return fault.FromStatus(st)
}

// IsRefusal tells whether an error is a business "no" that a saga step ends
// with: an authored error with one of the codes that repeating cannot change.
func IsRefusal(err error) bool {
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.IsRemote() {
		return false
	}
	switch ce.Code() {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeFailedPrecondition, connect.CodeOutOfRange:
		return true
	}
	return false
}

func recorded(ctx context.Context, how string) {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		info.ResponseHeader().Set(call.HeaderRecorded, how)
	}
}

func empty[M proto.Message]() M {
	var zero M
	return zero.ProtoReflect().New().Interface().(M)
}

// StepOf returns the saga step a call is made for, and false outside of one.
func StepOf(ctx context.Context) (call.Step, bool) {
	if s := call.From(ctx).Step; s != nil {
		return *s, true
	}
	return call.Step{}, false
}

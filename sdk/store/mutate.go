package store

import (
	"context"
	"crypto/sha256"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Mutate runs the effect of a mutating method exactly once, however often the
// call is repeated:
//   - called by a saga, the effect and the step's record are one commit;
//   - a method with a natural key (option entrepot.options.v1.idempotency)
//     finds what the request names, fn sees to that;
//   - any other method needs the header Idempotency-Key: the same key and
//     request get the stored answer, the same key with another request is
//     already_exists, one still running is aborted with a retry hint.
//
// fn may run more than once, in a transaction of its own each time.
func Mutate[Res proto.Message](ctx context.Context, db *DB, req proto.Message, fn func(ctx context.Context, tx *Tx) (Res, error)) (Res, error) {
	if st, ok := StepOf(ctx); ok {
		return step(ctx, db, st, fn)
	}
	spec, natural := method(ctx)
	if natural {
		res := empty[Res]()
		err := db.Run(ctx, func(ctx context.Context, tx *Tx) (err error) {
			res, err = fn(ctx, tx)
			return err
		})
		if err != nil {
			return empty[Res](), err
		}
		return res, nil
	}
	return keyed(ctx, db, spec, req, fn)
}

type specKey struct{}

// WithMethod records the method that a call is for; the SDK's server does it.
func WithMethod(ctx context.Context, spec connect.Spec) context.Context {
	return context.WithValue(ctx, specKey{}, spec)
}

// method tells the procedure of the call and whether it has a natural key.
func method(ctx context.Context) (procedure string, natural bool) {
	spec, ok := ctx.Value(specKey{}).(connect.Spec)
	if !ok {
		return "", true // outside a call: the program's own work
	}
	md, ok := spec.Schema.(protoreflect.MethodDescriptor)
	return spec.Procedure, ok && proto.HasExtension(md.Options(), optionsv1.E_Idempotency)
}

// Idempotency is the schema of stored answers; the SDK puts it before a
// module's own migrations.
const Idempotency = `CREATE TABLE idempotency (
  scope       text NOT NULL,               -- "<procedure> <principal>"
  key         text NOT NULL,
  fingerprint bytea NOT NULL,              -- SHA-256 of the request
  answer      bytea NOT NULL,
  at          timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (scope, key));
CREATE INDEX idempotency_at ON idempotency (at);`

const (
	// One statement takes the lock and looks: no answer with the lock means
	// the work is ours, without it that somebody else is at it.
	lookUp = `SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended($1 || ' ' || $2, 7203)),
  (SELECT i.fingerprint FROM idempotency i WHERE i.scope = $1 AND i.key = $2),
  (SELECT i.answer FROM idempotency i WHERE i.scope = $1 AND i.key = $2)`
	keep = `INSERT INTO idempotency (scope, key, fingerprint, answer) VALUES ($1, $2, $3, $4)`
)

func keyed[Res proto.Message](ctx context.Context, db *DB, procedure string, req proto.Message, fn func(context.Context, *Tx) (Res, error)) (Res, error) {
	res := empty[Res]()
	info := call.From(ctx)
	if info.IdempotencyKey == "" {
		return res, fault.New(connect.CodeInvalidArgument, fault.ReasonIdempotencyKeyRequired,
			"this method needs the header Idempotency-Key: a text of your own that is the same when you repeat the call")
	}
	if len(info.IdempotencyKey) > 255 {
		return res, fault.Field(call.HeaderIdempotencyKey, "at most 255 characters")
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return res, err
	}
	print := sha256.Sum256(b)
	scope := procedure + " " + info.Principal.String()
	err = db.Run(ctx, func(ctx context.Context, tx *Tx) error {
		var mine bool
		var fingerprint, answer []byte
		if err := tx.Row(ctx, lookUp, scope, info.IdempotencyKey).Scan(&mine, &fingerprint, &answer); err != nil {
			return err
		}
		switch {
		case fingerprint != nil && string(fingerprint) != string(print[:]):
			return fault.New(connect.CodeAlreadyExists, fault.ReasonIdempotencyKeyReused,
				"this Idempotency-Key was used for another request; take a new one")
		case fingerprint != nil:
			return proto.Unmarshal(answer, res)
		case !mine:
			return fault.Retry(fault.New(connect.CodeAborted, fault.ReasonInProgress,
				"a call with this Idempotency-Key is under way"), 200*time.Millisecond)
		}
		r, err := fn(ctx, tx)
		if err != nil {
			return err
		}
		res = r
		stored, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		if stored == nil {
			stored = []byte{}
		}
		_, err = tx.Do(ctx, keep, scope, info.IdempotencyKey, print[:], stored)
		return err
	})
	if err != nil {
		return empty[Res](), err
	}
	return res, nil
}

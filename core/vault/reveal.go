package vault

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/sdk/call"
)

// Kernel is the name under which the kernel's own reveals are recorded.
const Kernel = "kernel"

// Revealed is one record in the clear.
type Revealed struct {
	Ref string
	// Kind and Plaintext are empty for an unknown ref; Plaintext also for an
	// erased one.
	Kind      string
	Plaintext []byte
	// Erased tells that the subject's key was destroyed.
	Erased bool
}

// RevealInternal decrypts for the kernel itself, in the order of the refs.
// The reveal is recorded like any other.
func (v *Vault) RevealInternal(ctx context.Context, purpose string, refs ...string) ([]Revealed, error) {
	return v.reveal(ctx, Kernel, purpose, refs)
}

// revealSQL reads the records with their subjects' keys and records the
// reveal, in one statement: none is read without its trace.
const revealSQL = `
WITH asked AS (
  SELECT u.n, r.ref, r.subject_id, r.kind, r.ciphertext, s.wrapped_key
    FROM unnest($1::text[]) WITH ORDINALITY u(ref, n)
    JOIN vault.record r ON r.ref = u.ref
    JOIN vault.subject s ON s.id = r.subject_id),
trace AS (
  INSERT INTO vault.reveal (plugin, purpose, principal, ref, request_id)
  SELECT $2, $3, $4, ref, $5 FROM asked)
SELECT n, subject_id, kind, ciphertext, wrapped_key FROM asked`

func (v *Vault) reveal(ctx context.Context, plugin, purpose string, refs []string) ([]Revealed, error) {
	out := make([]Revealed, len(refs))
	for i, ref := range refs {
		out[i].Ref = ref
	}
	info := call.From(ctx)
	rows, err := v.pool.Query(ctx, revealSQL, refs, plugin, purpose, info.Principal.String(), info.RequestID)
	if err != nil {
		return nil, fmt.Errorf("vault: reveal: %w", err)
	}
	var n int64
	var subject, kind string
	var text, wrapped []byte
	_, err = pgx.ForEachRow(rows, []any{&n, &subject, &kind, &text, &wrapped}, func() error {
		r := &out[n-1]
		r.Kind, r.Erased = kind, wrapped == nil
		if r.Erased {
			return nil
		}
		key, err := v.keys.unwrap(subject, wrapped)
		if err != nil {
			return err
		}
		if r.Plaintext, err = key.Decrypt(text, recordContext(r.Ref, subject, kind)); err != nil {
			return fmt.Errorf("%s: %w", r.Ref, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("vault: reveal: %w", err)
	}
	return out, nil
}

// Erase destroys a subject's key: everything sealed for it is lost for ever,
// in the database at once and in a backup as soon as the backup's keys are
// gone. It answers false when there was no key to destroy.
func (v *Vault) Erase(ctx context.Context, subject string) (bool, error) {
	tag, err := v.pool.Exec(ctx, `
		UPDATE vault.subject SET wrapped_key = NULL, erased_at = now() WHERE id = $1 AND erased_at IS NULL`, subject)
	if err != nil {
		return false, fmt.Errorf("vault: erase: %w", err)
	}
	v.keys.memory.forget(subject)
	return tag.RowsAffected() == 1, nil
}

// ForgetTx removes subjects and their records without a trace, in the
// transaction: for those that nothing refers to, such as a registration that
// was never confirmed.
func (v *Vault) ForgetTx(ctx context.Context, tx pgx.Tx, subjects ...string) error {
	if len(subjects) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `DELETE FROM vault.record WHERE subject_id = ANY ($1)`, subjects)
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM vault.subject WHERE id = ANY ($1)`, subjects)
	}
	if err != nil {
		return fmt.Errorf("vault: forget: %w", err)
	}
	for _, subject := range subjects {
		v.keys.memory.forget(subject)
	}
	return nil
}

package vault

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/tink"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// Reasons of the vault's refusals.
const (
	ReasonSubjectUnknown = "SUBJECT_UNKNOWN"
	ReasonSubjectErased  = "SUBJECT_ERASED"
	ReasonPurposeMissing = "PURPOSE_MISSING"
)

// Item is one thing to know of a person.
type Item struct {
	// Kind is what it is, "address", "email": lower case, digits, underscore.
	Kind string
	// Plaintext, at most 16 KiB.
	Plaintext []byte
}

// SealTx encrypts items for a subject and stores them in the transaction. An
// empty subject makes a new one. Refs come in the order of the items.
func (v *Vault) SealTx(ctx context.Context, tx pgx.Tx, subject string, items ...Item) (string, []string, error) {
	in := make([]*kernelv1.SealItem, len(items))
	for i, item := range items {
		in[i] = &kernelv1.SealItem{Kind: item.Kind, Plaintext: item.Plaintext}
	}
	sealed, err := v.seal(ctx, tx, subject, in)
	if err != nil {
		return "", nil, err
	}
	refs, kinds, texts := make([]string, len(items)), make([]string, len(items)), make([][]byte, len(items))
	for i, item := range sealed.GetItems() {
		refs[i], kinds[i], texts[i] = item.GetRef(), item.GetKind(), item.GetCiphertext()
	}
	if _, err := tx.Exec(ctx, `SELECT vault.store($1, $2, $3, $4, $5)`, sealed.GetSubjectId(), sealed.GetWrappedKey(), refs, kinds, texts); err != nil {
		return "", nil, fmt.Errorf("vault: store: %w", err)
	}
	return sealed.GetSubjectId(), refs, nil
}

// seal encrypts and stores nothing.
func (v *Vault) seal(ctx context.Context, q Querier, subject string, items []*kernelv1.SealItem) (*kernelv1.SealResponse, error) {
	out := &kernelv1.SealResponse{SubjectId: subject, Items: make([]*kernelv1.SealedItem, len(items))}
	var key tink.AEAD
	var err error
	if subject == "" {
		out.SubjectId = id.New("sub")
		// The key is not remembered: the subject exists only when the caller
		// commits.
		key, out.WrappedKey, err = v.keys.generate(out.SubjectId)
	} else {
		key, err = v.key(ctx, q, subject)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: seal: %w", err)
	}
	for i, item := range items {
		ref := id.New("vlt")
		text, err := key.Encrypt(item.GetPlaintext(), recordContext(ref, out.SubjectId, item.GetKind()))
		if err != nil {
			return nil, fmt.Errorf("vault: seal: %w", err)
		}
		out.Items[i] = &kernelv1.SealedItem{Ref: ref, Kind: item.GetKind(), Ciphertext: text}
	}
	return out, nil
}

// key finds a known subject's key, in memory first. Memory may outlive an
// erasure that another node made: vault.store refuses such a subject, and
// Reveal reads the database.
func (v *Vault) key(ctx context.Context, q Querier, subject string) (tink.AEAD, error) {
	if key, ok := v.keys.memory.get(subject); ok {
		return key, nil
	}
	var wrapped []byte
	err := q.QueryRow(ctx, `SELECT wrapped_key FROM vault.subject WHERE id = $1`, subject).Scan(&wrapped)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fault.New(connect.CodeNotFound, ReasonSubjectUnknown, "no such subject", "subject", subject)
	case err != nil:
		return nil, fmt.Errorf("read key of %s: %w", subject, err)
	case wrapped == nil:
		return nil, fault.New(connect.CodeFailedPrecondition, ReasonSubjectErased, "the subject is erased", "subject", subject)
	}
	return v.keys.unwrap(subject, wrapped)
}

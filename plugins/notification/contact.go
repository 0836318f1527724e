package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	netmail "net/mail"
	"time"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// codeLife and codeTries bound a code's use; a code has 10^8 values.
	codeLife  = 24 * time.Hour
	codeTries = 5
	// askAgain and asksPerDay bound the mails that an account can have sent to
	// an address that nobody vouches for.
	askAgain   = time.Minute
	asksPerDay = 5
	// legalAgain is how long mails that were owed and had no address are worth
	// sending when there is one.
	legalAgain = 14 * 24 * time.Hour
)

func hashCode(account, code string) []byte {
	h := sha256.Sum256([]byte(account + "\x00" + code))
	return h[:]
}

// PutContact seals an address, and mails it a code.
func (s *service) PutContact(ctx context.Context, req *notificationv1.PutContactRequest) (*notificationv1.PutContactResponse, error) {
	if a, err := netmail.ParseAddress(req.GetEmail()); err != nil || a.Address != req.GetEmail() {
		return nil, fault.Field("email", "is no mail address")
	}
	n, err := rand.Int(rand.Reader, big.NewInt(100_000_000))
	if err != nil {
		return nil, err
	}
	code := fmt.Sprintf("%08d", n)
	p := call.From(ctx).Principal
	sealed, err := s.host.Vault.Seal(ctx, &kernelv1.SealRequest{SubjectId: p.Subject, Items: []*kernelv1.SealItem{
		{Kind: "email", Plaintext: []byte(req.GetEmail())}, {Kind: "code", Plaintext: []byte(code)},
	}})
	if err != nil {
		return nil, err
	}
	if len(sealed.GetItems()) != 2 {
		return nil, errors.New("the vault sealed another number of items")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.PutContactResponse, error) {
		if err := touch(ctx, tx, p); err != nil {
			return nil, err
		}
		var wait float64
		var today int
		if err := tx.Row(ctx, `SELECT extract(epoch FROM asked_at + $2 * interval '1 microsecond' - now()), CASE WHEN asked_at::date = now()::date THEN asked_today ELSE 0 END
			FROM account WHERE id = $1`, p.Account, askAgain.Microseconds()).Scan(&wait, &today); err != nil {
			return nil, err
		}
		pause := time.Duration(max(wait, 0) * float64(time.Second))
		if today >= asksPerDay {
			pause = time.Hour
		}
		if pause > 0 {
			return nil, fault.Retry(fault.New(connect.CodeResourceExhausted, "CONTACT_TOO_OFTEN", "a code was mailed a moment ago, or too many today"), pause)
		}
		tx.Keep(sealed)
		email, codeRef := sealed.GetItems()[0].GetRef(), sealed.GetItems()[1].GetRef()
		if _, err := tx.Do(ctx, `UPDATE account SET email_ref = $2, contact = 1, confirmed_at = NULL, code_hash = $3, code_until = now() + $4 * interval '1 microsecond',
			code_tries = 0, asked_at = now(), asked_today = $5 WHERE id = $1`, p.Account, email, hashCode(p.Account, code), codeLife.Microseconds(), today+1); err != nil {
			return nil, err
		}
		return &notificationv1.PutContactResponse{Contact: contactProto(p.Account, 1, nil)}, s.file(ctx, tx, []*news{{
			Source: "contact.confirm/" + id.New("ask"), Topic: "contact.confirm", Account: p.Account, EmailRef: email, Market: call.From(ctx).Market,
			Sealed: map[string]string{"code": codeRef}, At: time.Now(), Facts: facts{},
		}})
	})
}

// ConfirmContact takes the code. What was owed and had nowhere to go is sent.
func (s *service) ConfirmContact(ctx context.Context, req *notificationv1.ConfirmContactRequest) (*notificationv1.ConfirmContactResponse, error) {
	p := call.From(ctx).Principal
	var refusal error
	res, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.ConfirmContactResponse, error) {
		refusal = nil
		var state, tries int32
		var hash []byte
		var good bool
		var ref string
		var confirmed *time.Time
		err := tx.Row(ctx, `SELECT contact, code_tries, code_hash, code_until > now(), email_ref, confirmed_at FROM account WHERE id = $1 FOR UPDATE`, p.Account).
			Scan(&state, &tries, &hash, &good, &ref, &confirmed)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		right := err == nil && subtle.ConstantTimeCompare(hash, hashCode(p.Account, req.GetCode())) == 1
		switch {
		case state == 2 && right:
			return &notificationv1.ConfirmContactResponse{Contact: contactProto(p.Account, state, confirmed)}, nil // confirmed before, with this code
		case err != nil || !good || tries >= codeTries || state != 1:
			return nil, fault.New(connect.CodeFailedPrecondition, "CODE_EXPIRED", "no code is waited for, or it is too old; put the address again")
		case !right:
			// The try counts, so the transaction has to succeed.
			refusal = fault.New(connect.CodeFailedPrecondition, "CODE_WRONG", "this is not the code that was mailed")
			_, err := tx.Do(ctx, `UPDATE account SET code_tries = code_tries + 1 WHERE id = $1`, p.Account)
			return &notificationv1.ConfirmContactResponse{}, err
		}
		var now time.Time
		if err := tx.Row(ctx, `WITH d AS (UPDATE delivery d SET state = 1, code = '', address_ref = $2, due_at = now(), since = now(), ended_at = NULL FROM notification n
				WHERE n.id = d.notification_id AND d.recipient = $1 AND d.channel = 2 AND d.state = 5 AND d.code = 'NO_ADDRESS' AND n.category = 1
				  AND d.created_at > now() - $3 * interval '1 microsecond')
			UPDATE account SET contact = 2, confirmed_at = now() WHERE id = $1 RETURNING confirmed_at`, p.Account, ref, legalAgain.Microseconds()).Scan(&now); err != nil {
			return nil, err
		}
		return &notificationv1.ConfirmContactResponse{Contact: contactProto(p.Account, 2, &now)}, nil
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return nil, err
	}
	s.poke()
	return res, nil
}

// RemoveContact forgets where an account is written to.
func (s *service) RemoveContact(ctx context.Context, req *notificationv1.RemoveContactRequest) (*notificationv1.RemoveContactResponse, error) {
	p := call.From(ctx).Principal
	account := req.GetAccountId()
	if account == "" {
		account = p.Account
	}
	if account != p.Account && (p.Kind != call.Merchant || !p.May("notification.write")) {
		return nil, fault.New(connect.CodePermissionDenied, "PERMISSION_MISSING", "to end another member's mails takes notification.write")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.RemoveContactResponse, error) {
		_, err := tx.Do(ctx, `UPDATE account SET email_ref = '', contact = 0, confirmed_at = NULL, code_hash = '', code_until = '-infinity'
			WHERE id = $1 AND (id = $2 OR merchant = $3 AND merchant <> '')`, account, p.Account, p.Merchant)
		return &notificationv1.RemoveContactResponse{}, err
	})
}

// ListContacts tells who of a merchant is written to.
func (s *service) ListContacts(ctx context.Context, _ *notificationv1.ListContactsRequest) (*notificationv1.ListContactsResponse, error) {
	res := &notificationv1.ListContactsResponse{}
	rows, err := s.db.Rows(ctx, `SELECT id, contact, confirmed_at FROM account WHERE merchant = $1 AND merchant <> '' AND contact > 0 ORDER BY id LIMIT 200`,
		call.From(ctx).Principal.Merchant)
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		var account string
		var state int32
		var confirmed *time.Time
		err := rows.Scan(&account, &state, &confirmed)
		res.Contacts = append(res.Contacts, contactProto(account, state, confirmed))
		return err
	}))
}

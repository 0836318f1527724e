package identity

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/core/vault"
	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Permissions that this package asks for itself; everything is held by a
// merchant's owner.
const (
	everything   = "*"
	membersWrite = "members.write"
)

// Purposes under which this package reveals.
const (
	showToOwner    = "show-to-owner"
	showToMerchant = "show-to-merchant"
	sendMail       = "send-mail"
)

// account is a row of kernel.account with its merchant's name. id is empty
// when there is none.
type account struct {
	id           string
	kind         call.Kind
	mailHash     []byte
	passwordHash string
	subject      string
	nameRef      string
	mailRef      string
	market       string
	merchant     string
	merchantName string
	permissions  []string
	createdAt    time.Time
}

// accountColumns and accountFrom read an account in the order of dest; the
// columns are empty where an outer join found none.
const (
	accountColumns = `coalesce(a.id, ''), coalesce(a.kind, ''), a.mail_hash, coalesce(a.password_hash, ''),
		coalesce(a.subject_id, ''), coalesce(a.name_ref, ''), coalesce(a.mail_ref, ''), coalesce(a.market, ''),
		coalesce(a.merchant_id, ''), coalesce(m.name, ''), coalesce(a.permissions, '{}'), coalesce(a.created_at, 'epoch')`
	accountFrom = `kernel.account a LEFT JOIN kernel.merchant m ON m.id = a.merchant_id`
)

func (a *account) dest() []any {
	return []any{
		&a.id, &a.kind, &a.mailHash, &a.passwordHash, &a.subject, &a.nameRef, &a.mailRef, &a.market,
		&a.merchant, &a.merchantName, &a.permissions, &a.createdAt,
	}
}

// activeAccount reads an account that can act; nil when there is none.
func activeAccount(ctx context.Context, q vault.Querier, id string) (*account, error) {
	var a account
	err := q.QueryRow(ctx, `SELECT `+accountColumns+` FROM `+accountFrom+` WHERE a.id = $1 AND a.state = 'active'`, id).Scan(a.dest()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("identity: read account: %w", err)
	}
	return &a, nil
}

// insert makes the account. It answers false when the address has one.
func (a *account) insert(ctx context.Context, tx pgx.Tx) (bool, error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO kernel.account (id, kind, mail_hash, password_hash, subject_id, name_ref, mail_ref, market, merchant_id, permissions, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, ''), $10, $11) ON CONFLICT (mail_hash) DO NOTHING`,
		a.id, string(a.kind), a.mailHash, a.passwordHash, a.subject, a.nameRef, a.mailRef, a.market, a.merchant, a.permissions, a.createdAt)
	if err != nil {
		return false, fmt.Errorf("identity: make account: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func (a *account) may(permission string) bool {
	return slices.Contains(a.permissions, permission) || slices.Contains(a.permissions, everything)
}

// covers tells whether the account holds all of the permissions: nobody gives
// or takes what he does not hold.
func (a *account) covers(permissions []string) bool {
	return !slices.ContainsFunc(permissions, func(p string) bool { return !a.may(p) })
}

func (a *account) protoKind() identityv1.AccountKind {
	switch a.kind {
	case call.Consumer:
		return identityv1.AccountKind_ACCOUNT_KIND_CONSUMER
	case call.Merchant:
		return identityv1.AccountKind_ACCOUNT_KIND_MERCHANT
	case call.Staff:
		return identityv1.AccountKind_ACCOUNT_KIND_STAFF
	case call.Operator:
		return identityv1.AccountKind_ACCOUNT_KIND_OPERATOR
	default:
		return identityv1.AccountKind_ACCOUNT_KIND_UNSPECIFIED
	}
}

// self shows an account to its owner.
func (s *Service) self(ctx context.Context, a *account) (*identityv1.Self, error) {
	known, err := s.vault.RevealInternal(ctx, showToOwner, a.nameRef, a.mailRef)
	if err != nil {
		return nil, err
	}
	self := &identityv1.Self{
		AccountId: a.id, Kind: a.protoKind(), MerchantId: a.merchant, MerchantName: a.merchantName,
		Permissions: a.permissions, Market: a.market,
		Name: string(known[0].Plaintext), Email: string(known[1].Plaintext),
	}
	if a.kind == call.Consumer {
		self.SubjectId = a.subject
	}
	return self, nil
}

// GetSelf implements IdentityService.
func (s *Service) GetSelf(ctx context.Context, _ *identityv1.GetSelfRequest) (*identityv1.GetSelfResponse, error) {
	p := call.From(ctx).Principal
	if p.Account == LocalOperator {
		return &identityv1.GetSelfResponse{Self: &identityv1.Self{
			AccountId: p.Account, Kind: identityv1.AccountKind_ACCOUNT_KIND_OPERATOR, Permissions: p.Permissions,
		}}, nil
	}
	a, err := s.caller(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	self, err := s.self(ctx, a)
	if err != nil {
		return nil, err
	}
	return &identityv1.GetSelfResponse{Self: self}, nil
}

// caller reads the account that makes the call, as it is now: the access
// token may be minutes behind.
func (s *Service) caller(ctx context.Context, q vault.Querier) (*account, error) {
	p := call.From(ctx).Principal
	if p.Account == "" {
		return nil, fault.New(connect.CodeUnauthenticated, ReasonNoAccount, "this needs an account of a person")
	}
	a, err := activeAccount(ctx, q, p.Account)
	if err == nil && (a == nil || a.kind != p.Kind) {
		err = fault.New(connect.CodeUnauthenticated, ReasonNoAccount, "there is no such account any more")
	}
	return a, err
}

// permissionForm is what a permission looks like; it rides in headers.
var permissionForm = regexp.MustCompile(`^[a-z]+\.[a-z]+$`)

// checkPermissions bounds a list that a request gives and puts it in order.
func checkPermissions(permissions []string) ([]string, error) {
	for _, p := range permissions {
		if len(p) > 64 || !permissionForm.MatchString(p) {
			return nil, fault.Field("permissions", `each is "<area>.<verb>" in lower case, at most 64 letters`)
		}
	}
	out := slices.Sorted(slices.Values(permissions))
	if out = slices.Compact(out); out == nil {
		out = []string{}
	}
	return out, nil
}

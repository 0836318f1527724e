package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/core/vault"
	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// How long the tokens in mails hold.
const (
	registrationLife = 24 * time.Hour
	invitationLife   = 7 * 24 * time.Hour
)

// The ways to an account.
const (
	enrolConsumer = "consumer"
	enrolMerchant = "merchant"
	enrolMember   = "member"
	enrolStaff    = "staff"
	enrolOperator = "operator"
)

// enrolment is a registration or an invitation on its way to an account.
type enrolment struct {
	kind     string
	mail     string
	mailHash []byte
	// name and password are known of registrations.
	name         string
	passwordHash string
	market       string
	merchant     string
	merchantName string
	country      string
	permissions  []string
	invitedBy    string
	life         time.Duration
}

// enrol writes an enrolment, its person and its mail, in one commit. It does
// not look whether the address has an account: the sender of mails does, so
// that nothing here can tell.
func (s *Service) enrol(ctx context.Context, e enrolment) error {
	if e.permissions == nil {
		e.permissions = []string{}
	}
	key, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("identity: enrol: %w", err)
	}
	items := []vault.Item{{Kind: "email", Plaintext: []byte(e.mail)}}
	if e.name != "" {
		items = append(items, vault.Item{Kind: "name", Plaintext: []byte(e.name)})
	}
	now := s.now()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		subject, refs, err := s.vault.SealTx(ctx, tx, "", items...)
		if err != nil {
			return err
		}
		nameRef := ""
		if len(refs) > 1 {
			nameRef = refs[1]
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO kernel.enrolment (id, kind, token_hash, mail_hash, subject_id, mail_ref, name_ref, password_hash,
				market, merchant_id, merchant_name, country_code, permissions, invited_by, created_at, expires_at, send_at)
			VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''), nullif($8, ''), $9, nullif($10, ''), $11, $12, $13, nullif($14, ''), $15, $16, $15)`,
			key.String(), e.kind, tokenHash(s.keys.enrolmentToken(key.String())), e.mailHash, subject, refs[0], nameRef, e.passwordHash,
			e.market, e.merchant, e.merchantName, e.country, e.permissions, e.invitedBy, now, now.Add(e.life))
		return err
	})
	if err != nil {
		return fmt.Errorf("identity: enrol: %w", err)
	}
	s.poke()
	return nil
}

// RegisterConsumer implements IdentityService.
func (s *Service) RegisterConsumer(ctx context.Context, req *identityv1.RegisterConsumerRequest) (*identityv1.RegisterConsumerResponse, error) {
	market := req.GetMarket()
	if market == "" {
		market = call.From(ctx).Market
	}
	err := s.register(ctx, req.GetPassword(), enrolment{kind: enrolConsumer, mail: req.GetEmail(), name: req.GetName(), market: market})
	if err != nil {
		return nil, err
	}
	return &identityv1.RegisterConsumerResponse{}, nil
}

// RegisterMerchant implements IdentityService.
func (s *Service) RegisterMerchant(ctx context.Context, req *identityv1.RegisterMerchantRequest) (*identityv1.RegisterMerchantResponse, error) {
	err := s.register(ctx, req.GetPassword(), enrolment{
		kind: enrolMerchant, mail: req.GetEmail(), name: req.GetName(),
		merchantName: req.GetMerchantName(), country: req.GetCountryCode(), permissions: []string{everything},
	})
	if err != nil {
		return nil, err
	}
	return &identityv1.RegisterMerchantResponse{}, nil
}

func (s *Service) register(ctx context.Context, password string, e enrolment) error {
	e.life, e.mailHash = registrationLife, s.keys.mailHash(e.mail)
	err := s.knock(ctx, s.perEnrol, e.mailHash)
	if err != nil {
		return err
	}
	if e.passwordHash, err = s.passwords.hash(ctx, password); err != nil {
		return err
	}
	return s.enrol(ctx, e)
}

// ConfirmRegistration implements IdentityService.
func (s *Service) ConfirmRegistration(ctx context.Context, req *identityv1.ConfirmRegistrationRequest) (*identityv1.ConfirmRegistrationResponse, error) {
	if err := s.knock(ctx, nil, nil); err != nil {
		return nil, err
	}
	self, err := s.complete(ctx, req.GetToken(), "", "", enrolConsumer, enrolMerchant)
	if err != nil {
		return nil, err
	}
	return &identityv1.ConfirmRegistrationResponse{Self: self}, nil
}

// AcceptInvitation implements MemberService.
func (s *Service) AcceptInvitation(ctx context.Context, req *identityv1.AcceptInvitationRequest) (*identityv1.AcceptInvitationResponse, error) {
	if err := s.knock(ctx, nil, nil); err != nil {
		return nil, err
	}
	// The dear hash is for those who hold a token.
	kinds := []string{enrolMember, enrolStaff, enrolOperator}
	var good bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM kernel.enrolment WHERE token_hash = $1 AND expires_at > $2 AND kind = ANY ($3))`,
		tokenHash(req.GetToken()), s.now(), kinds).Scan(&good)
	if err != nil {
		return nil, fmt.Errorf("identity: find invitation: %w", err)
	}
	if !good {
		return nil, errToken(connect.CodeFailedPrecondition)
	}
	hash, err := s.passwords.hash(ctx, req.GetPassword())
	if err != nil {
		return nil, err
	}
	self, err := s.complete(ctx, req.GetToken(), hash, req.GetName(), kinds...)
	if err != nil {
		return nil, err
	}
	return &identityv1.AcceptInvitationResponse{Self: self}, nil
}

// complete turns an enrolment into an account. The token's row is deleted by
// it: of two uses at once one finds it.
func (s *Service) complete(ctx context.Context, token, hash, name string, kinds ...string) (*identityv1.Self, error) {
	a := &account{id: id.New("acc"), passwordHash: hash, createdAt: s.now()}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var kind, country, inviter string
		err := tx.QueryRow(ctx, `
			DELETE FROM kernel.enrolment WHERE token_hash = $1 AND expires_at > $2 AND kind = ANY ($3)
			RETURNING kind, mail_hash, subject_id, mail_ref, coalesce(name_ref, ''), coalesce(password_hash, $4), market,
				coalesce(merchant_id, ''), coalesce(merchant_name, ''), coalesce(country_code, ''), permissions, coalesce(invited_by, '')`,
			tokenHash(token), a.createdAt, kinds, hash).Scan(
			&kind, &a.mailHash, &a.subject, &a.mailRef, &a.nameRef, &a.passwordHash, &a.market,
			&a.merchant, &a.merchantName, &country, &a.permissions, &inviter)
		if errors.Is(err, pgx.ErrNoRows) {
			return errToken(connect.CodeFailedPrecondition)
		}
		if err != nil {
			return fmt.Errorf("identity: take token: %w", err)
		}
		switch kind {
		case enrolMember:
			a.kind = call.Merchant
			err = s.checkInviter(ctx, tx, inviter, a)
		case enrolMerchant:
			a.kind, a.merchant = call.Merchant, id.New("mrc")
			_, err = tx.Exec(ctx, `INSERT INTO kernel.merchant (id, name, country_code, created_at) VALUES ($1, $2, $3, $4)`,
				a.merchant, a.merchantName, country, a.createdAt)
		default:
			a.kind = call.Kind(kind)
		}
		if err != nil {
			return err
		}
		if name != "" {
			_, refs, err := s.vault.SealTx(ctx, tx, a.subject, vault.Item{Kind: "name", Plaintext: []byte(name)})
			if err != nil {
				return err
			}
			a.nameRef = refs[0]
		}
		made, err := a.insert(ctx, tx)
		if err == nil && !made {
			// The address got an account since the mail went out.
			err = errToken(connect.CodeFailedPrecondition)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.self(ctx, a)
}

// checkInviter refuses an invitation whose giver left, or no longer holds
// what he gave.
func (s *Service) checkInviter(ctx context.Context, tx pgx.Tx, inviter string, invited *account) error {
	by, err := activeAccount(ctx, tx, inviter)
	if err != nil {
		return err
	}
	if by == nil || by.merchant != invited.merchant || !by.may(membersWrite) || !by.covers(invited.permissions) {
		return errToken(connect.CodeFailedPrecondition)
	}
	invited.merchantName = by.merchantName
	return nil
}

// CreateStaff implements StaffService.
func (s *Service) CreateStaff(ctx context.Context, req *identityv1.CreateStaffRequest) (*identityv1.CreateStaffResponse, error) {
	p := call.From(ctx).Principal
	if p.Kind != call.Operator {
		return nil, connect.NewError(connect.CodePermissionDenied, "this is for operators")
	}
	permissions, err := checkPermissions(req.GetPermissions())
	if err != nil {
		return nil, err
	}
	kind := enrolStaff
	if req.GetKind() == identityv1.AccountKind_ACCOUNT_KIND_OPERATOR {
		kind = enrolOperator
	}
	e := enrolment{
		kind: kind, mail: req.GetEmail(), mailHash: s.keys.mailHash(req.GetEmail()),
		permissions: permissions, invitedBy: p.Account, life: invitationLife,
	}
	if err := s.perEnrol.take(string(e.mailHash), s.now()); err != nil {
		return nil, err
	}
	if err := s.enrol(ctx, e); err != nil {
		return nil, err
	}
	return &identityv1.CreateStaffResponse{}, nil
}

// errGrant refuses to give or take what the caller does not hold.
func errGrant() error {
	return fault.New(connect.CodePermissionDenied, ReasonGrantNotHeld, "nobody gives or takes a permission that he does not hold")
}

package identity

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// InviteMember implements MemberService.
func (s *Service) InviteMember(ctx context.Context, req *identityv1.InviteMemberRequest) (*identityv1.InviteMemberResponse, error) {
	permissions, err := checkPermissions(req.GetPermissions())
	if err != nil {
		return nil, err
	}
	by, err := s.caller(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	if err := admin(by); err != nil {
		return nil, err
	}
	if !by.covers(permissions) {
		return nil, errGrant()
	}
	e := enrolment{
		kind: enrolMember, mail: req.GetEmail(), mailHash: s.keys.mailHash(req.GetEmail()),
		merchant: by.merchant, permissions: permissions, invitedBy: by.id, life: invitationLife,
	}
	if err := s.perEnrol.take(string(e.mailHash), s.now()); err != nil {
		return nil, err
	}
	if err := s.enrol(ctx, e); err != nil {
		return nil, err
	}
	return &identityv1.InviteMemberResponse{}, nil
}

// ListMembers implements MemberService. The page token is the last account of
// the page before.
func (s *Service) ListMembers(ctx context.Context, req *identityv1.ListMembersRequest) (*identityv1.ListMembersResponse, error) {
	p := call.From(ctx).Principal
	if p.Kind != call.Merchant || p.Merchant == "" {
		return nil, connect.NewError(connect.CodePermissionDenied, "this is for members of a merchant")
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = 50
	}
	rows, err := s.pool.Query(ctx, `
		SELECT `+accountColumns+` FROM `+accountFrom+`
		 WHERE a.merchant_id = $1 AND a.state = 'active' AND a.id > $2 ORDER BY a.id LIMIT $3`, p.Merchant, req.GetPageToken(), size+1)
	if err != nil {
		return nil, fmt.Errorf("identity: list members: %w", err)
	}
	members, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*account, error) {
		var a account
		return &a, row.Scan(a.dest()...)
	})
	if err != nil {
		return nil, fmt.Errorf("identity: list members: %w", err)
	}
	res := &identityv1.ListMembersResponse{}
	if len(members) > size {
		members = members[:size]
		res.NextPageToken = members[size-1].id
	}
	res.Members, err = s.show(ctx, members...)
	return res, err
}

// UpdateMember implements MemberService.
func (s *Service) UpdateMember(ctx context.Context, req *identityv1.UpdateMemberRequest) (*identityv1.UpdateMemberResponse, error) {
	permissions, err := checkPermissions(req.GetPermissions())
	if err != nil {
		return nil, err
	}
	var member *account
	err = s.withMember(ctx, req.GetAccountId(), func(tx pgx.Tx, by, m *account) error {
		if !by.covers(permissions) {
			return errGrant()
		}
		m.permissions, member = permissions, m
		_, err := tx.Exec(ctx, `UPDATE kernel.account SET permissions = $2 WHERE id = $1`, m.id, permissions)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown, err := s.show(ctx, member)
	if err != nil {
		return nil, err
	}
	return &identityv1.UpdateMemberResponse{Member: shown[0]}, nil
}

// RemoveMember implements MemberService. A repeat finds no member:
// not_found. The access token that the member holds ends within AccessLife.
func (s *Service) RemoveMember(ctx context.Context, req *identityv1.RemoveMemberRequest) (*identityv1.RemoveMemberResponse, error) {
	err := s.withMember(ctx, req.GetAccountId(), func(tx pgx.Tx, _, m *account) error {
		_, err := tx.Exec(ctx, `
			WITH closed AS (UPDATE kernel.account SET state = 'closed', mail_hash = NULL WHERE id = $1)
			UPDATE kernel.session SET ended_at = $2 WHERE account_id = $1 AND ended_at IS NULL`, m.id, s.now())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &identityv1.RemoveMemberResponse{}, nil
}

// withMember changes a member of the caller's merchant, and undoes the change
// if it leaves nobody who may write members. Changes of one merchant's
// members happen one after the other.
func (s *Service) withMember(ctx context.Context, id string, change func(tx pgx.Tx, by, member *account) error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM kernel.merchant WHERE id = $1 FOR UPDATE`, call.From(ctx).Principal.Merchant); err != nil {
			return err
		}
		by, err := s.caller(ctx, tx)
		if err != nil {
			return err
		}
		if err := admin(by); err != nil {
			return err
		}
		m, err := activeAccount(ctx, tx, id)
		if err != nil {
			return err
		}
		if m == nil || m.merchant != by.merchant {
			return fault.New(connect.CodeNotFound, ReasonMemberUnknown, "no such member")
		}
		if !by.covers(m.permissions) {
			return errGrant()
		}
		if err := change(tx, by, m); err != nil {
			return err
		}
		var left bool
		err = tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM kernel.account WHERE merchant_id = $1 AND state = 'active' AND permissions && $2)`,
			by.merchant, []string{everything, membersWrite}).Scan(&left)
		if err == nil && !left {
			err = fault.New(connect.CodeFailedPrecondition, ReasonLastAdmin, "the last member with "+membersWrite+" keeps it")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("identity: change member: %w", err)
	}
	return nil
}

// admin refuses all but members of a merchant who may write members now.
func admin(by *account) error {
	if by.kind != call.Merchant || !by.may(membersWrite) {
		return connect.NewError(connect.CodePermissionDenied, "this needs a merchant's permission "+membersWrite)
	}
	return nil
}

// show makes members of accounts, with names and addresses from the vault.
func (s *Service) show(ctx context.Context, accounts ...*account) ([]*identityv1.Member, error) {
	refs := make([]string, 0, 2*len(accounts))
	for _, a := range accounts {
		refs = append(refs, a.nameRef, a.mailRef)
	}
	known, err := s.vault.RevealInternal(ctx, showToMerchant, refs...)
	if err != nil {
		return nil, err
	}
	members := make([]*identityv1.Member, len(accounts))
	for i, a := range accounts {
		members[i] = &identityv1.Member{
			AccountId: a.id, Name: string(known[2*i].Plaintext), Email: string(known[2*i+1].Plaintext),
			Permissions: a.permissions, JoinedAt: timestamppb.New(a.createdAt.Truncate(time.Microsecond)),
		}
	}
	return members, nil
}

package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// RefreshLife is how long a refresh token holds, and a session without use.
const RefreshLife = 30 * 24 * time.Hour

// Login implements IdentityService. The work is the same for an address
// without account: one look-up, one hash, one count.
func (s *Service) Login(ctx context.Context, req *identityv1.LoginRequest) (*identityv1.LoginResponse, error) {
	mailHash := s.keys.mailHash(req.GetEmail())
	if err := s.knock(ctx, s.perLogin, mailHash); err != nil {
		return nil, err
	}
	a, err := s.checkPassword(ctx, mailHash, req.GetPassword())
	if err != nil {
		return nil, err
	}
	tokens, err := s.open(ctx, a)
	if err != nil {
		return nil, err
	}
	return &identityv1.LoginResponse{Tokens: tokens}, nil
}

// checkPassword finds the account of an address by its password, or answers
// INVALID_CREDENTIALS and counts the failure.
func (s *Service) checkPassword(ctx context.Context, mailHash []byte, password string) (*account, error) {
	now := s.now()
	var a account
	var failures int
	var last time.Time
	err := s.pool.QueryRow(ctx, `
		SELECT coalesce(f.failures, 0), coalesce(f.last_at, 'epoch'), `+accountColumns+`
		  FROM (SELECT $1::bytea) h (mail_hash)
		  LEFT JOIN kernel.login_failure f ON f.mail_hash = h.mail_hash
		  LEFT JOIN (`+accountFrom+`) ON a.mail_hash = h.mail_hash`, mailHash).
		Scan(append([]any{&failures, &last}, a.dest()...)...)
	if err != nil {
		return nil, fmt.Errorf("identity: find account: %w", err)
	}
	if wait := last.Add(waitAfter(failures)).Sub(now); wait > 0 {
		return nil, errThrottled(wait)
	}
	ok, err := s.passwords.matches(ctx, password, a.passwordHash)
	if err != nil {
		return nil, err
	}
	if ok {
		return &a, nil
	}
	_, err = s.pool.Exec(ctx, `
		INSERT INTO kernel.login_failure AS f (mail_hash, failures, last_at) VALUES ($1, 1, $2)
		ON CONFLICT (mail_hash) DO UPDATE SET failures = f.failures + 1, last_at = excluded.last_at`, mailHash, now)
	if err != nil {
		return nil, fmt.Errorf("identity: count failure: %w", err)
	}
	return nil, fault.New(connect.CodeUnauthenticated, ReasonInvalidCredentials, "the address or the password is wrong")
}

// open starts a session and ends the count of failures.
func (s *Service) open(ctx context.Context, a *account) (*identityv1.Tokens, error) {
	session, refresh, now := uuid.NewString(), newRefresh(), s.now()
	_, err := s.pool.Exec(ctx, `
		WITH calm AS (DELETE FROM kernel.login_failure WHERE mail_hash = $1),
		     session AS (INSERT INTO kernel.session (id, account_id, created_at, expires_at) VALUES ($2, $3, $4, $5))
		INSERT INTO kernel.refresh (hash, session_id, issued_at) VALUES ($6, $2, $4)`,
		a.mailHash, session, a.id, now, now.Add(RefreshLife), tokenHash(refresh))
	if err != nil {
		return nil, fmt.Errorf("identity: open session: %w", err)
	}
	return s.give(a, session, refresh, now)
}

func (s *Service) give(a *account, session, refresh string, now time.Time) (*identityv1.Tokens, error) {
	access, expires, err := s.tokens.mint(a, session, now)
	if err != nil {
		return nil, err
	}
	return &identityv1.Tokens{
		AccessToken: access, AccessExpiresAt: timestamppb.New(expires),
		RefreshToken: refresh, RefreshExpiresAt: timestamppb.New(now.Add(RefreshLife)),
	}, nil
}

func newRefresh() string { return base64.RawURLEncoding.EncodeToString(random(32)) }

// Refresh implements IdentityService. The token is spent first: of two uses
// at once one waits for the other's commit and finds it spent, and the
// session ends, whichever of the two was the thief's.
func (s *Service) Refresh(ctx context.Context, req *identityv1.RefreshRequest) (*identityv1.RefreshResponse, error) {
	if err := s.knock(ctx, nil, nil); err != nil {
		return nil, err
	}
	var a account
	var session string
	hash, refresh, now := tokenHash(req.GetRefreshToken()), newRefresh(), s.now()
	good := false
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `UPDATE kernel.refresh SET spent_at = $2 WHERE hash = $1 AND spent_at IS NULL RETURNING session_id::text`,
			hash, now).Scan(&session)
		if errors.Is(err, pgx.ErrNoRows) {
			return s.endReused(ctx, tx, hash, now)
		}
		if err != nil {
			return err
		}
		// The lock orders this with what ends the session.
		err = tx.QueryRow(ctx, `
			SELECT `+accountColumns+` FROM kernel.session s JOIN (`+accountFrom+`) ON a.id = s.account_id
			 WHERE s.id = $1 AND s.ended_at IS NULL AND s.expires_at > $2 AND a.state = 'active' FOR UPDATE OF s`,
			session, now).Scan(a.dest()...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		good = true
		_, err = tx.Exec(ctx, `
			WITH use AS (UPDATE kernel.session SET expires_at = $4 WHERE id = $2)
			INSERT INTO kernel.refresh (hash, session_id, issued_at) VALUES ($1, $2, $3)`,
			tokenHash(refresh), session, now, now.Add(RefreshLife))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("identity: refresh: %w", err)
	}
	if !good {
		return nil, errToken(connect.CodeUnauthenticated)
	}
	tokens, err := s.give(&a, session, refresh, now)
	if err != nil {
		return nil, err
	}
	return &identityv1.RefreshResponse{Tokens: tokens}, nil
}

// endReused ends the session of a token that was spent before.
func (s *Service) endReused(ctx context.Context, tx pgx.Tx, hash []byte, now time.Time) error {
	var session string
	err := tx.QueryRow(ctx, `
		UPDATE kernel.session s SET ended_at = $2 FROM kernel.refresh r
		 WHERE r.hash = $1 AND s.id = r.session_id AND s.ended_at IS NULL RETURNING s.id::text`, hash, now).Scan(&session)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		s.log.WarnContext(ctx, "a spent refresh token was used again: session ended", "session", session)
	}
	return err
}

// Logout implements IdentityService. It answers alike for a token that is
// not known.
func (s *Service) Logout(ctx context.Context, req *identityv1.LogoutRequest) (*identityv1.LogoutResponse, error) {
	if err := s.knock(ctx, nil, nil); err != nil {
		return nil, err
	}
	_, err := s.pool.Exec(ctx, `
		UPDATE kernel.session s SET ended_at = $2 FROM kernel.refresh r
		 WHERE r.hash = $1 AND s.id = r.session_id AND s.ended_at IS NULL`, tokenHash(req.GetRefreshToken()), s.now())
	if err != nil {
		return nil, fmt.Errorf("identity: logout: %w", err)
	}
	return &identityv1.LogoutResponse{}, nil
}

// ChangePassword implements IdentityService. A repeat finds the new password
// in its place and is content.
func (s *Service) ChangePassword(ctx context.Context, req *identityv1.ChangePasswordRequest) (*identityv1.ChangePasswordResponse, error) {
	a, err := s.caller(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	if err := s.knock(ctx, s.perLogin, a.mailHash); err != nil {
		return nil, err
	}
	if _, err := s.checkPassword(ctx, a.mailHash, req.GetOldPassword()); err != nil {
		if fault.Reason(err) != ReasonInvalidCredentials {
			return nil, err
		}
		if ok, again := s.passwords.matches(ctx, req.GetNewPassword(), a.passwordHash); again != nil || !ok {
			return nil, errors.Join(again, err)
		}
		return &identityv1.ChangePasswordResponse{}, nil
	}
	hash, err := s.passwords.hash(ctx, req.GetNewPassword())
	if err != nil {
		return nil, err
	}
	_, err = s.pool.Exec(ctx, `
		WITH changed AS (UPDATE kernel.account SET password_hash = $2 WHERE id = $1),
		     calm AS (DELETE FROM kernel.login_failure WHERE mail_hash = $5)
		UPDATE kernel.session SET ended_at = $3 WHERE account_id = $1 AND ended_at IS NULL AND id::text <> $4`,
		a.id, hash, s.now(), s.sessionOf(ctx), a.mailHash)
	if err != nil {
		return nil, fmt.Errorf("identity: change password: %w", err)
	}
	return &identityv1.ChangePasswordResponse{}, nil
}

// sessionOf is the session that the call's own access token belongs to; empty
// when the call came without one, and then no session is spared.
func (s *Service) sessionOf(ctx context.Context) string {
	info, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return ""
	}
	_, bearer, _ := strings.Cut(info.RequestHeader().Get("Authorization"), " ")
	c, err := s.tokens.verify(strings.TrimSpace(bearer))
	if err != nil {
		return ""
	}
	return c.Session
}

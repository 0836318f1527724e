package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/core/vault"
	"github.com/entrepot/entrepot/sdk/call"
)

const (
	// letterBatch bounds the mails that are claimed at once.
	letterBatch = 32
	// sendTimeout bounds one mail. A batch's claim outlasts its mails.
	sendTimeout = 10 * time.Second
	// pollMails finds what another node wrote and what is to be tried again.
	pollMails = 2 * time.Second
	// sweepEvery is how often what expired is removed.
	sweepEvery = 10 * time.Minute
	// failuresKept is how long wrong passwords are remembered.
	failuresKept = 24 * time.Hour
)

// Run sends mails and removes what expired until the context ends. Several
// nodes may run it.
func (s *Service) Run(ctx context.Context) {
	ctx = call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: vault.Kernel}})
	poll, sweep := time.NewTicker(pollMails), time.NewTicker(sweepEvery)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		if err := s.sendMails(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "mails wait", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-poll.C:
		case <-sweep.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "expired rows stay", "error", err)
			}
		}
	}
}

// poke wakes the sender after a commit.
func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// letter is an enrolment whose mail is due.
type letter struct {
	id        string
	kind      string
	subject   string
	mailRef   string
	to        string
	createdAt time.Time
	// known: the address has an account.
	known bool
}

func (s *Service) sendMails(ctx context.Context) error {
	for {
		letters, err := s.claim(ctx)
		if err != nil || len(letters) == 0 {
			return err
		}
		if err := s.send(ctx, letters); err != nil {
			return err
		}
	}
}

// claim takes due mails for this node: by moving their next try ahead, later
// with each.
func (s *Service) claim(ctx context.Context) ([]letter, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE kernel.enrolment e
		   SET attempts = attempts + 1, send_at = $1::timestamptz + least(interval '10 minutes' * 2 ^ attempts, interval '6 hours')
		 WHERE id = ANY (ARRAY(SELECT id FROM kernel.enrolment WHERE send_at <= $1 AND expires_at > $1
		                        ORDER BY send_at LIMIT $2 FOR UPDATE SKIP LOCKED))
		RETURNING id::text, kind, subject_id, mail_ref, created_at,
			EXISTS (SELECT FROM kernel.account a WHERE a.mail_hash = e.mail_hash)`, s.now(), letterBatch)
	if err != nil {
		return nil, fmt.Errorf("identity: claim mails: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l letter, err error) {
		return l, row.Scan(&l.id, &l.kind, &l.subject, &l.mailRef, &l.createdAt, &l.known)
	})
	if err != nil {
		return nil, fmt.Errorf("identity: claim mails: %w", err)
	}
	return letters, nil
}

func (s *Service) send(ctx context.Context, letters []letter) error {
	refs := make([]string, len(letters))
	for i, l := range letters {
		refs[i] = l.mailRef
	}
	addresses, err := s.vault.RevealInternal(ctx, sendMail, refs...)
	if err != nil {
		return err
	}
	var sent, over, subjects []string
	for i, l := range letters {
		l.to = string(addresses[i].Plaintext)
		if err := s.deliver(ctx, l); err != nil {
			s.log.WarnContext(ctx, "a mail is tried again later", "mail", l.id, "error", err)
			continue
		}
		if l.known {
			over, subjects = append(over, l.id), append(subjects, l.subject)
		} else {
			sent = append(sent, l.id)
		}
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE kernel.enrolment SET send_at = NULL WHERE id = ANY ($1::uuid[])`, sent); err != nil {
			return err
		}
		// Nothing comes of an enrolment whose address has an account.
		if _, err := tx.Exec(ctx, `DELETE FROM kernel.enrolment WHERE id = ANY ($1::uuid[])`, over); err != nil {
			return err
		}
		return s.vault.ForgetTx(ctx, tx, subjects...)
	})
	if err != nil {
		return fmt.Errorf("identity: write down sent mails: %w", err)
	}
	return nil
}

func (s *Service) deliver(ctx context.Context, l letter) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return s.mailer.Send(ctx, l.write(s.keys.enrolmentToken(l.id)))
}

// sweep removes enrolments that nobody completed, with their persons,
// sessions that are over, and old failures.
func (s *Service) sweep(ctx context.Context) error {
	now := s.now()
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `DELETE FROM kernel.enrolment WHERE expires_at <= $1 RETURNING subject_id`, now)
		if err != nil {
			return err
		}
		subjects, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		return s.vault.ForgetTx(ctx, tx, subjects...)
	})
	if err == nil {
		_, err = s.pool.Exec(ctx, `
			WITH f AS (DELETE FROM kernel.login_failure WHERE last_at <= $2)
			DELETE FROM kernel.session WHERE expires_at <= $1`, now, now.Add(-failuresKept))
	}
	if err != nil {
		return fmt.Errorf("identity: sweep: %w", err)
	}
	return nil
}

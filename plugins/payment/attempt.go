package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// The contract's words, shorter.
type (
	operation    = paymentv1.Attempt_Operation
	attemptState = paymentv1.Attempt_State
)

const (
	authorize = paymentv1.Attempt_OPERATION_AUTHORIZE
	capture   = paymentv1.Attempt_OPERATION_CAPTURE
	void      = paymentv1.Attempt_OPERATION_VOID
	refund    = paymentv1.Attempt_OPERATION_REFUND

	succeeded = paymentv1.Attempt_STATE_SUCCEEDED
	declined  = paymentv1.Attempt_STATE_DECLINED
	unknown   = paymentv1.Attempt_STATE_UNKNOWN
	pending   = paymentv1.Attempt_STATE_PENDING
)

// share is a merchant's part of a capture, as it is kept with the attempt.
type share struct {
	Merchant string `json:"merchant"`
	Amount   int64  `json:"amount"`
}

// shares is a list that compares by its JSON.
type shares []share

func (s shares) json() (string, error) {
	if s == nil {
		s = shares{}
	}
	b, err := json.Marshal(s)
	return string(b), err
}

// attempt is a row of the table attempt: one operation at a provider.
type attempt struct {
	key, id, payment, instance string
	operation                  operation
	state                      attemptState
	amount                     int64
	currency                   string
	shares                     shares
	processed                  int64
	processedCurrency          string
	posted                     int64
	conflict                   bool
	reference, code            string
	sentAt                     time.Time
	// holdReference is the company's number of the payment it belongs to.
	holdReference string
}

// open tells whether it is not known what became of it.
func (a *attempt) open() bool { return a.state != succeeded && a.state != declined }

// givesBack tells whether it is part of a reversal: those go on when nothing
// else may be sent any more.
func (a *attempt) givesBack() bool { return a.id == a.payment && a.operation != authorize }

func (a *attempt) proto() *paymentv1.Attempt {
	return &paymentv1.Attempt{
		Key: a.key, Operation: a.operation, State: a.state, Amount: &typev1.Money{CurrencyCode: a.currency, MinorUnits: a.amount},
		ProviderReference: a.reference, Code: a.code, At: timestamppb.New(a.sentAt),
	}
}

const attemptColumns = `a.key, a.id, a.payment, a.instance, a.operation, a.state, a.amount, a.currency, a.shares, a.processed,
  a.processed_currency, a.posted, a.conflict, a.provider_reference, a.code, a.sent_at, p.provider_reference`

func (a *attempt) scan(row interface{ Scan(...any) error }) error {
	var parts []byte
	err := row.Scan(&a.key, &a.id, &a.payment, &a.instance, &a.operation, &a.state, &a.amount, &a.currency, &parts, &a.processed,
		&a.processedCurrency, &a.posted, &a.conflict, &a.reference, &a.code, &a.sentAt, &a.holdReference)
	if err != nil {
		return err
	}
	return json.Unmarshal(parts, &a.shares)
}

// loadAttempt reads the last attempt at an operation; nil when there is none.
func loadAttempt(ctx context.Context, db reader, id string, op operation) (*attempt, error) {
	a := &attempt{}
	err := a.scan(db.Row(ctx, `SELECT `+attemptColumns+` FROM attempt a JOIN payment p ON p.id = a.payment
		WHERE a.id = $1 AND a.operation = $2 ORDER BY a.sent_at DESC, a.key DESC LIMIT 1`, id, int16(op)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return a, err
}

// loadAttempts reads every attempt of a payment, the oldest first.
func loadAttempts(ctx context.Context, db reader, payment string) ([]*attempt, error) {
	return attempts(db.Rows(ctx, `SELECT `+attemptColumns+` FROM attempt a JOIN payment p ON p.id = a.payment
		WHERE a.payment = $1 ORDER BY a.sent_at, a.key`, payment))
}

func attempts(rows *sql.Rows, err error) ([]*attempt, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []*attempt
	for rows.Next() {
		a := &attempt{}
		if err := a.scan(rows); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// keyFor is the key toward the provider: the saga step's, the same for every
// repetition, or else that of the thing the caller named.
func keyFor(ctx context.Context, name string) string {
	if s := call.From(ctx).Step; s != nil {
		return s.Key()
	}
	return name
}

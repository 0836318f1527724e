package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/money"
)

// payment is a row of the table payment: what is asked, held, taken and
// returned, in minor units of one currency.
type payment struct {
	id, reference, market, currency        string
	asked                                  int64
	instance, providerReference            string
	authorized, captured, voided, refunded int64
	capturing, refunding, disputed         int64
	ended, declined, conflicted, reversed  bool
	state                                  paymentv1.Payment_State
	createdAt                              time.Time
}

const paymentColumns = `p.id, p.reference, p.market, p.currency, p.asked, p.instance, p.provider_reference, p.authorized, p.captured,
  p.voided, p.refunded, p.capturing, p.refunding, p.disputed, p.ended, p.declined, p.conflicted, p.reversed, p.state, p.created_at`

func (p *payment) targets() []any {
	return []any{&p.id, &p.reference, &p.market, &p.currency, &p.asked, &p.instance, &p.providerReference, &p.authorized, &p.captured,
		&p.voided, &p.refunded, &p.capturing, &p.refunding, &p.disputed, &p.ended, &p.declined, &p.conflicted, &p.reversed, &p.state, &p.createdAt}
}

// held is what can still be captured or voided.
func (p *payment) held() int64 { return p.authorized - p.captured - p.capturing - p.voided }

// refundable is what can still be refunded, or disputed.
func (p *payment) refundable() int64 { return p.captured - p.refunded - p.refunding - p.disputed }

// tombstone tells whether the payment was reversed before it was made.
func (p *payment) tombstone() bool { return p.currency == "" }

func (p *payment) money(minor int64) *typev1.Money {
	return &typev1.Money{CurrencyCode: p.currency, MinorUnits: minor}
}

func (p *payment) proto() *paymentv1.Payment {
	return &paymentv1.Payment{
		PaymentId: p.id, Reference: p.reference, State: p.state, Market: p.market, Instance: p.instance,
		Authorized: p.money(p.authorized), Captured: p.money(p.captured), Refunded: p.money(p.refunded), Disputed: p.money(p.disputed),
		ProviderReference: p.providerReference, CreatedAt: timestamppb.New(p.createdAt),
	}
}

// reader is a transaction or the database itself.
type reader interface {
	Row(ctx context.Context, statement string, args ...any) *sql.Row
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// load reads a payment; nil when there is none.
func load(ctx context.Context, db reader, id string) (*payment, error) {
	p := &payment{}
	err := db.Row(ctx, `SELECT `+paymentColumns+` FROM payment p WHERE p.id = $1`, id).Scan(p.targets()...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// positive checks an amount that is to move.
func positive(field string, m *typev1.Money) (money.Money, error) {
	amount, err := money.FromProto(m)
	if err != nil {
		return money.Money{}, fault.Field(field+".currency_code", "is no currency of ISO 4217")
	}
	if amount.Minor <= 0 {
		return money.Money{}, fault.Field(field+".minor_units", "must be more than zero")
	}
	return amount, nil
}

func unknownPayment() error {
	return fault.New(connect.CodeNotFound, "PAYMENT_UNKNOWN", "there is no such payment")
}

func reversedPayment() error {
	return fault.New(connect.CodeFailedPrecondition, "PAYMENT_REVERSED", "this payment was reversed; make another")
}

func conflictedPayment() error {
	return fault.New(connect.CodeFailedPrecondition, "AMOUNT_CONFLICT", "the provider processed another amount than was asked; only reversing it is possible")
}

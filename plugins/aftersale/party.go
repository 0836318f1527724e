package main

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// party is who takes part, as of an order: the consumer, a merchant of it, or
// the marketplace.
type party struct {
	side     aftersalev1.Side
	merchant string
	// who is the name for timelines.
	who string
}

func errNoOrder() error {
	return fault.New(connect.CodeNotFound, "ORDER_UNKNOWN", "there is no such order, or it is not yours: check order_id and, for a guest's, cart_secret")
}

// party tells who the caller is in an order. It asks the order module about a
// guest's secret, so it is called outside of transactions. merchant is that of
// the goods at hand; empty where it does not matter.
func (s *service) party(ctx context.Context, orderID, merchant, secret string) (party, error) {
	p := call.From(ctx).Principal
	switch p.Kind {
	case call.Staff, call.Operator:
		return party{side: aftersalev1.Side_SIDE_STAFF, who: p.String()}, nil
	case call.Merchant:
		if merchant == "" {
			var sells bool
			if err := s.db.Row(ctx, `SELECT EXISTS (SELECT FROM purchase_line WHERE order_id = $1 AND merchant = $2)`, orderID, p.Merchant).Scan(&sells); err != nil {
				return party{}, store.Wrap(err)
			}
			if !sells {
				return party{}, errNoOrder()
			}
			merchant = p.Merchant
		}
		if merchant != p.Merchant {
			return party{}, errNoOrder()
		}
		return party{side: aftersalev1.Side_SIDE_MERCHANT, merchant: p.Merchant, who: p.String()}, nil
	case call.Consumer, call.Nobody:
	default:
		return party{}, errNoOrder()
	}
	consumer := party{side: aftersalev1.Side_SIDE_CONSUMER, who: "consumer"}
	if p.Kind == call.Consumer {
		var account string
		if err := s.db.Row(ctx, `SELECT account FROM purchase WHERE order_id = $1`, orderID).Scan(&account); err != nil {
			return party{}, store.Wrap(noRows(err, errNoOrder()))
		}
		if account == p.Account {
			return consumer, nil
		}
	}
	if secret == "" {
		return party{}, errNoOrder()
	}
	_, err := s.orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: orderID, CartSecret: secret})
	if connect.CodeOf(err) == connect.CodeNotFound {
		return party{}, errNoOrder()
	}
	consumer.who = "guest"
	return consumer, host.Relay(err)
}

// own makes calls on the module's own account, in a market: who may see a case
// may see what its neighbours tell of it, and that was looked at here.
func own(ctx context.Context, market string) context.Context {
	return call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "aftersale"}, Market: market})
}

// ofCase reads a case and who the caller is in it.
func (s *service) ofCase(ctx context.Context, caseID, secret string) (*caseFile, party, error) {
	c, err := readCase(ctx, s.db, "c.id = ?", caseID)
	if err != nil {
		return nil, party{}, store.Wrap(err)
	}
	if c == nil {
		return nil, party{}, errNoCase()
	}
	p, err := s.party(ctx, c.OrderID, c.Merchant, secret)
	if fault.Reason(err) == "ORDER_UNKNOWN" {
		err = errNoCase()
	}
	return c, p, err
}

// seal has the vault encrypt texts of an order's parties, under the consumer's
// subject: with the person, what was written about it goes. No texts: nil.
func (s *service) seal(ctx context.Context, orderID string, items ...*kernelv1.SealItem) (*kernelv1.SealResponse, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var subject string
	if err := s.db.Row(ctx, `SELECT subject FROM purchase WHERE order_id = $1`, orderID).Scan(&subject); err != nil {
		return nil, store.Wrap(noRows(err, errNoOrder()))
	}
	if p := call.From(ctx).Principal; subject == "" && p.Kind == call.Consumer {
		subject = p.Subject
	}
	sealed, err := s.host.Vault.Seal(ctx, &kernelv1.SealRequest{SubjectId: subject, Items: items})
	if err == nil && len(sealed.GetItems()) != len(items) {
		err = errors.New("the vault sealed another number of items")
	}
	return sealed, host.Relay(err)
}

// text is one to seal, or none.
func text(t string) []*kernelv1.SealItem {
	if t == "" {
		return nil
	}
	return []*kernelv1.SealItem{{Kind: "message", Plaintext: []byte(t)}}
}

// keep stores what was sealed with the transaction and answers the reference
// of the first text.
func keep(ctx context.Context, tx *store.Tx, orderID string, sealed *kernelv1.SealResponse) (ref string, err error) {
	if sealed == nil {
		return "", nil
	}
	tx.Keep(sealed)
	_, err = tx.Do(ctx, `UPDATE purchase SET subject = $2 WHERE order_id = $1 AND subject = ''`, orderID, sealed.GetSubjectId())
	return sealed.GetItems()[0].GetRef(), err
}

// maxReveal is how many references the vault reads at once.
const maxReveal = 100

// reveal reads texts; those of an erased person are empty.
func (s *service) reveal(ctx context.Context, refs ...string) (map[string]string, error) {
	var want []string
	for _, r := range refs {
		if r != "" {
			want = append(want, r)
		}
	}
	out := make(map[string]string, len(want))
	for len(want) > 0 {
		n := min(len(want), maxReveal)
		res, err := s.host.Vault.Reveal(ctx, &kernelv1.RevealRequest{Purpose: "conversation", Refs: want[:n]})
		if err != nil {
			return nil, host.Relay(err)
		}
		for _, it := range res.GetItems() {
			out[it.GetRef()] = string(it.GetPlaintext())
		}
		want = want[n:]
	}
	return out, nil
}

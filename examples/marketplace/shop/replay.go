package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// receive books a receipt. The warehouse hears of new articles from the
// catalogue by events: one that it does not know yet is worth waiting for.
func receive(ctx context.Context, c warehousev1connect.StockServiceClient, req *warehousev1.ReceiveStockRequest) (*warehousev1.ReceiveStockResponse, error) {
	res, err := c.ReceiveStock(ctx, req)
	if fault.Reason(err) == "SKU_UNKNOWN" {
		return nil, connect.NewError(connect.CodeUnavailable, "the article is not known yet").WithCause(err)
	}
	return res, err
}

// Placed is an invoice that became an order.
type Placed struct {
	Order  *orderv1.Order
	Secret string
	Buyer  Caller
	// Cancelled is set when its cancellation was carried out.
	Cancelled bool
	// Disputed is set when the buyer's bank is going to take the money back.
	Disputed bool
}

// Replay buys what real invoices bought.
type Replay struct {
	shop      *Shop
	goods     *Goods
	consumers map[string][]*Person // by market

	mu sync.Mutex
	// Refused invoices by reason.
	Refused map[string]int
	placed  map[string]*Placed
	done    map[string]chan struct{}
}

// NewReplay makes a replay with the consumers of each market; an invoice
// without a customer is a guest's.
func (s *Shop) NewReplay(g *Goods, consumers map[string][]*Person) *Replay {
	return &Replay{
		shop: s, goods: g, consumers: consumers, Refused: make(map[string]int),
		placed: make(map[string]*Placed),
	}
}

// Pick takes the first n purchases and every cancellation of one of them.
func Pick(all []trade.Invoice, n int) []trade.Invoice {
	var out []trade.Invoice
	taken := make(map[string]bool, n)
	for _, v := range all {
		switch {
		case v.Cancels != "" && taken[v.Cancels]:
			out = append(out, v)
		case v.Cancels == "" && len(taken) < n:
			taken[v.Number] = true
			out = append(out, v)
		}
	}
	return out
}

// Run replays invoices in their order, width at a time; a cancellation waits
// for its purchase. step is told of each.
func (r *Replay) Run(ctx context.Context, invoices []trade.Invoice, width int, step func(n int)) error {
	r.done = make(map[string]chan struct{})
	for _, v := range invoices {
		if v.Cancels == "" {
			r.done[v.Number] = make(chan struct{})
		}
	}
	return side(ctx, len(invoices), width, func(ctx context.Context, i int) error {
		defer step(1)
		v := invoices[i]
		if v.Cancels != "" {
			return r.cancel(ctx, v)
		}
		defer close(r.done[v.Number])
		return r.buy(ctx, v)
	})
}

func (r *Replay) refuse(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Refused[reason]++
}

// buyer is who places an invoice: one of the market's consumers, or a guest.
func (r *Replay) buyer(v trade.Invoice) (Caller, *Person) {
	people := r.consumers[v.Market]
	if v.Customer == "" || len(people) == 0 {
		return r.shop.Guest(v.Market), nil
	}
	n := 0
	for _, c := range v.Customer {
		n = n*10 + int(c-'0')
	}
	p := people[n%len(people)]
	return p.Caller, p
}

func (r *Replay) buy(ctx context.Context, v trade.Invoice) error {
	who, person := r.buyer(v)
	create := &orderv1.CreateCartRequest{}
	for _, l := range v.Lines {
		create.Lines = append(create.Lines, &orderv1.LineInput{Sku: r.goods.SKU(l.Code), Quantity: l.Quantity})
	}
	cart, err := Patient(Keyed(ctx), func(ctx context.Context) (*orderv1.CreateCartResponse, error) {
		return orderv1connect.NewCartServiceClient(who.Client()).CreateCart(ctx, create)
	})
	if err != nil {
		return r.outcome(v, err)
	}
	check := &orderv1.CheckoutRequest{
		CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), PaymentMethodToken: "tok_ok",
		ShipTo: v.Consumer().Address, Email: v.Consumer().Email,
	}
	if person != nil {
		check.ShipTo, check.Email = person.Home, person.Mail
	}
	res, err := Patient(ctx, func(ctx context.Context) (*orderv1.CheckoutResponse, error) {
		return orderv1connect.NewOrderServiceClient(who.Client()).Checkout(ctx, check)
	})
	if err != nil {
		return r.outcome(v, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.placed[v.Number] = &Placed{Order: res.GetOrder(), Secret: cart.GetCartSecret(), Buyer: who}
	return nil
}

// place buys lines for a person under a name of its own; notify asks to be told
// when what is short is there.
func (r *Replay) place(ctx context.Context, name string, p *Person, lines []*orderv1.LineInput, notify bool) (*Placed, error) {
	return r.checkout(ctx, name, p, lines, &orderv1.CheckoutRequest{NotifyMe: notify})
}

// checkout buys lines as a request says that is not complete yet.
func (r *Replay) checkout(ctx context.Context, name string, p *Person, lines []*orderv1.LineInput, req *orderv1.CheckoutRequest) (*Placed, error) {
	cart, err := Patient(Keyed(ctx), func(ctx context.Context) (*orderv1.CreateCartResponse, error) {
		return orderv1connect.NewCartServiceClient(p.Client()).CreateCart(ctx, &orderv1.CreateCartRequest{Lines: lines})
	})
	if err != nil {
		return nil, err
	}
	req.CartId, req.CartSecret, req.PaymentMethodToken = cart.GetCart().GetCartId(), cart.GetCartSecret(), cmp.Or(req.GetPaymentMethodToken(), "tok_ok")
	req.ShipTo, req.Email = p.Home, p.Mail
	res, err := Patient(ctx, func(ctx context.Context) (*orderv1.CheckoutResponse, error) {
		return orderv1connect.NewOrderServiceClient(p.Client()).Checkout(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	placed := &Placed{Order: res.GetOrder(), Secret: cart.GetCartSecret(), Buyer: p.Caller}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.placed[name] = placed
	return placed, nil
}

// outcome counts a refusal; anything else ends the replay.
func (r *Replay) outcome(v trade.Invoice, err error) error {
	switch reason := fault.Reason(err); reason {
	case "OUT_OF_STOCK", "PAYMENT_DECLINED", "TOTAL_TOO_LARGE":
		r.refuse("order_" + lower(reason))
		return nil
	}
	return fmt.Errorf("invoice %s: %w", v.Number, err)
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (r *Replay) cancel(ctx context.Context, v trade.Invoice) error {
	// A purchase of an earlier run has no channel any more: it is done.
	if bought, ok := r.done[v.Cancels]; ok {
		select {
		case <-bought:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	p := r.placed[v.Cancels]
	r.mu.Unlock()
	if p == nil {
		r.refuse("cancellation_of_refused_order")
		return nil
	}
	_, err := Patient(ctx, func(ctx context.Context) (*orderv1.CancelOrderResponse, error) {
		return orderv1connect.NewOrderServiceClient(p.Buyer.Client()).CancelOrder(ctx, &orderv1.CancelOrderRequest{
			OrderId: p.Order.GetOrderId(), CartSecret: p.Secret, Reason: "cancelled by invoice " + v.Number,
		})
	})
	if err != nil {
		return fmt.Errorf("cancellation %s: %w", v.Number, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Cancelled = true
	return nil
}

// Accept has a merchant take its open orders into processing until stop is
// closed and none is left. step is told of each.
func (s *Shop) Accept(ctx context.Context, owner *Person, stop <-chan struct{}, step func(n int)) error {
	c := orderv1connect.NewProcessingServiceClient(owner.Client())
	for {
		last := false
		select {
		case <-stop:
			last = true
		default:
		}
		n, err := acceptOpen(ctx, c, step)
		switch {
		case err != nil:
			return err
		case n == 0 && last:
			return nil
		case n == 0:
			select {
			case <-stop:
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

func acceptOpen(ctx context.Context, c orderv1connect.ProcessingServiceClient, step func(n int)) (int, error) {
	page, err := Patient(ctx, func(ctx context.Context) (*orderv1.ListMerchantOrdersResponse, error) {
		return c.ListMerchantOrders(ctx, &orderv1.ListMerchantOrdersRequest{State: orderv1.Consignment_STATE_OPEN, PageSize: 50})
	})
	if err != nil || len(page.GetOrders()) == 0 {
		return 0, err
	}
	req := &orderv1.AcceptOrdersRequest{}
	for _, o := range page.GetOrders() {
		req.OrderIds = append(req.OrderIds, o.GetOrderId())
	}
	res, err := Patient(ctx, func(ctx context.Context) (*orderv1.AcceptOrdersResponse, error) { return c.AcceptOrders(ctx, req) })
	if err != nil {
		return 0, err
	}
	for _, a := range res.GetResults() {
		switch a.GetRefusal() {
		case "":
			step(1)
		case "ORDER_CANCELLING", "ORDER_CANCELLED":
		default:
			return 0, errors.New("accepting " + a.GetOrderId() + ": " + a.GetRefusal())
		}
	}
	return len(res.GetResults()), nil
}

// Placed returns the orders by invoice number.
func (r *Replay) Placed() map[string]*Placed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.placed
}

package shop_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// proof is a marketplace and one of everybody in it.
type proof struct {
	*shop.Shop
	t     *testing.T
	steps []step
	db    *pgx.Conn
	mu    sync.Mutex // of db

	market *shop.Market
	replay *shop.Replay
	staff  *shop.Staff
	floor  *shop.Floor
	buyer  *shop.Person
	owner  *shop.Person
	// dear and cheap are articles of the owner, and late one that nobody has.
	dear, cheap, late string
	// kept is an order whose parcel stands at the door and is not handed over.
	kept *shop.Placed
	// bought are orders that nobody has accepted, edited those of them that were
	// changed, and delivered those that came. accepted is yet to be packed.
	bought, edited, delivered []*shop.Placed
	accepted                  *shop.Placed
	done                      *shop.Done
	// less is what stays held of orders that cost less now: a hold is given
	// back as a whole.
	less map[string]int64
	// open is closed when the floor begins to work.
	open chan struct{}
	// telling are the names of stories that have begun and not ended.
	telling sync.Map
}

const (
	boughtOrders    = 4
	editedOrders    = 2
	deliveredOrders = 10
)

// prepare brings the marketplace as far as the sagas of after-sale can begin.
func prepare(t *testing.T, ctx context.Context, s *shop.Shop, db *pgx.Conn) *proof { //nolint:revive // the test comes first
	t.Helper()
	p := &proof{Shop: s, t: t, db: db, less: map[string]int64{}, open: make(chan struct{})}
	data, err := shop.ReadData(s.Root)
	require.NoError(t, err)
	data.Articles = data.Articles[:12]
	for i := range data.Articles {
		data.Articles[i].Sold, data.Articles[i].Merchant = 1000, i%2
	}
	var owned []int
	for i := 0; i < len(data.Articles); i += 2 {
		owned = append(owned, i)
	}
	slices.SortFunc(owned, func(a, b int) int { return cmp.Compare(data.Articles[a].Price.Minor, data.Articles[b].Price.Minor) })
	cheap, late, dear := owned[0], owned[1], owned[len(owned)-1]
	data.Articles[late].Sold = 0 // nothing of it is brought
	p.market, err = s.Populate(ctx, data, 1, silent)
	require.NoError(t, err)
	p.replay = s.NewReplay(p.market.Goods, p.market.Consumers)
	p.buyer, p.owner = p.market.Consumers["GB"][0], p.market.Owners[0]
	sku := func(i int) string { return p.market.Goods.SKU(data.Articles[i].Code) }
	p.dear, p.cheap, p.late = sku(dear), sku(cheap), sku(late)
	p.staff, err = s.Hire(ctx, func(int) {})
	require.NoError(t, err)
	p.floor, err = s.NewFloor(ctx, p.staff.Floor)
	require.NoError(t, err)
	require.NoError(t, s.PlaceOf(ctx, p.owner, "merchant/"+p.owner.Self.GetMerchantId()))

	for i := range deliveredOrders {
		o, err := p.place(ctx, fmt.Sprintf("delivered-%d", i))
		require.NoError(t, err)
		p.delivered = append(p.delivered, o)
	}
	require.NoError(t, p.accept(ctx, p.delivered...))
	require.NoError(t, p.floor.Work(ctx, 50, func(int) {}))
	p.done = &shop.Done{Received: p.market.Received, Replay: p.replay, Returned: &shop.Returned{}, Edits: &shop.Edits{Held: map[string]int64{}}}
	p.done.Returned.Cases(deliveredOrders)
	p.kept, err = p.place(ctx, "kept")
	require.NoError(t, err)
	require.NoError(t, p.accept(ctx, p.kept))
	packed, err := p.floor.Wave(ctx, 10)
	require.NoError(t, err)
	require.Equal(t, 1, packed)
	for i := range boughtOrders + editedOrders {
		o, err := p.place(ctx, fmt.Sprintf("bought-%d", i))
		require.NoError(t, err)
		if i < editedOrders {
			require.NoError(t, p.edit(ctx, o, "", &orderv1.LineInput{Sku: p.dear, Quantity: 1}))
			p.edited = append(p.edited, o)
		} else {
			p.bought = append(p.bought, o)
		}
	}
	p.accepted, err = p.place(ctx, "accepted")
	require.NoError(t, err)
	require.NoError(t, p.accept(ctx, p.accepted))
	for _, o := range p.delivered {
		require.NoError(t, p.await(ctx, o, orderv1.Order_STATE_DELIVERED))
	}
	require.NoError(t, shop.Until(ctx, func(ctx context.Context) (bool, error) {
		ready, err := p.floor.List(ctx, warehousev1.Fulfilment_STATE_READY)
		return len(ready) == 1, err
	}))
	return p
}

// stories lead through every saga, side by side.
func (p *proof) stories() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"an order is placed":                    p.buy,
		"an order waits for stock":              p.wait,
		"an order is accepted":                  func(ctx context.Context) error { return p.send(ctx, p.bought[3]) },
		"an order is shipped":                   p.ship,
		"an order is cancelled at the door":     func(ctx context.Context) error { return p.cancel(ctx, p.kept, "order/cancel") },
		"an order becomes less":                 func(ctx context.Context) error { return p.edit(ctx, p.bought[0], "order/edit", fewer(p)...) },
		"an order becomes another":              func(ctx context.Context) error { return p.edit(ctx, p.bought[1], "order/edit-stock", another(p)...) },
		"an order becomes more":                 func(ctx context.Context) error { return p.edit(ctx, p.bought[2], "order/edit-both", more(p)...) },
		"an order that was edited is accepted":  func(ctx context.Context) error { return p.send(ctx, p.edited[0]) },
		"an order that was edited is cancelled": func(ctx context.Context) error { return p.cancel(ctx, p.edited[1], "order/cancel-settled") },
		"goods come back as new":                p.backAsNew,
		"fakes come back":                       p.backFalse,
		"something else comes back":             p.backOther,
		"goods are exchanged, one is false":     p.exchange,
		"goods are repaired":                    p.repair,
		"nothing is sent back": func(ctx context.Context) error {
			return p.nothingSent(ctx, p.delivered[4], "return", aftersalev1.Kind_KIND_RETURN)
		},
		"nothing is sent to be exchanged": func(ctx context.Context) error {
			return p.nothingSent(ctx, p.delivered[5], "exchange", aftersalev1.Kind_KIND_EXCHANGE)
		},
		"nothing is sent to be repaired": func(ctx context.Context) error {
			return p.nothingSent(ctx, p.delivered[6], "repair", aftersalev1.Kind_KIND_REPAIR)
		},
		"what broke is sent anew":                 func(ctx context.Context) error { return p.broken(ctx, p.delivered[7], false) },
		"what broke is not there and is refunded": func(ctx context.Context) error { return p.broken(ctx, p.delivered[8], true) },
	}
}

func fewer(p *proof) []*orderv1.LineInput { return []*orderv1.LineInput{{Sku: p.dear, Quantity: 1}} }
func more(p *proof) []*orderv1.LineInput  { return []*orderv1.LineInput{{Sku: p.dear, Quantity: 3}} }
func another(p *proof) []*orderv1.LineInput {
	return []*orderv1.LineInput{{Sku: p.dear, Quantity: 1}, {Sku: p.cheap, Quantity: 1}}
}

// refuse has the next saga whose key begins so be refused a step.
func (p *proof) refuse(ctx context.Context, saga, step, key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return refuse(ctx, p.db, p.steps, saga, step, key)
}

// steered tells whether an error is the refusal that was asked for, or none.
func steered(err error) error {
	if fault.Reason(err) == "STEERED" {
		return nil
	}
	return err
}

func (p *proof) place(ctx context.Context, name string) (*shop.Placed, error) {
	return p.replay.Place(ctx, name, p.buyer, []*orderv1.LineInput{{Sku: p.dear, Quantity: 2}})
}

func (p *proof) accept(ctx context.Context, orders ...*shop.Placed) error {
	req := &orderv1.AcceptOrdersRequest{}
	for _, o := range orders {
		req.OrderIds = append(req.OrderIds, o.Order.GetOrderId())
	}
	res, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.AcceptOrdersResponse, error) {
		return orderv1connect.NewProcessingServiceClient(p.owner.Client()).AcceptOrders(ctx, req)
	})
	for _, r := range res.GetResults() {
		if r.GetRefusal() != "" {
			return fmt.Errorf("accepting %s: %s", r.GetOrderId(), r.GetRefusal())
		}
	}
	return err
}

func (p *proof) order(ctx context.Context, o *shop.Placed) (*orderv1.Order, error) {
	res, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.GetOrderResponse, error) {
		return orderv1connect.NewOrderServiceClient(p.buyer.Client()).GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: o.Order.GetOrderId(), CartSecret: o.Secret})
	})
	return res.GetOrder(), err
}

func (p *proof) await(ctx context.Context, o *shop.Placed, state orderv1.Order_State) error {
	var last orderv1.Order_State
	err := shop.Until(ctx, func(ctx context.Context) (bool, error) {
		now, err := p.order(ctx, o)
		last = now.GetState()
		return last == state, err
	})
	if err != nil {
		return fmt.Errorf("order %s is %s and not %s: %w", o.Order.GetOrderId(), last, state, err)
	}
	return nil
}

// buy: a checkout is refused at its last step and undone, the next succeeds.
func (p *proof) buy(ctx context.Context) error {
	if err := p.refuse(ctx, "order/checkout", "place", ""); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if _, err := p.place(ctx, fmt.Sprintf("placed-%d", n)); err == nil || steered(err) != nil {
			return err
		}
	}
}

// wait: an order waits for stock; when that has come its last step is refused
// and undone, as if the bank had, and with another means of payment it is
// placed.
func (p *proof) wait(ctx context.Context) error {
	const wanted, brought = 3, 5
	day := time.Now().UTC().AddDate(0, 0, 21).Format(time.DateOnly)
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*catalogv1.SetListingsResponse, error) {
		return catalogv1connect.NewCatalogServiceClient(p.owner.Client()).SetListings(ctx, &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{
			Sku: p.late, Market: "GB", Listed: true, Backorder: &catalogv1.BackorderTerms{Limit: 10, ExpectedOn: day},
		}}})
	}); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	o, err := p.replay.Backorder(ctx, "waiting", p.buyer, &orderv1.AcceptedBackorder{Sku: p.late, Quantity: wanted, ExpectedOn: day})
	if err != nil {
		return fmt.Errorf("order: %w", err)
	}
	if err := p.refuse(ctx, "order/allot", "place", o.Order.GetOrderId()); err != nil {
		return err
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*warehousev1.ReceiveStockResponse, error) {
		return warehousev1connect.NewStockServiceClient(p.owner.Client()).ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{
			ReceiptId: "ASN-late", Lines: []*warehousev1.ReceiptLine{{Sku: p.late, Quantity: brought}},
		})
	}); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	p.mu.Lock()
	p.done.Received += brought
	p.mu.Unlock()
	if err := shop.Until(ctx, func(ctx context.Context) (bool, error) {
		now, err := p.order(ctx, o)
		return now.GetBackorder().GetState() == orderv1.Backorder_STATE_PAYMENT_REFUSED, err
	}); err != nil {
		return fmt.Errorf("refused: %w", err)
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.RenewBackorderPaymentResponse, error) {
		return orderv1connect.NewBackorderServiceClient(p.buyer.Client()).RenewBackorderPayment(ctx, &orderv1.RenewBackorderPaymentRequest{
			OrderId: o.Order.GetOrderId(), CartSecret: o.Secret, PaymentMethodToken: "tok_ok",
		})
	}); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	return p.await(ctx, o, orderv1.Order_STATE_PLACED)
}

// send: the merchant accepts and the floor ships.
func (p *proof) send(ctx context.Context, o *shop.Placed) error {
	if err := p.accept(ctx, o); err != nil {
		return err
	}
	return p.await(ctx, o, orderv1.Order_STATE_DELIVERED)
}

// ship: a booking is refused and undone, the next succeeds.
func (p *proof) ship(ctx context.Context) error {
	if err := p.refuse(ctx, "order/ship", "assign", ""); err != nil {
		return err
	}
	close(p.open) // the floor
	return p.await(ctx, p.accepted, orderv1.Order_STATE_DELIVERED)
}

// cancel cancels an order; the first time the warehouse refuses.
func (p *proof) cancel(ctx context.Context, o *shop.Placed, saga string) error {
	if err := p.refuse(ctx, saga, "halt", o.Order.GetOrderId()); err != nil {
		return err
	}
	for {
		_, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.CancelOrderResponse, error) {
			return orderv1connect.NewOrderServiceClient(p.buyer.Client()).CancelOrder(ctx, &orderv1.CancelOrderRequest{
				OrderId: o.Order.GetOrderId(), CartSecret: o.Secret, Reason: "changed my mind",
			})
		})
		if steered(err) != nil {
			return err
		}
		if err == nil {
			o.Cancelled = true
			return p.await(ctx, o, orderv1.Order_STATE_CANCELLED)
		}
	}
}

// edit changes an order, by a saga of that name that is refused and undone the
// first time; without a name it is just changed.
func (p *proof) edit(ctx context.Context, o *shop.Placed, saga string, lines ...*orderv1.LineInput) error {
	c := orderv1connect.NewOrderEditServiceClient(p.buyer.Client())
	for _, want := range []orderv1.OrderEdit_State{orderv1.OrderEdit_STATE_REFUSED, orderv1.OrderEdit_STATE_APPLIED} {
		edit := &orderv1.ProposeEditRequest{
			EditId: id.New("edt"), OrderId: o.Order.GetOrderId(), CartSecret: o.Secret, Lines: lines, Reason: "counted again",
		}
		if want == orderv1.OrderEdit_STATE_REFUSED {
			if saga == "" {
				continue
			}
			if err := p.refuse(ctx, saga, "apply", edit.GetEditId()); err != nil {
				return err
			}
		}
		if _, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.ProposeEditResponse, error) { return c.ProposeEdit(ctx, edit) }); err != nil {
			return fmt.Errorf("propose: %w", err)
		}
		if _, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.AcceptEditResponse, error) {
			return c.AcceptEdit(ctx, &orderv1.AcceptEditRequest{EditId: edit.GetEditId(), CartSecret: o.Secret, PaymentMethodToken: "tok_ok"})
		}); steered(err) != nil && fault.Reason(err) != "EDIT_ENDED" {
			return fmt.Errorf("accept: %w", err)
		}
		var last orderv1.OrderEdit_State
		if err := shop.Until(ctx, func(ctx context.Context) (bool, error) {
			res, err := c.GetEdit(ctx, &orderv1.GetEditRequest{EditId: edit.GetEditId(), CartSecret: o.Secret})
			last = res.GetEdit().GetState()
			return last == want, err
		}); err != nil {
			return fmt.Errorf("edit %s is %s and not %s: %w", edit.GetEditId(), last, want, err)
		}
	}
	now, err := p.order(ctx, o)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.less[o.Order.GetOrderId()] = max(0, o.Order.GetTotal().GetMinorUnits()-now.GetTotal().GetMinorUnits())
	o.Order = now
	return nil
}

// workFloor packs and hands over what is to be sent, but for what is kept at
// the door, and has refused bookings made again.
func (p *proof) workFloor(ctx context.Context, stop <-chan struct{}) error {
	select {
	case <-p.open:
	case <-stop:
		return nil
	}
	for {
		if _, err := p.floor.Wave(ctx, 20); err != nil {
			return err
		}
		packed, err := p.floor.List(ctx, warehousev1.Fulfilment_STATE_PACKED)
		if err != nil {
			return err
		}
		for _, f := range packed {
			if _, err := shop.Patient(ctx, func(ctx context.Context) (*orderv1.BookFulfilmentResponse, error) {
				return orderv1connect.NewProcessingServiceClient(p.staff.Floor.Client()).BookFulfilment(ctx, &orderv1.BookFulfilmentRequest{FulfilmentId: f.GetFulfilmentId()})
			}); err != nil && !slices.Contains([]string{"FULFILMENT_NOT_HELD", "FULFILMENT_UNKNOWN"}, fault.Reason(err)) {
				return fmt.Errorf("book again: %w", err)
			}
		}
		ready, err := p.floor.List(ctx, warehousev1.Fulfilment_STATE_READY)
		if err != nil {
			return err
		}
		by := map[string][]*warehousev1.Fulfilment{}
		for _, f := range ready {
			if f.GetReference() != p.kept.Order.GetOrderId() {
				by[f.GetCarrierInstance()] = append(by[f.GetCarrierInstance()], f)
			}
		}
		for carrier, all := range by {
			if err := p.floor.Manifest(ctx, carrier, all); err != nil {
				return fmt.Errorf("hand over: %w", err)
			}
		}
		select {
		case <-stop:
			if len(packed)+len(ready) == 0 {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// beyond is what the proof's story has more of, or less, than the story that
// the reconciliation knows: three cases expire, nobody talks in any, two pieces
// are sent to replace others, and one leaves the house to its merchant.
var beyond = map[string]int64{
	"cases settled": -3, "messages": -2 * deliveredOrders, "units promised, going and gone": 2, "units sellable": -2, "units in the house and gone": -1,
}

func (p *proof) reconcile(t *testing.T, ctx context.Context) { //nolint:revive // the test comes first
	t.Helper()
	for id, minor := range p.less {
		if i := slices.IndexFunc(p.edited, func(o *shop.Placed) bool { return o.Order.GetOrderId() == id }); i < 0 || !p.edited[i].Cancelled {
			p.done.Edits.Held["GBP"] += minor
		}
	}
	quiet, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := p.Delivered(quiet)
	require.NoError(t, err)
	books, err := p.Reconcile(quiet, p.done)
	require.NoError(t, err)
	for _, c := range books.Checks {
		if c.Want += beyond[c.What]; !c.OK() {
			t.Errorf("%s: %s %d, %s %d", c.What, c.Left, c.Want, c.Right, c.Have)
		}
	}
}

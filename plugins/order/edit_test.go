package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

func (s *shop) edits(p call.Principal) orderv1connect.OrderEditServiceClient {
	return orderv1connect.NewOrderEditServiceClient(s.Client(call.Info{Principal: p, Market: "DE"}))
}

func (s *shop) propose(t *testing.T, p call.Principal, o *orderv1.Order, secret string, in ...any) *orderv1.OrderEdit {
	t.Helper()
	res, err := s.edits(p).ProposeEdit(t.Context(), &orderv1.ProposeEditRequest{
		EditId: id.New("edt"), OrderId: o.GetOrderId(), CartSecret: secret, Lines: lines(in...), Reason: "changed my mind",
	})
	require.NoError(t, err)
	return res.GetEdit()
}

func (s *shop) agree(t *testing.T, p call.Principal, e *orderv1.OrderEdit, secret, token string) (*orderv1.OrderEdit, error) {
	t.Helper()
	res, err := s.edits(p).AcceptEdit(t.Context(), &orderv1.AcceptEditRequest{EditId: e.GetEditId(), CartSecret: secret, PaymentMethodToken: token})
	return res.GetEdit(), err
}

func (s *shop) accept(t *testing.T, o *orderv1.Order, merchants ...string) {
	t.Helper()
	for _, m := range merchants {
		res, err := s.processing(m).AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
		require.NoError(t, err)
		require.Empty(t, res.GetResults()[0].GetRefusal())
		require.Equal(t, orderv1.Consignment_STATE_ACCEPTED, res.GetResults()[0].GetState())
	}
}

func quantities(o *orderv1.Order) map[string]int64 {
	out := map[string]int64{}
	for _, l := range o.GetLines() {
		out[l.GetSku()] = l.GetQuantity()
	}
	return out
}

// reconcile requires that money and stock stand as the orders say.
func (s *shop) reconcile(t *testing.T, orders ...*orderv1.Order) {
	t.Helper()
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	want := map[string]int64{"sku_tea": 1000, "sku_pot": 1000, "sku_cup": 1000}
	var taken int64
	for _, o := range orders {
		if o.GetState() == orderv1.Order_STATE_CANCELLED {
			continue
		}
		for _, l := range o.GetLines() {
			want[l.GetSku()] -= l.GetQuantity()
		}
		for _, c := range o.GetConsignments() {
			if c.GetState() >= orderv1.Consignment_STATE_ACCEPTED {
				taken += c.GetTotal().GetMinorUnits()
			}
		}
	}
	require.Equal(t, want, s.world.stock)
	for _, n := range s.world.captured {
		taken -= n
	}
	for _, n := range s.world.refunded {
		taken += n
	}
	require.Zero(t, taken, "what is captured and not refunded is what accepted parts cost")
}

func TestAConsumerChangesAPlacedOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2, "sku_cup", 1) // 2999
	e := s.propose(t, guest, o, secret, "sku_tea", 3, "sku_cup", 0, "sku_pot", 1)
	require.EqualValues(t, 1250-499+3000, e.GetPriceDifference().GetMinorUnits())
	require.Equal(t, []string{"consumer"}, e.GetAwaits())
	require.Len(t, e.GetLines(), 3)
	require.Equal(t, quantities(o), quantities(s.order(t, o)), "a proposal changes nothing")

	_, err := s.agree(t, guest, e, secret, "")
	requireReason(t, connect.CodeFailedPrecondition, "PAYMENT_METHOD_REQUIRED", err)
	for range 2 {
		got, err := s.agree(t, guest, e, secret, "tok_ok")
		require.NoError(t, err)
		require.Equal(t, orderv1.OrderEdit_STATE_APPLIED, got.GetState())
	}
	now := s.order(t, o)
	require.Equal(t, map[string]int64{"sku_tea": 3, "sku_pot": 1}, quantities(now))
	require.EqualValues(t, 3*1250+3000, now.GetTotal().GetMinorUnits())
	require.Len(t, now.GetConsignments(), 1, "nothing is left of the other merchant's part")
	s.reconcile(t, now)

	s.accept(t, o, "mrc_one")
	now = s.order(t, o)
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, now.GetState())
	s.reconcile(t, now)
	require.Len(t, s.world.requested, 2, "one request for each reservation")
	require.Subset(t, s.whats(t, o), []string{"edit.proposed", "edit.accepted", "order.edited", "edit.settled"})
	var told *orderv1.OrderEdited
	for _, m := range s.Published(t) {
		if e, ok := m.(*orderv1.OrderEdited); ok {
			told = e
		}
	}
	require.EqualValues(t, 3751, told.GetDifference().GetMinorUnits())
	require.NotEmpty(t, told.GetPaymentId())

	_, err = s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	require.Empty(t, s.world.payments, "both payments are given back")
	require.EqualValues(t, 1000, s.world.stock["sku_tea"])
	require.EqualValues(t, 1000, s.world.stock["sku_pot"])
}

func TestWhatCannotBeHadLeavesTheOrderAsItWas(t *testing.T) {
	t.Parallel()
	s := open(t)
	for name, c := range map[string]struct {
		lines  []any
		token  string
		reason string
	}{
		"no stock": {[]any{"sku_pot", 5000}, "tok_ok", "OUT_OF_STOCK"},
		"no money": {[]any{"sku_pot", 1}, "tok_declined", "PAYMENT_DECLINED"},
	} {
		o, secret := s.place(t, guest, "sku_tea", 1)
		stock := s.world.stock["sku_pot"]
		e := s.propose(t, guest, o, secret, c.lines...)
		_, err := s.agree(t, guest, e, secret, c.token)
		requireReason(t, connect.CodeFailedPrecondition, c.reason, err)
		require.Equal(t, stock, s.world.stock["sku_pot"], name)
		require.True(t, proto.Equal(s.order(t, o).GetTotal(), o.GetTotal()), name)
		_, err = s.agree(t, guest, e, secret, c.token)
		requireReason(t, connect.CodeFailedPrecondition, "EDIT_ENDED", err)
		s.accept(t, o, "mrc_one")
	}
}

// A part that is being worked on: the merchant agrees too, goods that go are
// stopped, and money is given back or taken at once.
func TestAnAcceptedPartIsChangedWithTheMerchantsWord(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	less := s.propose(t, guest, o, secret, "sku_tea", 1)
	require.Equal(t, []string{"consumer", "mrc_one"}, less.GetAwaits())
	got, err := s.agree(t, guest, less, secret, "")
	require.NoError(t, err)
	require.Equal(t, []string{"mrc_one"}, got.GetAwaits())
	_, err = s.agree(t, member("mrc_two"), less, "", "")
	require.NoError(t, err, "another merchant's word changes nothing")
	require.Equal(t, quantities(o), quantities(s.order(t, o)))
	got, err = s.agree(t, member("mrc_one"), less, "", "")
	require.NoError(t, err)
	require.Equal(t, orderv1.OrderEdit_STATE_APPLIED, got.GetState())
	first := requestOf(o.GetOrderId(), "mrc_one")
	require.True(t, s.world.halted[first])
	require.Len(t, s.world.requested, 3, "the rest is asked for again")
	s.reconcile(t, s.order(t, o))

	more := s.propose(t, member("mrc_one"), o, "", "sku_pot", 2)
	require.Equal(t, []string{"mrc_one", "consumer"}, more.GetAwaits(), "it costs more")
	_, err = s.agree(t, member("mrc_one"), more, "", "")
	require.NoError(t, err)
	_, err = s.agree(t, guest, more, secret, "tok_ok")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"sku_tea": 1, "sku_cup": 1, "sku_pot": 2}, quantities(s.order(t, o)))
	s.reconcile(t, s.order(t, o))

	// Reducing alone, the merchant needs nobody; refunds reach over payments.
	gone := s.propose(t, member("mrc_one"), o, "", "sku_pot", 0, "sku_tea", 0)
	require.Equal(t, []string{"mrc_one"}, gone.GetAwaits())
	_, err = s.agree(t, member("mrc_one"), gone, "", "")
	require.NoError(t, err)
	require.Len(t, s.order(t, o).GetConsignments(), 1)
	s.reconcile(t, s.order(t, o))
}

func TestEditsAreForThoseOfTheOrderAndTheirOwnGoods(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	try := func(p call.Principal, req *orderv1.ProposeEditRequest) error {
		req.OrderId = o.GetOrderId()
		if req.GetEditId() == "" {
			req.EditId = id.New("edt")
		}
		_, err := s.edits(p).ProposeEdit(t.Context(), req)
		return err
	}
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", try(stranger, &orderv1.ProposeEditRequest{Lines: lines("sku_tea", 1)}))
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", try(member("mrc_three"), &orderv1.ProposeEditRequest{Lines: lines("sku_tea", 1)}))
	requireReason(t, connect.CodePermissionDenied, "NOT_YOUR_GOODS", try(member("mrc_one"), &orderv1.ProposeEditRequest{Lines: lines("sku_cup", 0)}))
	requireReason(t, connect.CodePermissionDenied, "NOT_THE_CONSUMER", try(member("mrc_one"), &orderv1.ProposeEditRequest{ShipTo: home}))
	requireReason(t, connect.CodeFailedPrecondition, "EDIT_EMPTY", try(guest, &orderv1.ProposeEditRequest{CartSecret: secret, Lines: lines("sku_tea", 0, "sku_cup", 0)}))
	requireReason(t, connect.CodeFailedPrecondition, "NO_CHANGE", try(guest, &orderv1.ProposeEditRequest{CartSecret: secret, Lines: lines("sku_tea", 2)}))
	requireReason(t, connect.CodeFailedPrecondition, "NOT_LISTED", try(guest, &orderv1.ProposeEditRequest{CartSecret: secret, Lines: lines("sku_moon", 2)}))
	edit := id.New("edt")
	require.NoError(t, try(guest, &orderv1.ProposeEditRequest{EditId: edit, CartSecret: secret, Lines: lines("sku_tea", 3)}))
	require.NoError(t, try(guest, &orderv1.ProposeEditRequest{EditId: edit, CartSecret: secret, Lines: lines("sku_tea", 3)}))
	requireReason(t, connect.CodeAlreadyExists, "EDIT_DIFFERS", try(guest, &orderv1.ProposeEditRequest{EditId: edit, CartSecret: secret, Lines: lines("sku_tea", 4)}))
	s.world.prices["sku_tea"] = 1300
	requireReason(t, connect.CodeFailedPrecondition, "PRICE_CHANGED", try(guest, &orderv1.ProposeEditRequest{CartSecret: secret, Lines: lines("sku_tea", 3)}))

	_, err := s.edits(member("mrc_three")).GetEdit(t.Context(), &orderv1.GetEditRequest{EditId: edit})
	requireReason(t, connect.CodeNotFound, "EDIT_UNKNOWN", err)
	two, err := s.edits(member("mrc_two")).GetEdit(t.Context(), &orderv1.GetEditRequest{EditId: edit})
	require.NoError(t, err)
	require.Empty(t, two.GetEdit().GetLines(), "another merchant's lines are not shown")
	_, err = s.edits(guest).DeclineEdit(t.Context(), &orderv1.DeclineEditRequest{EditId: edit, CartSecret: secret, Reason: "no"})
	require.NoError(t, err)
	_, err = s.edits(guest).AcceptEdit(t.Context(), &orderv1.AcceptEditRequest{EditId: edit, CartSecret: secret, PaymentMethodToken: "tok_ok"})
	requireReason(t, connect.CodeFailedPrecondition, "EDIT_ENDED", err)
	list, err := s.edits(staff).ListEdits(t.Context(), &orderv1.ListEditsRequest{OrderId: o.GetOrderId()})
	require.NoError(t, err)
	require.Len(t, list.GetEdits(), 1)
}

func TestAProposalIsGoneWhenTheOrderChangedOrItsTimeIsOver(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2)
	a, b := s.propose(t, guest, o, secret, "sku_tea", 1), s.propose(t, guest, o, secret, "sku_tea", 3)
	c := s.propose(t, guest, o, secret, "sku_tea", 5)
	require.NoError(t, s.Deliver(t.Context(), "timers", &orderv1.OrderEditTimedOut{EditId: c.GetEditId()}))
	_, err := s.agree(t, guest, c, secret, "tok_ok")
	requireReason(t, connect.CodeFailedPrecondition, "EDIT_ENDED", err)
	_, err = s.agree(t, guest, a, secret, "")
	require.NoError(t, err)
	_, err = s.agree(t, guest, b, secret, "tok_ok")
	requireReason(t, connect.CodeFailedPrecondition, "EDIT_STALE", err)
	require.NoError(t, s.Deliver(t.Context(), "timers", &orderv1.OrderEditTimedOut{EditId: a.GetEditId()}))
	got, err := s.edits(staff).GetEdit(t.Context(), &orderv1.GetEditRequest{EditId: a.GetEditId()})
	require.NoError(t, err)
	require.Equal(t, orderv1.OrderEdit_STATE_APPLIED, got.GetEdit().GetState(), "a late timer changes nothing")
	s.reconcile(t, s.order(t, o))
}

func TestPackedGoodsAreNotEditedAndTheAddressIsSealed(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	address := &typev1.Address{Recipient: "Erika Mustermann", Lines: []string{"Domstr. 1"}, Locality: "Köln", PostalCode: "50667", CountryCode: "DE"}
	res, err := s.edits(guest).ProposeEdit(t.Context(), &orderv1.ProposeEditRequest{
		EditId: id.New("edt"), OrderId: o.GetOrderId(), CartSecret: secret, ShipTo: address, CarrierInstance: "post-de",
	})
	require.NoError(t, err)
	e := res.GetEdit()
	require.True(t, e.GetAddressChanges())
	require.Equal(t, []string{"consumer", "mrc_one", "mrc_two"}, e.GetAwaits())
	for _, p := range []call.Principal{guest, member("mrc_one"), member("mrc_two")} {
		_, err := s.agree(t, p, e, secret, "")
		require.NoError(t, err)
	}
	require.NotEqual(t, o.GetShipToRef(), s.order(t, o).GetShipToRef())
	seen, err := s.orders(guest).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	require.True(t, proto.Equal(address, seen.GetOrder().GetShipTo()))

	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	shipment := s.order(t, o).GetConsignments()[0].GetShipmentIds()[0]
	s.run(t, shipment)
	require.Equal(t, "post-de", s.world.bookings[shipment].GetRule().GetInstance())
	require.Equal(t, s.order(t, o).GetShipToRef(), s.world.bookings[shipment].GetTo().GetAddressRef())
	for _, in := range []*orderv1.ProposeEditRequest{{Lines: lines("sku_tea", 1)}, {ShipTo: home}} {
		in.EditId, in.OrderId, in.CartSecret = id.New("edt"), o.GetOrderId(), secret
		_, err = s.edits(guest).ProposeEdit(t.Context(), in)
		requireReason(t, connect.CodeFailedPrecondition, "PACKED", err)
	}
	s.propose(t, guest, o, secret, "sku_cup", 2) // the other part can still change
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentSplit{FulfilmentId: "ful_two", RestId: "ful_rest", Reference: o.GetOrderId(), Short: true}))
	_, err = s.edits(member("mrc_two")).ProposeEdit(t.Context(), &orderv1.ProposeEditRequest{EditId: id.New("edt"), OrderId: o.GetOrderId(), Lines: lines("sku_cup", 0)})
	requireReason(t, connect.CodeFailedPrecondition, "FULFILMENT_SPLIT", err)
}

// The warehouse says that a carrier has it, after it stopped something else:
// that is asked for again, and money and stock go back.
func TestAStopThatComesTooLateUndoesTheEdit(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	s.world.late = map[string]bool{requestOf(o.GetOrderId(), "mrc_two"): true}
	e := s.propose(t, guest, o, secret, "sku_tea", 1, "sku_cup", 0, "sku_pot", 1)
	for _, p := range []call.Principal{member("mrc_one"), member("mrc_two")} {
		_, err := s.agree(t, p, e, "", "")
		require.NoError(t, err)
	}
	_, err := s.agree(t, guest, e, secret, "tok_ok")
	requireReason(t, connect.CodeFailedPrecondition, "PACKED", err)
	require.Equal(t, quantities(o), quantities(s.order(t, o)))
	s.reconcile(t, s.order(t, o))
	require.Len(t, s.world.payments, 1)
	require.Len(t, s.world.requested, 3, "what was stopped in vain goes on")

	// And can be edited again, by its new request.
	s.world.late = nil
	e = s.propose(t, member("mrc_one"), o, "", "sku_tea", 1)
	_, err = s.agree(t, member("mrc_one"), e, "", "")
	require.NoError(t, err)
	require.Len(t, s.world.halted, 2)
	s.reconcile(t, s.order(t, o))
}

// Neighbours do what they are asked, and the first answer of each operation is
// lost: asked again, nothing is done twice.
func TestAnEditWhoseAnswersAreLostIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	e := s.propose(t, guest, o, secret, "sku_tea", 1, "sku_pot", 2)
	_, err := s.agree(t, member("mrc_one"), e, "", "")
	require.NoError(t, err)
	s.world.loses = true
	got, err := s.agree(t, guest, e, secret, "tok_ok")
	require.NoError(t, err)
	require.Equal(t, orderv1.OrderEdit_STATE_APPLIED, got.GetState())
	less := s.propose(t, member("mrc_one"), o, "", "sku_pot", 1)
	_, err = s.agree(t, member("mrc_one"), less, "", "")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(s.world.lost), 4, "a reservation, an authorisation, a capture and a refund")
	s.reconcile(t, s.order(t, o))
}

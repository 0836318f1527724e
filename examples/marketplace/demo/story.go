package main

import (
	"context"
	"maps"
	"slices"

	"github.com/entrepot/entrepot/sdk/money"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// story is what happens in the marketplace, in its order.
type story struct {
	shop     *shop.Shop
	data     *shop.Data
	invoices []trade.Invoice
	of       amounts

	market *shop.Market
	staff  *shop.Staff
	floor  *shop.Floor
	done   shop.Done
	// denied are the purchases that consumers' banks took the money back of: the
	// first is going to be won, the second lost.
	denied []*shop.Dispute
}

// tell goes from registration to reconciliation.
func (y *story) tell(ctx context.Context) (*shop.Books, error) {
	var err error
	y.market, err = y.shop.Populate(ctx, y.data, y.of.consumers, func(what string, total int) shop.Step { return newBar(what, total) })
	if err != nil {
		return nil, err
	}
	y.done.Received = y.market.Received
	y.done.Replay = y.shop.NewReplay(y.market.Goods, y.market.Consumers)
	for _, chapter := range []func(context.Context) error{
		y.hire, y.inspect, y.browse, y.deny, y.trade, y.edit, y.fulfil, y.answer, y.takeBack, y.settle,
	} {
		if err := chapter(ctx); err != nil {
			return nil, err
		}
	}
	say("refused    %s", counts(y.data.Refused, y.done.Replay.Refused))
	say("")
	say("reconciling, when nothing is under way any more")
	return y.shop.Reconcile(ctx, &y.done)
}

func (y *story) hire(ctx context.Context) error {
	hiring := newBar("staff", 6)
	var err error
	if y.staff, err = y.shop.Hire(ctx, hiring.Add); err != nil {
		return err
	}
	hiring.Done()
	if err := y.shop.Commission(ctx, y.staff.Desk); err != nil {
		return err
	}
	if err := y.shop.Collect(ctx, y.staff.Desk); err != nil {
		return err
	}
	y.floor, err = y.shop.NewFloor(ctx, y.staff.Floor)
	return err
}

// browse: consumers look around and are recommended something.
func (y *story) browse(ctx context.Context) error {
	looking := newBar("browsing", y.of.consumers)
	shown, err := y.shop.Browse(ctx, y.market, looking.Add)
	y.done.Recommended += shown
	looking.Done()
	return err
}

// inspect: merchants send goods to inspection; genuine ones go to the
// warehouse, fakes are destroyed.
func (y *story) inspect(ctx context.Context) error {
	var units int64
	for _, a := range y.data.Articles {
		if a.Proof != trade.Unproven {
			units += a.Sold
		}
	}
	if units == 0 {
		return nil
	}
	say("")
	say("merchants send jewellery and purses to inspection; what is genuine gets a certificate and a shelf, fakes are destroyed")
	sending := newBar("consigned", int(units))
	sent, err := y.shop.Consign(ctx, y.market, y.data.Articles, y.staff, sending.Add)
	if err != nil {
		return err
	}
	sending.Done()
	looking := newBar("inspected", int(sent.Genuine+sent.Fakes))
	if err := y.shop.Inspect(ctx, sent, y.staff, looking.Add); err != nil {
		return err
	}
	looking.Done()
	shelving := newBar("put away", int(sent.Genuine))
	if err := y.floor.Shelve(ctx, sent.Genuine, shelving.Add); err != nil {
		return err
	}
	shelving.Done()
	say("           %d fakes among %d pieces were found by tag, register or bench, and destroyed", sent.Fakes, sent.Genuine+sent.Fakes)
	say("follow     %s", sent.Follow())
	y.done.Consigned = sent
	return nil
}

// deny: two consumers tell their banks that they know nothing of a purchase,
// and the banks take the money back as soon as it is captured.
func (y *story) deny(ctx context.Context) error {
	say("")
	say("two consumers have their banks take back what they paid; it is gone from the merchants at once")
	for _, proven := range []bool{true, false} {
		d, err := y.shop.Deny(ctx, y.market, y.done.Replay, y.data.Articles, proven, func(int) {})
		if err != nil {
			return err
		}
		say("disputed   order %s, dispute %s: %s", d.Placed.Order.GetOrderId(), d.ID, d.Amount)
		y.denied = append(y.denied, d)
	}
	return nil
}

// answer: merchants tell the banks how it was. One has the certificate of the
// goods and gets its money back, the other does not.
func (y *story) answer(ctx context.Context) error {
	say("")
	say("merchants hand evidence over, and the banks decide")
	for i, d := range y.denied {
		won := i == 0
		certificates, err := d.Answer(ctx, won, func(int) {})
		if err != nil {
			return err
		}
		with, end := "what it has", "lost: the consumer keeps the money"
		if len(certificates) > 0 {
			with = "certificate " + certificates[0]
		}
		if won {
			end = "won: the money is back"
		}
		say("decided    dispute %s, answered with %s, is %s", d.ID, with, end)
	}
	return nil
}

func (y *story) trade(ctx context.Context) error {
	say("")
	say("consumers buy what real invoices bought and pay, merchants take their orders up")
	buying := newBar("trading", len(y.invoices))
	if err := y.shop.Trade(ctx, y.market, y.done.Replay, y.invoices, y.of.width, buying); err != nil {
		return err
	}
	buying.Done()
	return nil
}

// edit: some change what they ordered before a merchant takes it up, and one
// wants more than there is. Now that people have bought, consumers are
// recommended what goes with it.
func (y *story) edit(ctx context.Context) error {
	say("")
	say("some change what they ordered; one wants more than there is, and its merchant brings more")
	changing := newBar("edits", 4)
	var err error
	if y.done.Edits, err = y.shop.Edit(ctx, y.market, y.done.Replay, 4, changing.Add); err != nil {
		return err
	}
	changing.Done()
	came, err := y.shop.Short(ctx, y.market, y.done.Replay)
	if err != nil {
		return err
	}
	y.done.Received += came
	bought := make(chan struct{})
	close(bought)
	for _, owner := range y.market.Owners {
		if err := y.shop.Accept(ctx, owner, bought, func(int) {}); err != nil {
			return err
		}
	}
	return y.browse(ctx)
}

// settle: merchants are paid what was delivered and not sent back, less tax,
// commission and what is kept back; authorities get the tax.
func (y *story) settle(ctx context.Context) error {
	say("")
	say("merchants are paid what was delivered and kept, less tax, commission and a reserve; authorities are paid the tax")
	n, err := y.shop.PayOut(ctx, y.market)
	if err != nil {
		return err
	}
	say("paid out   %d times to merchants, half of what they may have in each currency", n)
	y.done.Remitted, err = y.shop.Remit(ctx, y.staff.Desk)
	for _, c := range slices.Sorted(maps.Keys(y.done.Remitted)) {
		say("remitted   %s of tax", money.Money{Currency: c, Minor: y.done.Remitted[c]})
	}
	return err
}

// fulfil picks, packs and hands over a share of what was bought, oldest first,
// and waits until the carriers have delivered it.
func (y *story) fulfil(ctx context.Context) error {
	say("")
	say("the warehouse picks, packs and hands over, carriers deliver")
	parts := 0
	for _, p := range y.done.Replay.Placed() {
		if !p.Cancelled {
			parts += len(p.Order.GetConsignments())
		}
	}
	packing := newBar("shipping", min(parts, y.of.ship))
	if err := y.floor.Work(ctx, y.of.ship, packing.Add); err != nil {
		return err
	}
	packing.Done()
	sums, err := y.shop.Delivered(ctx)
	if err != nil {
		return err
	}
	say("delivered  %d parcels' facts from three countries' carriers, %d tasks for a person", sums.GetFacts(), sums.GetTasksOpen())
	return nil
}

// takeBack has some of what was delivered come back.
func (y *story) takeBack(ctx context.Context) error {
	say("")
	say("consumers send something back: they talk, the merchant decides, goods wait in quarantine until inspected, money follows")
	coming := newBar("returns", y.of.back)
	y.done.Returned = &shop.Returned{}
	if err := y.shop.TakeBack(ctx, y.market, y.done.Replay, y.floor, y.staff, y.done.Returned, y.of.back, coming.Add); err != nil {
		return err
	}
	coming.Done()
	say("follow     %s", y.done.Returned.Follow())
	return nil
}

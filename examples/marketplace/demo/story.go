package main

import (
	"context"

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
}

// tell goes from registration to reconciliation.
func (y *story) tell(ctx context.Context) (*shop.Books, error) {
	var err error
	y.market, err = y.shop.Populate(ctx, y.data, y.of.consumers, func(what string, total int) shop.Step { return newBar(what, total) })
	if err != nil {
		return nil, err
	}
	y.done.Received = y.market.Received
	for _, chapter := range []func(context.Context) error{y.hire, y.inspect, y.trade, y.fulfil, y.takeBack} {
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
	hiring := newBar("staff", 5)
	var err error
	if y.staff, err = y.shop.Hire(ctx, hiring.Add); err != nil {
		return err
	}
	hiring.Done()
	y.floor, err = y.shop.NewFloor(ctx, y.staff.Floor)
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
	y.done.Consigned = sent
	return nil
}

func (y *story) trade(ctx context.Context) error {
	y.done.Replay = y.shop.NewReplay(y.market.Goods, y.market.Consumers)
	buying := newBar("trading", len(y.invoices))
	if err := y.shop.Trade(ctx, y.market, y.done.Replay, y.invoices, y.of.width, buying); err != nil {
		return err
	}
	buying.Done()
	return nil
}

// fulfil picks, packs and hands over a share of what was bought, oldest first,
// and waits until the carriers have delivered it.
func (y *story) fulfil(ctx context.Context) error {
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
	coming := newBar("returns", y.of.back)
	var err error
	if y.done.Returned, err = y.shop.TakeBack(ctx, y.floor, y.staff, y.of.back, coming.Add); err != nil {
		return err
	}
	coming.Done()
	return nil
}

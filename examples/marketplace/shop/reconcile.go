package shop

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
)

// Operator is the deployment's own operator.
func (s *Shop) Operator() (Caller, error) {
	token, err := s.OperatorToken()
	return s.Guest("").with(token), err
}

// Quiet waits until nothing is under way any more: every event is delivered
// and every saga has ended. It answers the bus as it then stands.
func (s *Shop) Quiet(ctx context.Context) (*operatorv1.GetBusResponse, error) {
	for {
		op, err := s.Operator()
		if err != nil {
			return nil, err
		}
		bus, err := Patient(ctx, func(ctx context.Context) (*operatorv1.GetBusResponse, error) {
			return operatorv1connect.NewBusServiceClient(op.Client()).GetBus(ctx, &operatorv1.GetBusRequest{})
		})
		if err != nil {
			return nil, err
		}
		if busy(bus) == "" {
			return bus, nil
		}
		select {
		case <-ctx.Done():
			return bus, fmt.Errorf("still under way: %s", busy(bus))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func busy(bus *operatorv1.GetBusResponse) string {
	var why []string
	if bus.GetOutbox() > 0 {
		why = append(why, fmt.Sprintf("outbox %d", bus.GetOutbox()))
	}
	if bus.GetDueTimers() > 0 {
		why = append(why, fmt.Sprintf("timers due %d", bus.GetDueTimers()))
	}
	for _, sub := range bus.GetSubscriptions() {
		if sub.GetLag() > 0 || sub.GetParked() > 0 {
			why = append(why, fmt.Sprintf("%s lag %d, parked %d", sub.GetSubscription(), sub.GetLag(), sub.GetParked()))
		}
	}
	for _, state := range []string{"running", "waiting", "compensating"} {
		if n := bus.GetSagas()[state]; n > 0 {
			why = append(why, fmt.Sprintf("sagas %s %d", state, n))
		}
	}
	return strings.Join(why, "; ")
}

// Check is one line of the reconciliation: two figures that must be equal.
type Check struct {
	What, Left, Right string
	Want, Have        int64
}

// OK tells whether the figures agree.
func (c Check) OK() bool { return c.Want == c.Have }

// Done is what the clients did, as far as they know.
type Done struct {
	// Received is how many units the merchants brought, but for those that they
	// consigned.
	Received  int64
	Replay    *Replay
	Consigned *Consignments
	Returned  *Returned
	Edits     *Edits
	// Remitted is what authorities were paid, by currency.
	Remitted map[string]int64
	// Recommended counts what consumers were shown.
	Recommended int64
}

// Books is everything that is compared, and what came of it.
type Books struct {
	Checks     []Check
	Orders     *orderv1.SumOrdersResponse
	Stock      *warehousev1.SumStockResponse
	Payments   *paymentv1.SumPaymentsResponse
	Shipments  *logisticsv1.SumShipmentsResponse
	Inspection *inspectionv1.SumInspectionResponse
	Cases      *aftersalev1.SumCasesResponse
	Shortages  *orderv1.SumShortagesResponse
	// Balances are merchants'; nil where nobody is hired who may see them.
	Balances []*paymentv1.Balance
	Bus      *operatorv1.GetBusResponse
	Done     *Done
	// Companies are the payment companies' own books by instance.
	Companies map[string]Company
	Captured  map[string]int64
	PSP       map[string]int64
	// Disputed are disputes: all that were opened, and of them won and lost.
	Disputed map[string]*Outcome
}

// Reconciled tells whether every line agrees.
func (b *Books) Reconciled() bool {
	return !slices.ContainsFunc(b.Checks, func(c Check) bool { return !c.OK() })
}

func (b *Books) check(what, left string, want int64, right string, have int64) {
	b.Checks = append(b.Checks, Check{What: what, Left: left, Right: right, Want: want, Have: have})
}

// Reconcile compares what the clients saw with every ledger, and the ledgers
// with each other and with the payment companies' own books.
func (s *Shop) Reconcile(ctx context.Context, done *Done) (*Books, error) {
	b := &Books{Captured: map[string]int64{}, PSP: map[string]int64{}, Done: done}
	var err error
	if b.Bus, err = s.Quiet(ctx); err != nil {
		return nil, err
	}
	op, err := s.Operator()
	if err != nil {
		return nil, err
	}
	client := op.Client()
	if b.Orders, err = orderv1connect.NewOrderServiceClient(client).SumOrders(ctx, &orderv1.SumOrdersRequest{}); err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	if b.Stock, err = warehousev1connect.NewStockServiceClient(client).SumStock(ctx, &warehousev1.SumStockRequest{}); err != nil {
		return nil, fmt.Errorf("stock: %w", err)
	}
	if b.Payments, err = paymentv1connect.NewPaymentServiceClient(client).SumPayments(ctx, &paymentv1.SumPaymentsRequest{}); err != nil {
		return nil, fmt.Errorf("payments: %w", err)
	}
	if b.Companies, err = s.companies(); err != nil {
		return nil, err
	}
	if b.Inspection, err = inspectionv1connect.NewCaseServiceClient(client).SumInspection(ctx, &inspectionv1.SumInspectionRequest{}); err != nil {
		return nil, fmt.Errorf("inspection: %w", err)
	}
	if b.Cases, err = aftersalev1connect.NewProcessingServiceClient(client).SumCases(ctx, &aftersalev1.SumCasesRequest{}); err != nil {
		return nil, fmt.Errorf("cases: %w", err)
	}
	if b.Shortages, err = orderv1connect.NewShortageServiceClient(client).SumShortages(ctx, &orderv1.SumShortagesRequest{}); err != nil {
		return nil, fmt.Errorf("shortages: %w", err)
	}
	if s.Staff != nil {
		res, err := paymentv1connect.NewSettlementServiceClient(s.Staff.Desk.Client()).ListBalances(ctx, &paymentv1.ListBalancesRequest{})
		if err != nil {
			return nil, fmt.Errorf("balances: %w", err)
		}
		b.Balances = append([]*paymentv1.Balance{}, res.GetBalances()...)
	}
	b.orders(done.Replay)
	b.goods()
	b.cases()
	b.money()
	if err := b.disputes(ctx, client); err != nil {
		return nil, err
	}
	b.bus()
	if b.Shipments, err = logisticsv1connect.NewShipmentServiceClient(client).SumShipments(ctx, &logisticsv1.SumShipmentsRequest{}); err != nil {
		return nil, fmt.Errorf("shipments: %w", err)
	}
	b.check("bookings of unknown outcome", "none", 0, "logistics module", b.Shipments.GetUnknown())
	return b, s.reports(ctx, client, b)
}

// orders: what the clients were told against what the order module holds.
func (b *Books) orders(r *Replay) {
	var open, cancelled int64
	units := map[string]int64{}
	for _, p := range r.Placed() {
		if p.Cancelled {
			cancelled++
			continue
		}
		open++
		for _, l := range p.Order.GetLines() {
			units[l.GetSku()] += l.GetQuantity()
		}
	}
	o := b.Orders.GetOrders()
	b.check("orders standing", "accepted invoices", open, "order module", o["placed"]+o["accepted"]+o["handed_over"]+o["delivered"])
	b.check("orders cancelled", "cancelled invoices", cancelled, "order module", o["cancelled"])
	b.check("orders in between", "none", 0, "order module", o["placing"]+o["cancelling"])
	b.check("units ordered", "accepted invoices", sum(units), "order module", sum(b.Orders.GetUnits()))
	differ := int64(0)
	for sku, n := range units {
		if b.Orders.GetUnits()[sku] != n {
			differ++
		}
	}
	b.check("articles whose units differ", "none", 0, "invoices and orders", differ)
}

// money: orders against the payment ledger, and it against each company.
func (b *Books) money() {
	authorized, captured, refunded := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, s := range b.Payments.GetSums() {
		c := s.GetCurrencyCode()
		authorized[c] += s.GetAuthorizedMinor() - s.GetVoidedMinor()
		captured[c] += s.GetCapturedMinor()
		refunded[c] += s.GetRefundedMinor()
		company := b.Companies[s.GetInstance()]
		b.check("authorised "+c, "payment ledger", s.GetAuthorizedMinor(), "books of "+s.GetInstance(), company.Authorized)
		b.check("captured "+c, "payment ledger", s.GetCapturedMinor(), "books of "+s.GetInstance(), company.Captured)
		b.check("voided "+c, "payment ledger", s.GetVoidedMinor(), "books of "+s.GetInstance(), company.Voided)
		b.check("refunded "+c, "payment ledger", s.GetRefundedMinor(), "books of "+s.GetInstance(), company.Refunded)
		b.check("paid out "+c, "merchants' balances", b.paidOut(s.GetInstance()), "books of "+s.GetInstance(), company.PaidOut)
		b.Captured[c] += s.GetCapturedMinor()
		b.PSP[c] += company.Captured
	}
	b.accounts()
	back := b.Cases.GetRefundedMinor()
	for _, c := range slices.Sorted(maps.Keys(b.Orders.GetTotalMinor())) {
		var rest int64
		if b.Done.Edits != nil {
			rest = b.Done.Edits.Held[c]
		}
		b.check("held or taken "+c, "orders, less refunds", b.Orders.GetTotalMinor()[c]+rest-back[c], "payment ledger", authorized[c]-refunded[c])
		b.check("taken and kept "+c, "parts, less refunds", b.Orders.GetAcceptedMinor()[c]-back[c], "payment ledger", captured[c]-refunded[c])
	}
	b.check("payment ledger balances", "yes", 1, "accounts and transfers", truth(b.Payments.GetBalanced()))
	b.check("payments of unknown outcome", "none", 0, "payment module", b.Payments.GetOpen())
}

// accounts: what is left of what companies took is somebody's, and who it is
// knows so.
func (b *Books) accounts() {
	owed, merchants, remitted := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, a := range b.Payments.GetAccounts() {
		c := a.GetCurrencyCode()
		switch who, _, _ := strings.Cut(a.GetAccount(), ":"); {
		case who == "merchant":
			merchants[c] += a.GetMinorUnits()
			owed[c] += a.GetMinorUnits()
		case who == "tax" || who == "platform":
			owed[c] += a.GetMinorUnits()
		}
		if a.GetAccount() == "platform:bank" {
			remitted[c] += a.GetMinorUnits()
		}
	}
	left := map[string]int64{}
	for _, company := range b.Companies {
		left[company.Currency] += company.Captured - company.Refunded - company.Disputed - company.Fees - company.PaidOut
	}
	for _, one := range b.Balances {
		merchants[one.GetCurrencyCode()] -= one.GetPendingMinor() + one.GetAvailableMinor() + one.GetReservedMinor() + one.GetInPayoutMinor()
	}
	for _, c := range slices.Sorted(maps.Keys(owed)) {
		b.check("taken and not given back "+c, "merchants, taxes, fees", owed[c], "books of companies", left[c])
		if b.Balances != nil {
			b.check("merchants' money but balances "+c, "none", 0, "payment ledger", merchants[c])
		}
		b.check("taxes remitted "+c, "remittances", b.Done.Remitted[c], "payment ledger", remitted[c])
	}
}

func (b *Books) bus() {
	var parked int64
	for _, s := range b.Bus.GetSubscriptions() {
		parked += s.GetParked()
	}
	sagas := b.Bus.GetSagas()
	b.check("events not sequenced", "none", 0, "outbox", b.Bus.GetOutbox())
	b.check("events parked", "none", 0, "bus", parked)
	b.check("sagas not ended", "none", 0, "bus", sagas["running"]+sagas["waiting"]+sagas["compensating"])
	b.check("sagas stuck", "none", 0, "bus", sagas["stuck"])
}

// reports has the payment module compare itself, operation by operation, with
// each company's report over the wire.
func (s *Shop) reports(ctx context.Context, client *connect.Client, b *Books) error {
	for _, instance := range slices.Sorted(maps.Keys(b.Companies)) {
		res, err := paymentv1connect.NewPaymentServiceClient(client).ReconcilePayments(ctx, &paymentv1.ReconcilePaymentsRequest{Instance: instance})
		if err != nil {
			return fmt.Errorf("report of %s: %w", instance, err)
		}
		b.check("operations told differently", "none", 0, "report of "+instance, res.GetTotal())
	}
	return nil
}

func sum(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Command merchant is an enterprise terminal's whole day by the public API
// alone: every act of docs/enterprise-terminal.md, in its order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/terminals/page"
)

// terminal is where a merchant is, and what it remembers between acts.
type terminal struct {
	shop, mails, token string

	email, sku string
}

func main() {
	t := &terminal{email: fmt.Sprintf("owner.%d@merchant.example", rand.Uint32())}
	flag.StringVar(&t.shop, "shop", "http://127.0.0.1:8080", "public address of the shop")
	flag.StringVar(&t.mails, "mail", "examples/marketplace/.run/data/mail", "folder of the mails")
	flag.Parse()
	for _, act := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"register", t.register}, {"list", t.list}, {"stock", t.stock}, {"backorders", t.backorders}, {"inspect", t.inspect}, {"work", t.work}, {"answer", t.answer},
		{"figures", t.figures},
		{"schedule", t.schedule}, {"disputes", t.disputes}, {"pay out", t.payOut},
	} {
		fmt.Println("##", act.name)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := act.do(ctx); err != nil {
			log.Fatalf("%s: %v", act.name, err)
		}
		cancel()
	}
}

func (t *terminal) client() *connect.Client {
	return connect.NewClient(connecthttp.NewTransport(http.DefaultClient, t.shop), func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Entrepot-Market", "GB")
				info.RequestHeader().Set("Idempotency-Key", fmt.Sprint(rand.Uint64()))
				if t.token != "" {
					info.RequestHeader().Set("Authorization", "Bearer "+t.token)
				}
			}
			return next(ctx, spec)
		}
	})
}

func (t *terminal) register(ctx context.Context) error {
	c := identityv1connect.NewIdentityServiceClient(t.client())
	if _, err := c.RegisterMerchant(ctx, &identityv1.RegisterMerchantRequest{
		Email: t.email, Password: "correct horse battery staple", Name: "Olive Owner", MerchantName: "Lamps of " + t.email, CountryCode: "GB",
	}); err != nil {
		return err
	}
	token, err := page.Mailed(ctx, t.mails, t.email)
	if err != nil {
		return err
	}
	if _, err := c.ConfirmRegistration(ctx, &identityv1.ConfirmRegistrationRequest{Token: token}); err != nil {
		return err
	}
	in, err := c.Login(ctx, &identityv1.LoginRequest{Email: t.email, Password: "correct horse battery staple"})
	if err != nil {
		return err
	}
	t.token = in.GetTokens().GetAccessToken()
	_, err = identityv1connect.NewMemberServiceClient(t.client()).InviteMember(ctx, &identityv1.InviteMemberRequest{
		Email: "clerk." + t.email, Permissions: []string{"order.read", "order.write"},
	})
	return err
}

func (t *terminal) list(ctx context.Context) error {
	c := catalogv1connect.NewCatalogServiceClient(t.client())
	put, err := c.PutProducts(ctx, &catalogv1.PutProductsRequest{Products: []*catalogv1.Product{{
		Titles: []*typev1.LocalizedText{{Language: "en", Text: "Brass terminal lamp"}}, Category: "home/lighting", OriginCountry: "IN", HsCode: "940550",
		Variants: []*catalogv1.Variant{{MerchantSku: "LAMP-1", WeightGrams: 400}},
	}}})
	if err != nil {
		return err
	}
	t.sku = put.GetProducts()[0].GetVariants()[0].GetSku()
	if _, err := c.SetPrices(ctx, &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{
		{Sku: t.sku, Market: "GB", Amount: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 2400}},
	}}); err != nil {
		return err
	}
	_, err = c.SetListings(ctx, &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{Sku: t.sku, Market: "GB", Listed: true}}})
	return err
}

func (t *terminal) stock(ctx context.Context) error {
	stock := warehousev1connect.NewStockServiceClient(t.client())
	if err := page.Eventually(ctx, func() (bool, error) {
		_, err := stock.ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{
			ReceiptId: "ASN-1", Lines: []*warehousev1.ReceiptLine{{Sku: t.sku, Quantity: 40}},
		})
		if fault.Reason(err) == "SKU_UNKNOWN" {
			return false, nil // the warehouse hears of it in a moment
		}
		return true, err
	}); err != nil {
		return err
	}
	if _, err := warehousev1connect.NewInventoryServiceClient(t.client()).SetStockPolicies(ctx, &warehousev1.SetStockPoliciesRequest{
		Policies: []*warehousev1.StockPolicy{{Sku: t.sku, Market: "GB", SafetyStock: 5, ReorderPoint: 10}},
	}); err != nil {
		return err
	}
	shelf, err := orderv1connect.NewQueueServiceClient(t.client()).AdjustShelf(ctx, &orderv1.AdjustShelfRequest{
		Sku: t.sku, Delta: -1, Cause: "broken on the shelf",
	})
	fmt.Println(shelf.GetSellable())
	return err
}

func (t *terminal) backorders(ctx context.Context) error {
	if _, err := catalogv1connect.NewCatalogServiceClient(t.client()).SetListings(ctx, &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{
		Sku: t.sku, Market: "GB", Listed: true,
		Backorder: &catalogv1.BackorderTerms{Limit: 20, ExpectedOn: time.Now().UTC().AddDate(0, 0, 21).Format(time.DateOnly)},
	}}}); err != nil {
		return err
	}
	waits, err := orderv1connect.NewQueueServiceClient(t.client()).ListQueue(ctx, &orderv1.ListQueueRequest{Backordered: true})
	if err != nil {
		return err
	}
	short, err := orderv1connect.NewShortageServiceClient(t.client()).ListReplenishment(ctx, &orderv1.ListReplenishmentRequest{})
	if err != nil {
		return err
	}
	fmt.Println(len(waits.GetOrders()), "wait;", len(short.GetReplenishments()), "short")
	for _, o := range waits.GetOrders() {
		if _, err := orderv1connect.NewBackorderServiceClient(t.client()).CancelBackorders(ctx, &orderv1.CancelBackordersRequest{
			OrderIds: []string{o.GetOrderId()}, Reason: "it is no longer made",
		}); err != nil {
			return err
		}
	}
	return nil
}

func (t *terminal) inspect(ctx context.Context) error {
	c, consignment := inspectionv1connect.NewConsignmentServiceClient(t.client()), id.New("csg")
	if _, err := c.OpenConsignment(ctx, &inspectionv1.OpenConsignmentRequest{ConsignmentId: consignment, Lines: []*inspectionv1.ConsignmentLine{
		{Sku: t.sku, Quantity: 2, Serialised: true, Serials: []string{"L-1", "L-2"}, Category: "home/lighting"},
	}}); err != nil {
		return err
	}
	res, err := c.GetConsignment(ctx, &inspectionv1.GetConsignmentRequest{ConsignmentId: consignment})
	fmt.Println(res.GetConsignment().GetState(), res.GetConsignment().GetLines()[0].GetQuantity())
	return err
}

func (t *terminal) work(ctx context.Context) error {
	queue := orderv1connect.NewQueueServiceClient(t.client())
	if _, err := queue.SetHandlingTime(ctx, &orderv1.SetHandlingTimeRequest{Hours: 24}); err != nil {
		return err
	}
	var order string
	if err := page.Eventually(ctx, func() (bool, error) {
		res, err := queue.ListQueue(ctx, &orderv1.ListQueueRequest{State: orderv1.Consignment_STATE_OPEN})
		for _, o := range res.GetOrders() {
			order = o.GetOrderId()
		}
		return order != "", err
	}); err != nil {
		return err
	}
	if _, err := queue.HoldConsignments(ctx, &orderv1.HoldConsignmentsRequest{
		OrderIds: []string{order}, Reason: orderv1.Hold_REASON_ADDRESS, Note: "is it a flat?",
	}); err != nil {
		return err
	}
	if _, err := queue.ReleaseConsignments(ctx, &orderv1.ReleaseConsignmentsRequest{OrderIds: []string{order}}); err != nil {
		return err
	}
	if _, err := orderv1connect.NewProcessingServiceClient(t.client()).AcceptOrders(ctx, &orderv1.AcceptOrdersRequest{OrderIds: []string{order}}); err != nil {
		return err
	}
	shipments := logisticsv1connect.NewShipmentServiceClient(t.client())
	return page.Eventually(ctx, func() (bool, error) {
		res, err := shipments.ListShipments(ctx, &logisticsv1.ListShipmentsRequest{OrderId: order})
		return len(res.GetShipments()) > 0 && res.GetShipments()[0].GetStatus() == logisticsv1.Status_STATUS_DELIVERED, err
	})
}

func (t *terminal) answer(ctx context.Context) error {
	var asked string
	cases := aftersalev1connect.NewApplicationServiceClient(t.client())
	if err := page.Eventually(ctx, func() (bool, error) {
		res, err := cases.ListCases(ctx, &aftersalev1.ListCasesRequest{State: aftersalev1.Case_STATE_REQUESTED})
		for _, c := range res.GetCases() {
			asked = c.GetCaseId()
		}
		return asked != "", err
	}); err != nil {
		return err
	}
	if _, err := aftersalev1connect.NewConversationServiceClient(t.client()).PostMessage(ctx, &aftersalev1.PostMessageRequest{
		Topic: &aftersalev1.Topic{CaseId: asked}, MessageKey: "one", Text: "Send it back, please.",
	}); err != nil {
		return err
	}
	res, err := aftersalev1connect.NewProcessingServiceClient(t.client()).Decide(ctx, &aftersalev1.DecideRequest{
		CaseId: asked, Approve: true, ReasonCode: "GOODS_AT_FAULT", Text: "We are sorry.",
	})
	fmt.Println(res.GetCase().GetDecision().GetOutcome())
	return err
}

func (t *terminal) figures(ctx context.Context) error {
	money := paymentv1connect.NewSettlementServiceClient(t.client())
	balances, err := money.ListBalances(ctx, &paymentv1.ListBalancesRequest{})
	if err != nil {
		return err
	}
	for _, b := range balances.GetBalances() {
		fmt.Println(b.GetCurrencyCode(), b.GetPendingMinor(), b.GetAvailableMinor())
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	statement, err := money.GetStatement(ctx, &paymentv1.GetStatementRequest{
		CurrencyCode: "GBP", From: timestamppb.New(today), Until: timestamppb.New(today.Add(24 * time.Hour)),
	})
	if err != nil {
		return err
	}
	fmt.Println(len(statement.GetLines()), "lines")
	figures, err := analyticsv1connect.NewFigureServiceClient(t.client()).GetFigures(ctx, &analyticsv1.GetFiguresRequest{
		Scope: &analyticsv1.Scope{FromDay: today.Format(time.DateOnly), ToDay: today.Format(time.DateOnly)},
		By:    []analyticsv1.Dimension{analyticsv1.Dimension_DIMENSION_PRODUCT},
	})
	if err != nil {
		return err
	}
	for _, f := range figures.GetFigures() {
		fmt.Println(f.GetSku(), f.GetSoldUnits())
	}
	short, err := orderv1connect.NewShortageServiceClient(t.client()).ListReplenishment(ctx, &orderv1.ListReplenishmentRequest{})
	fmt.Println(len(short.GetReplenishments()), "short")
	return err
}

func (t *terminal) schedule(ctx context.Context) error {
	money := paymentv1connect.NewSettlementServiceClient(t.client())
	if _, err := money.PutPayoutSchedule(ctx, &paymentv1.PutPayoutScheduleRequest{Schedule: &paymentv1.PayoutSchedule{
		Interval: paymentv1.PayoutSchedule_INTERVAL_WEEKLY, Day: 1, Minimum: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 5000},
	}}); err != nil {
		return err
	}
	res, err := money.ListPayoutSchedules(ctx, &paymentv1.ListPayoutSchedulesRequest{})
	for _, s := range res.GetSchedules() {
		fmt.Println(s.GetInterval(), s.GetDay(), s.GetMinimum().GetCurrencyCode(), s.GetMinimum().GetMinorUnits(), "from", s.GetFirstDay())
	}
	return err
}

func (t *terminal) disputes(ctx context.Context) error {
	c := paymentv1connect.NewDisputeServiceClient(t.client())
	res, err := c.ListDisputes(ctx, &paymentv1.ListDisputesRequest{States: []paymentv1.Dispute_State{paymentv1.Dispute_STATE_NEEDS_RESPONSE}})
	if err != nil {
		return err
	}
	for _, d := range res.GetDisputes() {
		sent, err := c.SubmitEvidence(ctx, &paymentv1.SubmitEvidenceRequest{
			DisputeId: d.GetDisputeId(), EvidenceId: id.New("evd"), Submit: true,
			Evidence: []*paymentv1.Evidence{{Kind: paymentv1.EvidenceKind_EVIDENCE_KIND_STATEMENT, Text: "Delivered to the door, and signed for."}},
		})
		if err != nil {
			return err
		}
		fmt.Println(d.GetReference(), d.GetAmount().GetMinorUnits(), sent.GetDispute().GetState())
	}
	return nil
}

func (t *terminal) payOut(ctx context.Context) error {
	c := paymentv1connect.NewSettlementServiceClient(t.client())
	balances, err := c.ListBalances(ctx, &paymentv1.ListBalancesRequest{})
	if err != nil {
		return err
	}
	for _, b := range balances.GetBalances() {
		if b.GetAvailableMinor() <= 0 {
			continue
		}
		paid, err := c.RequestPayout(ctx, &paymentv1.RequestPayoutRequest{
			PayoutId: id.New("pot"), Instance: b.GetInstance(), Amount: &typev1.Money{CurrencyCode: b.GetCurrencyCode(), MinorUnits: b.GetAvailableMinor()},
		})
		if err != nil {
			return err
		}
		fmt.Println(b.GetCurrencyCode(), b.GetAvailableMinor(), paid.GetProviderReference())
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	file, err := c.ExportStatement(ctx, &paymentv1.ExportStatementRequest{
		CurrencyCode: "GBP", From: timestamppb.New(today), Until: timestamppb.New(today.Add(24 * time.Hour)), Format: paymentv1.ExportStatementRequest_FORMAT_CSV,
	})
	if err != nil {
		return err
	}
	for {
		piece, err := file.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Print(string(piece.GetData()))
	}
}

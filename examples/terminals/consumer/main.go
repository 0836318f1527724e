// Command consumer is a user terminal's whole day by the public API alone:
// every act of docs/user-terminal.md, in its order.
package main

import (
	"context"
	"flag"
	"fmt"
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
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/terminals/page"
)

// terminal is where a consumer is, and what it remembers between acts.
type terminal struct {
	shop, mails, market, token string

	email, sku, orderID, caseID string
}

func main() {
	t := &terminal{}
	flag.StringVar(&t.shop, "shop", "http://127.0.0.1:8080", "public address of the shop")
	flag.StringVar(&t.mails, "mail", "examples/marketplace/.run/data/mail", "folder of the mails")
	flag.StringVar(&t.market, "market", "GB", "market to buy in")
	flag.Parse()
	t.email = fmt.Sprintf("bob.%d@consumer.example", rand.Uint32())
	for _, act := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"register", t.register}, {"browse", t.browse}, {"recommend", t.recommend}, {"buy", t.buy}, {"change", t.change}, {"wait", t.wait}, {"follow", t.follow},
		{"inbox", t.inbox}, {"send back", t.sendBack}, {"talk", t.talk},
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
				info.RequestHeader().Set("Entrepot-Market", t.market)
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
	if _, err := c.RegisterConsumer(ctx, &identityv1.RegisterConsumerRequest{
		Email: t.email, Password: "correct horse battery staple", Name: "Bob Example", Market: t.market,
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
	t.token = in.GetTokens().GetAccessToken()
	return err
}

func (t *terminal) browse(ctx context.Context) error {
	c := catalogv1connect.NewStorefrontServiceClient(t.client())
	found, err := c.SearchListings(ctx, &catalogv1.SearchListingsRequest{InStockOnly: true, PageSize: 3, WithFacets: true})
	if err != nil {
		return err
	}
	for _, l := range found.GetListings() {
		fmt.Println(l.GetSku(), l.GetPrice().GetMinorUnits(), l.GetPrice().GetCurrencyCode(), l.GetTitle())
		t.sku = l.GetSku()
	}
	one, err := c.GetListing(ctx, &catalogv1.GetListingRequest{Sku: t.sku})
	fmt.Println(one.GetListing().GetAvailable(), "there")
	return err
}

func (t *terminal) recommend(ctx context.Context) error {
	if _, err := analyticsv1connect.NewBeaconServiceClient(t.client()).RecordViews(ctx, &analyticsv1.RecordViewsRequest{
		BatchId: id.New("bat"), SessionId: id.New("ses"), Consent: analyticsv1.Consent_CONSENT_PERSONALISATION,
		Views: []*analyticsv1.View{{Kind: analyticsv1.View_KIND_LISTING, Sku: t.sku, At: timestamppb.Now()}},
	}); err != nil {
		return err
	}
	res, err := analyticsv1connect.NewRecommendationServiceClient(t.client()).Recommend(ctx, &analyticsv1.RecommendRequest{
		Kind: analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL, Limit: 3,
	})
	for _, r := range res.GetRecommendations() {
		fmt.Println(r.GetSku(), r.GetReason().GetCode())
	}
	return err
}

func (t *terminal) buy(ctx context.Context) error {
	order, err := t.order(ctx, 2)
	t.orderID = order.GetOrderId()
	return err
}

func (t *terminal) order(ctx context.Context, quantity int64) (*orderv1.Order, error) {
	cart, err := orderv1connect.NewCartServiceClient(t.client()).CreateCart(ctx, &orderv1.CreateCartRequest{
		Lines: []*orderv1.LineInput{{Sku: t.sku, Quantity: quantity}},
	})
	if err != nil {
		return nil, err
	}
	res, err := orderv1connect.NewOrderServiceClient(t.client()).Checkout(ctx, &orderv1.CheckoutRequest{
		CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), PaymentMethodToken: "tok_ok", Email: t.email,
		ShipTo: &typev1.Address{
			Recipient: "Bob Example", Lines: []string{"1 Example Street"}, Locality: "London", PostalCode: "EC1A 1BB", CountryCode: "GB",
		},
	})
	fmt.Println(res.GetOrder().GetOrderId(), res.GetOrder().GetState(), res.GetOrder().GetTotal().GetMinorUnits())
	return res.GetOrder(), err
}

func (t *terminal) change(ctx context.Context) error {
	order, err := t.order(ctx, 1)
	if err != nil {
		return err
	}
	c, edit := orderv1connect.NewOrderEditServiceClient(t.client()), id.New("edt")
	proposed, err := c.ProposeEdit(ctx, &orderv1.ProposeEditRequest{
		EditId: edit, OrderId: order.GetOrderId(), Lines: []*orderv1.LineInput{{Sku: t.sku, Quantity: 2}}, Reason: "one for my sister",
	})
	if err != nil {
		return err
	}
	fmt.Println(proposed.GetEdit().GetState(), proposed.GetEdit().GetPriceDifference().GetMinorUnits())
	if _, err := c.AcceptEdit(ctx, &orderv1.AcceptEditRequest{EditId: edit, PaymentMethodToken: "tok_ok"}); err != nil {
		return err
	}
	if err := page.Eventually(ctx, func() (bool, error) {
		res, err := c.GetEdit(ctx, &orderv1.GetEditRequest{EditId: edit})
		return res.GetEdit().GetState() == orderv1.OrderEdit_STATE_APPLIED, err
	}); err != nil {
		return err
	}
	if order, err = t.order(ctx, 1); err != nil {
		return err
	}
	res, err := orderv1connect.NewOrderServiceClient(t.client()).CancelOrder(ctx, &orderv1.CancelOrderRequest{
		OrderId: order.GetOrderId(), Reason: "bought twice",
	})
	fmt.Println(res.GetOrder().GetState())
	return err
}

func (t *terminal) wait(ctx context.Context) error {
	found, err := catalogv1connect.NewStorefrontServiceClient(t.client()).SearchListings(ctx, &catalogv1.SearchListingsRequest{PageSize: 100})
	if err != nil {
		return err
	}
	sku := ""
	for _, l := range found.GetListings() {
		if l.GetAvailable() == 0 && l.GetBackorder() != nil {
			sku = l.GetSku()
		}
	}
	if sku == "" {
		return nil // nothing here is sold before it is there
	}
	carts := orderv1connect.NewCartServiceClient(t.client())
	cart, err := carts.CreateCart(ctx, &orderv1.CreateCartRequest{Lines: []*orderv1.LineInput{{Sku: sku, Quantity: 1}}})
	if err != nil {
		return err
	}
	told, err := carts.GetCartAvailability(ctx, &orderv1.GetCartAvailabilityRequest{CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret()})
	if err != nil {
		return err
	}
	line := told.GetLines()[0]
	fmt.Println(line.GetAvailable(), "there,", line.GetBackordered(), "expected on", line.GetExpectedOn())
	orders := orderv1connect.NewOrderServiceClient(t.client())
	res, err := orders.Checkout(ctx, &orderv1.CheckoutRequest{
		CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), PaymentMethodToken: "tok_ok", Email: t.email,
		ShipTo: &typev1.Address{
			Recipient: "Bob Example", Lines: []string{"1 Example Street"}, Locality: "London", PostalCode: "EC1A 1BB", CountryCode: "GB",
		},
		Backorders: []*orderv1.AcceptedBackorder{{Sku: sku, Quantity: line.GetBackordered(), ExpectedOn: line.GetExpectedOn()}},
	})
	if err != nil {
		return err
	}
	waits := res.GetBackorders()[0]
	fmt.Println(waits.GetOrderId(), waits.GetState(), waits.GetBackorder().GetState())
	ended, err := orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{OrderId: waits.GetOrderId(), Reason: "found another"})
	fmt.Println(ended.GetOrder().GetState())
	return err
}

func (t *terminal) follow(ctx context.Context) error {
	c := orderv1connect.NewOrderServiceClient(t.client())
	if err := page.Eventually(ctx, func() (bool, error) {
		res, err := c.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: t.orderID})
		return res.GetOrder().GetState() == orderv1.Order_STATE_DELIVERED, err
	}); err != nil {
		return err
	}
	order, err := c.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: t.orderID})
	if err != nil {
		return err
	}
	number := order.GetOrder().GetConsignments()[0].GetTrackingNumbers()[0]
	way, err := logisticsv1connect.NewTrackingServiceClient(t.client()).GetTracking(ctx, &logisticsv1.GetTrackingRequest{TrackingNumber: number})
	if err != nil {
		return err
	}
	for _, f := range way.GetTracking().GetFacts() {
		fmt.Println(f.GetAt().AsTime().Format(time.RFC3339), f.GetStatus(), f.GetText())
	}
	line, err := c.GetTimeline(ctx, &orderv1.GetTimelineRequest{OrderId: t.orderID})
	for _, e := range line.GetEntries() {
		fmt.Println(e.GetAt().AsTime().Format(time.RFC3339), e.GetWho(), e.GetWhat())
	}
	return err
}

func (t *terminal) inbox(ctx context.Context) error {
	c := notificationv1connect.NewInboxServiceClient(t.client())
	return page.Eventually(ctx, func() (bool, error) {
		res, err := c.ListNotifications(ctx, &notificationv1.ListNotificationsRequest{PageSize: 5})
		for _, n := range res.GetNotifications() {
			fmt.Println(n.GetTopic(), n.GetTitle())
		}
		return len(res.GetNotifications()) > 0, err
	})
}

func (t *terminal) sendBack(ctx context.Context) error {
	c := aftersalev1connect.NewApplicationServiceClient(t.client())
	may, err := c.CheckApplication(ctx, &aftersalev1.CheckApplicationRequest{OrderId: t.orderID})
	if err != nil {
		return err
	}
	for _, k := range may.GetLines()[0].GetKinds() {
		if k.GetRefusal() == "" {
			fmt.Println(k.GetKind(), "until", k.GetUntil().AsTime().Format(time.DateOnly))
		}
	}
	asked, err := c.Apply(ctx, &aftersalev1.ApplyRequest{
		ApplicationId: "one-back", OrderId: t.orderID, Kind: aftersalev1.Kind_KIND_WITHDRAWAL,
		Lines: []*aftersalev1.ApplyLine{{Sku: t.sku, Quantity: 1}},
	})
	if err != nil {
		return err
	}
	t.caseID = asked.GetCase().GetCaseId()
	if _, err := aftersalev1connect.NewConversationServiceClient(t.client()).PostMessage(ctx, &aftersalev1.PostMessageRequest{
		Topic: &aftersalev1.Topic{CaseId: t.caseID}, MessageKey: "one", Text: "Where do I send it?", Language: "en",
	}); err != nil {
		return err
	}
	all, err := c.GetCase(ctx, &aftersalev1.GetCaseRequest{CaseId: t.caseID})
	fmt.Println(all.GetCase().GetState())
	for _, e := range all.GetTimeline() {
		fmt.Println(e.GetAt().AsTime().Format(time.RFC3339), e.GetWhat())
	}
	return err
}

func (t *terminal) talk(ctx context.Context) error {
	c := aftersalev1connect.NewConversationServiceClient(t.client())
	watching, stop := context.WithCancel(ctx)
	defer stop()
	messages, err := c.WatchMessages(watching, &aftersalev1.WatchMessagesRequest{Topic: &aftersalev1.Topic{CaseId: t.caseID}})
	if err != nil {
		return err
	}
	first, err := messages.Receive() // and so on, for as long as the terminal is open
	if err != nil {
		return err
	}
	m := first.GetMessage()
	fmt.Println(m.GetAuthor(), m.GetText())
	if _, err := c.MarkRead(ctx, &aftersalev1.MarkReadRequest{ConversationId: m.GetConversationId(), Position: m.GetPosition()}); err != nil {
		return err
	}
	where, err := c.GetWhereabouts(ctx, &aftersalev1.GetWhereaboutsRequest{Topic: &aftersalev1.Topic{CaseId: t.caseID}})
	for _, s := range where.GetShipments() {
		fmt.Println(s.GetWay(), s.GetStatus(), s.GetCarrier(), s.GetTrackingNumbers())
	}
	if err != nil {
		return err
	}
	rights, err := aftersalev1connect.NewPolicyServiceClient(t.client()).ListRights(ctx, &aftersalev1.ListRightsRequest{Market: t.market})
	for _, r := range rights.GetRights() {
		fmt.Println(r.GetWhat(), r.GetDays(), "days:", r.GetSource())
	}
	return err
}

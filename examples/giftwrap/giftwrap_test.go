package main

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	giftwrapv1 "example.com/giftwrap/proto/example/giftwrap/v1"
	"example.com/giftwrap/proto/example/giftwrap/v1/giftwrapv1connect"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// neighbours are a catalog and a warehouse, as far as this module asks them.
type neighbours struct {
	catalogv1connect.UnimplementedQuoteServiceHandler
	warehousev1connect.UnimplementedStockServiceHandler

	market   string   // of the last quote
	sheets   int      // in stock
	released []string // reservations
	// meanwhile runs while paper is being reserved.
	meanwhile func(context.Context) error
}

func (n *neighbours) register(s *connect.Server) {
	catalogv1connect.RegisterQuoteServiceHandler(s, n)
	warehousev1connect.RegisterStockServiceHandler(s, n)
}

func (n *neighbours) QuotePrices(_ context.Context, req *catalogv1.QuotePricesRequest) (*catalogv1.QuotePricesResponse, error) {
	n.market = req.GetMarket()
	return &catalogv1.QuotePricesResponse{}, nil
}

func (n *neighbours) ReserveStock(ctx context.Context, req *warehousev1.ReserveStockRequest) (*warehousev1.ReserveStockResponse, error) {
	if n.meanwhile != nil {
		if err := n.meanwhile(ctx); err != nil {
			return nil, err
		}
	}
	if n.sheets == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "there is not enough", req.GetLines()[0].GetSku(), "0")
	}
	n.sheets--
	return &warehousev1.ReserveStockResponse{}, nil
}

func (n *neighbours) ReleaseReservation(_ context.Context, req *warehousev1.ReleaseReservationRequest) (*warehousev1.ReleaseReservationResponse, error) {
	n.sheets++
	n.released = append(n.released, req.GetReservationId())
	return &warehousev1.ReleaseReservationResponse{}, nil
}

// shop is the module under test with a placed order of ann's.
type shop struct {
	*neighbours
	*plugintest.Module
	order    string
	ann, bob giftwrapv1connect.WrapServiceClient
}

func open(t *testing.T) *shop {
	t.Helper()
	s := &shop{neighbours: &neighbours{sheets: 1}, order: id.New("ord")}
	s.Module = plugintest.Start(t, module(),
		plugintest.Config(map[string]any{"paper": "sku_paper"}), plugintest.Neighbours(s.register))
	as := func(account string) giftwrapv1connect.WrapServiceClient {
		return giftwrapv1connect.NewWrapServiceClient(s.Client(plugintest.As(call.Principal{Kind: call.Consumer, Account: account}, "GB")))
	}
	s.ann, s.bob = as("acc_ann"), as("acc_bob")
	require.NoError(t, s.Deliver(t.Context(), "orders", &orderv1.OrderPlaced{OrderId: s.order, AccountId: "acc_ann", Market: "DE"}))
	return s
}

func (s *shop) request(t *testing.T, c giftwrapv1connect.WrapServiceClient) (*giftwrapv1.Wrap, error) {
	t.Helper()
	res, err := c.RequestWrap(t.Context(), &giftwrapv1.RequestWrapRequest{OrderId: s.order})
	return res.GetWrap(), err
}

func (s *shop) state(t *testing.T) giftwrapv1.Wrap_State {
	t.Helper()
	res, err := s.ann.GetWrap(t.Context(), &giftwrapv1.GetWrapRequest{OrderId: s.order})
	require.NoError(t, err)
	return res.GetWrap().GetState()
}

func TestAnOrderIsWrappedOnceHoweverOftenItIsAsked(t *testing.T) {
	t.Parallel()
	s := open(t)
	first, err := s.request(t, s.ann)
	require.NoError(t, err)
	require.Equal(t, giftwrapv1.Wrap_STATE_WRAPPED, first.GetState())
	again, err := s.request(t, s.ann)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, again))
	require.Zero(t, s.sheets)
	require.Equal(t, "DE", s.market, "the paper is looked for where the order was placed")
	told := s.Published(t)
	require.Len(t, told, 1)
	require.True(t, proto.Equal(told[0], &giftwrapv1.OrderWrapped{OrderId: s.order, Market: "DE", ReservationId: first.GetReservationId()}))
}

func TestWithoutPaperTheRequestIsRefusedAndCanBeMadeAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.sheets = 0
	_, err := s.request(t, s.ann)
	require.Equal(t, "OUT_OF_STOCK", fault.Reason(err))
	require.Equal(t, giftwrapv1.Wrap_STATE_NONE, s.state(t))
	s.sheets = 1
	_, err = s.request(t, s.ann)
	require.NoError(t, err)
}

func TestSomebodyElsesOrderIsUnknown(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, err := s.request(t, s.bob)
	require.Equal(t, "ORDER_UNKNOWN", fault.Reason(err))
	require.Equal(t, 1, s.sheets)
}

func TestAnOrderCancelledMeanwhileGivesItsPaperBack(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.meanwhile = func(ctx context.Context) error {
		return s.Deliver(ctx, "orders", &orderv1.OrderCancelled{OrderId: s.order})
	}
	_, err := s.request(t, s.ann)
	require.Equal(t, "ORDER_CANCELLED", fault.Reason(err))
	require.Len(t, s.released, 1)
	require.Equal(t, 1, s.sheets)
	require.Equal(t, giftwrapv1.Wrap_STATE_CANCELLED, s.state(t))
	require.Empty(t, s.Published(t))
}

func TestTheCancellationOfAWrappedOrderStartsOneSaga(t *testing.T) {
	t.Parallel()
	s := open(t)
	wrap, err := s.request(t, s.ann)
	require.NoError(t, err)
	for range 2 { // a replay
		require.NoError(t, s.Deliver(t.Context(), "orders", &orderv1.OrderCancelled{OrderId: s.order}))
	}
	var keys []string
	require.NoError(t, s.Admin.QueryRow(t.Context(), "SELECT array_agg(key) FROM bus.saga WHERE def = 'giftwrap/unwrap'").Scan(&keys))
	require.Equal(t, []string{wrap.GetReservationId()}, keys)
	_, err = s.request(t, s.ann)
	require.Equal(t, "ORDER_CANCELLED", fault.Reason(err))
}

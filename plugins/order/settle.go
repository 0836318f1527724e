package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// acceptSettledSaga captures a merchant's share of an order with several
// payments, and has the warehouse fulfil it from several reservations or in
// several parts.
var acceptSettledSaga = saga.Define("accept-settled", 1,
	saga.Step{Name: "settle", Do: orderv1connect.OrderEditStepServiceSettleOrderProcedure, Kind: saga.Retriable, TimeoutSeconds: 60},
	saga.Step{Name: "finish", Do: orderv1connect.OrderStepServiceFinishAcceptanceProcedure, Kind: saga.Retriable},
)

// settledPart is a merchant's part of such an order on its way through
// AcceptOrders.
type settledPart struct {
	*acceptance
	order *order
	doc   []byte
	total int64
}

func (f *settledPart) accept(ctx context.Context, tx *store.Tx, p call.Principal) error {
	st := &settlement{}
	if err := json.Unmarshal(f.doc, st); err != nil {
		return err
	}
	o := f.order
	captures, err := st.capture(o.id, o.currency, p.Merchant, f.total)
	if err != nil {
		return err
	}
	asks := st.requests(o, st.ask(o.id, p.Merchant))
	if err := st.write(ctx, tx, o.id); err != nil {
		return err
	}
	settle, err := settleOf(o.id, slices.Concat(captures, asks))
	if err != nil {
		return err
	}
	f.started, err = tx.StartSaga(call.With(ctx, inMarket(call.From(ctx), o.market)), acceptSettledSaga, o.id+"/"+p.Merchant, saga.Requests{
		"settle": settle, "finish": &orderv1.FinishAcceptanceRequest{OrderId: o.id, MerchantId: p.Merchant},
	})
	return err
}

// ask makes one call of payment or warehouse.
func (s *service) ask(ctx context.Context, m proto.Message) (err error) {
	switch m := m.(type) {
	case *paymentv1.CapturePaymentRequest:
		_, err = s.payments.CapturePayment(ctx, m)
	case *paymentv1.RefundPaymentRequest:
		_, err = s.payments.RefundPayment(ctx, m)
	case *paymentv1.ReversePaymentRequest:
		_, err = s.payments.ReversePayment(ctx, m)
	case *warehousev1.ReduceReservationRequest:
		_, err = s.reductions.ReduceReservation(ctx, m)
	case *warehousev1.ReleaseReservationRequest:
		_, err = s.stock.ReleaseReservation(ctx, m)
	case *warehousev1.RequestFulfilmentRequest:
		_, err = s.floor.RequestFulfilment(ctx, m)
	default:
		err = fmt.Errorf("order: no call of payment or warehouse: %T", m)
	}
	return err
}

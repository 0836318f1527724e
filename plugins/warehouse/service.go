package main

import (
	"context"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.warehouse.v1. Safe for concurrent use.
type service struct {
	db   *store.DB
	host *host.Host
}

func register(in *plugin.Instance) error {
	s := &service{db: in.DB, host: in.Host}
	warehousev1connect.RegisterStockServiceHandler(in.Server, s)
	warehousev1connect.RegisterPurchasingServiceHandler(in.Server, s)
	warehousev1connect.RegisterGoodsStepServiceHandler(in.Server, s)
	warehousev1connect.RegisterInventoryServiceHandler(in.Server, s)
	warehousev1connect.RegisterReturnServiceHandler(in.Server, s)
	warehousev1connect.RegisterReservationStepServiceHandler(in.Server, s)
	if _, err := openFloor(in); err != nil {
		return err
	}
	if err := in.Subscribe("catalog", event.OnBatch(onProducts)); err != nil {
		return err
	}
	if err := in.Subscribe("logistics", event.On(onShipments)); err != nil {
		return err
	}
	if err := in.Subscribe("inspection", event.OnBatch(onPassed), event.OnBatch(onVerdicts)); err != nil {
		return err
	}
	return in.Subscribe("schedules", event.OnBatch(onTicks))
}

var (
	_ warehousev1connect.StockServiceHandler      = (*service)(nil)
	_ warehousev1connect.PurchasingServiceHandler = (*service)(nil)
	_ warehousev1connect.GoodsStepServiceHandler  = (*service)(nil)
	_ warehousev1connect.InventoryServiceHandler  = (*service)(nil)
	_ warehousev1connect.ReturnServiceHandler     = (*service)(nil)
)

// owner is the merchant whose goods a caller may see and move; empty means
// everybody's, for staff, operators and plugins.
func owner(ctx context.Context) (string, error) {
	p := call.From(ctx).Principal
	switch p.Kind {
	case call.Staff, call.Operator, call.Plugin:
		return "", nil
	case call.Merchant:
		if p.Merchant != "" {
			return p.Merchant, nil
		}
	}
	return "", fault.New(connect.CodePermissionDenied, "NOT_A_MERCHANT", "only members of a merchant and staff see stock")
}

// whose is the merchant that a call is about: a member's own, or the one that
// staff name.
func whose(ctx context.Context, named string) (string, error) {
	merchant, err := owner(ctx)
	switch {
	case err != nil:
		return "", err
	case merchant != "" && named != "" && named != merchant:
		return "", fault.Field("merchant_id", "members speak of their own merchant's goods; leave it out")
	case merchant == "" && named == "":
		return "", fault.Field("merchant_id", "whose goods")
	case merchant == "":
		return named, nil
	}
	return merchant, nil
}

// person is who acts, where two persons are needed: their account.
func person(ctx context.Context) (string, error) {
	if p := call.From(ctx).Principal; p.Account != "" {
		return p.Account, nil
	}
	return "", fault.New(connect.CodePermissionDenied, "NOT_A_PERSON", "a person does this, with an account of their own")
}

func actor(ctx context.Context) string { return call.From(ctx).Principal.String() }

// site is where goods stand when nobody says where.
func site(named string) string {
	if named == "" {
		return "main"
	}
	return named
}

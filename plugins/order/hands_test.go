package main

import (
	"context"
	"sync"

	"connectrpc.com/connect/v2"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

// hands are the warehouse's floor and the carriers' desks, as the order sees
// them.
type hands struct {
	warehousev1connect.UnimplementedFulfilmentStepServiceHandler
	logisticsv1connect.UnimplementedShipmentServiceHandler

	mu         sync.Mutex
	requested  map[string]*warehousev1.RequestFulfilmentRequest // by request
	stopped    map[string]bool                                  // by order
	gone       map[string]bool                                  // orders of which something is handed over
	bookings   map[string]*logisticsv1.BookShipmentRequest
	cancelled  map[string]int // shipments, and how often
	assigned   map[string]*warehousev1.AssignShipmentRequest
	noCarriers bool
	halted     map[string]bool // requests
	late       map[string]bool // requests of which something is handed over
	// What happens while it answers; set before it is asked.
	onRequest, onCancel func() error
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

func (h *hands) RequestFulfilment(_ context.Context, req *warehousev1.RequestFulfilmentRequest) (*warehousev1.RequestFulfilmentResponse, error) {
	h.mu.Lock()
	put(&h.requested, req.GetRequestId(), req)
	h.mu.Unlock()
	if h.onRequest != nil {
		if err := h.onRequest(); err != nil {
			return nil, err
		}
	}
	return &warehousev1.RequestFulfilmentResponse{FulfilmentIds: []string{"ful_1"}}, nil
}

func (h *hands) CancelFulfilment(_ context.Context, req *warehousev1.CancelFulfilmentRequest) (*warehousev1.CancelFulfilmentResponse, error) {
	if h.onCancel != nil {
		if err := h.onCancel(); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone[req.GetReference()] {
		return nil, fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "a carrier has it")
	}
	if req.GetRequestId() != "" {
		if h.late[req.GetRequestId()] {
			return nil, fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "a carrier has it")
		}
		put(&h.halted, req.GetRequestId(), true)
		return &warehousev1.CancelFulfilmentResponse{}, nil
	}
	put(&h.stopped, req.GetReference(), true)
	return &warehousev1.CancelFulfilmentResponse{}, nil
}

func (h *hands) AssignShipment(_ context.Context, req *warehousev1.AssignShipmentRequest) (*warehousev1.AssignShipmentResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cancelled[req.GetShipmentId()] > 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", "nothing to carry")
	}
	put(&h.assigned, req.GetFulfilmentId(), req)
	return &warehousev1.AssignShipmentResponse{}, nil
}

func (h *hands) BookShipment(_ context.Context, req *logisticsv1.BookShipmentRequest) (*logisticsv1.BookShipmentResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noCarriers && req.GetRule().GetInstance() == "" {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_CARRIER", "nobody carries it")
	}
	put(&h.bookings, req.GetShipmentId(), req)
	return &logisticsv1.BookShipmentResponse{}, nil
}

func (h *hands) CancelShipment(_ context.Context, req *logisticsv1.CancelShipmentRequest) (*logisticsv1.CancelShipmentResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	put(&h.cancelled, req.GetShipmentId(), h.cancelled[req.GetShipmentId()]+1)
	return &logisticsv1.CancelShipmentResponse{}, nil
}

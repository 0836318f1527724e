package shop

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
)

// Report is what a run of the marketplace leaves behind, as report.json.
type Report struct {
	OrdersPlaced    int                 `json:"orders_placed"`
	OrdersCancelled int                 `json:"orders_cancelled"`
	RowsRefused     map[string]int      `json:"rows_refused"`
	CapturedMinor   map[string]int64    `json:"captured_minor"`
	PSPCaptured     map[string]int64    `json:"psp_captured_minor"`
	StockUnits      map[string]int64    `json:"stock_units"`
	Inspected       int64               `json:"inspected"`
	Destroyed       int64               `json:"destroyed"`
	Certificates    int64               `json:"certificates_issued"`
	Delivered       int64               `json:"shipments_delivered"`
	Quarantined     int64               `json:"returns_quarantined"`
	Restocked       int64               `json:"returns_restocked"`
	ReturnsLost     int64               `json:"returns_destroyed"`
	Edited          int                 `json:"edited"`
	Shortages       map[string]int64    `json:"shortages"`
	Applications    map[string]int64    `json:"applications"`
	RefundedMinor   map[string]int64    `json:"refunded_minor"`
	PaidOutMinor    map[string]int64    `json:"paid_out_minor"`
	MerchantsMinor  map[string]int64    `json:"merchant_balances_minor"`
	RemittedMinor   map[string]int64    `json:"tax_remitted_minor"`
	Disputed        map[string]*Outcome `json:"disputed"`
	SalesHeld       int64               `json:"sales_held"`
	Messages        int64               `json:"messages"`
	Recommended     int64               `json:"recommendations_served"`
	Sagas           map[string]int64    `json:"sagas"`
	ParkedEvents    int64               `json:"parked_events"`
	Reconciled      bool                `json:"reconciled"`
	Processes       []Process           `json:"processes"`
	Seconds         float64             `json:"seconds"`
}

// Process is one process of the deployment.
type Process struct {
	Name   string `json:"name"`
	PID    int32  `json:"pid"`
	SHA256 string `json:"sha256"`
}

// Processes lists the kernel and its plugins as the operator sees them.
func (s *Shop) Processes(ctx context.Context) ([]Process, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := []Process{{Name: "entrepot", PID: st.GetPid()}}
	if out[0].SHA256, err = hashFile(filepath.Join(s.Build, "entrepot")); err != nil {
		return nil, err
	}
	for _, p := range st.GetPlugins() {
		out = append(out, Process{Name: p.GetName(), PID: p.GetPid(), SHA256: p.GetSha256()})
	}
	return out, nil
}

// Status asks the kernel what runs.
func (s *Shop) Status(ctx context.Context) (*operatorv1.GetStatusResponse, error) {
	op, err := s.Operator()
	if err != nil {
		return nil, err
	}
	return Patient(ctx, func(ctx context.Context) (*operatorv1.GetStatusResponse, error) {
		return operatorv1connect.NewOperatorServiceClient(op.Client()).GetStatus(ctx, &operatorv1.GetStatusRequest{})
	})
}

// Report sums a run up.
func (s *Shop) Report(ctx context.Context, b *Books, data *Data, began time.Time) (*Report, error) {
	out := &Report{
		RowsRefused: map[string]int{}, CapturedMinor: b.Captured, PSPCaptured: b.PSP, StockUnits: map[string]int64{"received": b.Done.Received},
		Disputed: b.Disputed, SalesHeld: b.Inspection.GetSalesHeld(), Sagas: b.Bus.GetSagas(), Reconciled: b.Reconciled(), Seconds: time.Since(began).Seconds(),
	}
	for _, p := range b.Done.Replay.Placed() {
		out.OrdersPlaced++
		if p.Cancelled {
			out.OrdersCancelled++
		}
	}
	for _, counts := range []map[string]int{data.Refused, b.Done.Replay.Refused} {
		for reason, n := range counts {
			out.RowsRefused[reason] += n
		}
	}
	for name, n := range b.Shipments.GetShipments() {
		if strings.HasSuffix(name, "/delivered") {
			out.Delivered += n
		}
	}
	out.Inspected, out.Destroyed, out.Certificates = sum(b.Inspection.GetVerdicts()), b.Inspection.GetDestroyed(), b.Inspection.GetCertificatesIssued()
	if back := b.Done.Returned; back != nil {
		out.Quarantined, out.Restocked, out.ReturnsLost = back.Quarantined, back.Restocked, back.Destroyed
	}
	if b.Done.Edits != nil {
		out.Edited = b.Done.Edits.Orders
	}
	out.Shortages = map[string]int64{"attempts": b.Shortages.GetAttempts(), "missing": b.Shortages.GetMissing(), "waiting": b.Shortages.GetWaiting()}
	out.Applications, out.RefundedMinor, out.Messages = b.Cases.GetCases(), b.Cases.GetRefundedMinor(), b.Cases.GetMessages()
	out.PaidOutMinor, out.MerchantsMinor, out.Recommended = map[string]int64{}, map[string]int64{}, b.Done.Recommended
	for _, one := range b.Balances {
		out.PaidOutMinor[one.GetCurrencyCode()] += one.GetPaidOutMinor()
		out.MerchantsMinor[one.GetCurrencyCode()] += one.GetPendingMinor() + one.GetAvailableMinor() + one.GetReservedMinor() + one.GetInPayoutMinor()
	}
	out.RemittedMinor = b.Done.Remitted
	for name, n := range b.Stock.GetUnits() {
		out.StockUnits[name] = n
	}
	for _, sub := range b.Bus.GetSubscriptions() {
		out.ParkedEvents += sub.GetParked()
	}
	var err error
	out.Processes, err = s.Processes(ctx)
	return out, err
}

// Write writes the report as JSON.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

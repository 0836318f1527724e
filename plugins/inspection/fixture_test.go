package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// signingKey is a seed for tests: 32 bytes of zeros.
var signingKey = base64.StdEncoding.EncodeToString(make([]byte, 32))

const (
	gtin  = "04006381333931"
	serum = "sku_serum" // goods without units
	watch = "sku_watch" // goods with units
)

// house is the inspection module with its callers and its neighbours.
type house struct {
	*plugintest.Module
	*world
	s *service
	// ann and bob are inspectors, merchant and other are merchants.
	ann, bob, eve, merchant, other caller
	plugin                         caller
}

// caller is somebody's clients.
type caller struct {
	inspectionv1connect.UnitServiceClient
	inspectionv1connect.ConsignmentServiceClient
	inspectionv1connect.CaseServiceClient
	inspectionv1connect.InspectionStepServiceClient
	inspectionv1connect.DestructionServiceClient
}

func (h *house) as(info call.Info) caller {
	c := h.Client(info)
	return caller{
		inspectionv1connect.NewUnitServiceClient(c), inspectionv1connect.NewConsignmentServiceClient(c), inspectionv1connect.NewCaseServiceClient(c),
		inspectionv1connect.NewInspectionStepServiceClient(c), inspectionv1connect.NewDestructionServiceClient(c),
	}
}

func open(t testing.TB, config map[string]any) *house {
	t.Helper()
	h := &house{world: newWorld()}
	p := module()
	p.New = func(_ context.Context, in *plugin.Instance) (err error) {
		h.s, err = register(in)
		return err
	}
	all := map[string]any{"appeal": "0s"}
	for k, v := range config {
		all[k] = v
	}
	h.Module = plugintest.Start(t, p, plugintest.Config(all), plugintest.Secrets(map[string]string{"signing_key": signingKey}),
		plugintest.Neighbours(h.world.register))
	staff := func(account string) caller {
		return h.as(plugintest.As(call.Principal{Kind: call.Staff, Account: account}, "GB"))
	}
	h.ann, h.bob, h.eve = staff("acc_ann"), staff("acc_bob"), staff("acc_eve")
	h.merchant = h.as(plugintest.As(call.Principal{Kind: call.Merchant, Account: "acc_m", Merchant: "mrc_one"}, "GB"))
	h.other = h.as(plugintest.As(call.Principal{Kind: call.Merchant, Account: "acc_o", Merchant: "mrc_two"}, "GB"))
	h.plugin = h.as(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "warehouse"}, "GB"))
	for _, c := range []byte("1abc") {
		_, err := h.s.host.Blobs.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "image/png", Content: photo(c)})
		require.NoError(t, err)
	}
	return h
}

// photo is a picture, as far as anybody looks.
func photo(c byte) []byte { return append([]byte("\x89PNG\r\n\x1a\n"), c) }

// blob names a photo: those of 1, a, b and c were sent.
func blob(c byte) string {
	sum := sha256.Sum256(photo(c))
	return "sha256-" + hex.EncodeToString(sum[:])
}

// world is everybody else: the kernel's list of instances, authenticators and
// the warehouse's books. Safe for concurrent use.
type world struct {
	kernelv1connect.UnimplementedInstanceServiceHandler
	providerv1connect.UnimplementedAuthenticatorServiceHandler
	warehousev1connect.UnimplementedGoodsStepServiceHandler

	mu        sync.Mutex
	instances []*kernelv1.Instance
	// answers are what instances answer, by name; without one, genuine.
	answers map[string]func(*providerv1.CheckRequest) (*providerv1.Outcome, error)
	asked   map[string]int // by key
	told    []*providerv1.RetainRequest
	deaf    bool
	wedged  string // an instance that does not answer at all
	// refuses is what the warehouse answers to AdmitGoods and RefuseGoods.
	refuses  error
	admitted []*warehousev1.AdmitGoodsRequest
	refused  []*warehousev1.RefuseGoodsRequest
}

func newWorld() *world {
	return &world{
		instances: []*kernelv1.Instance{{Instance: "reg", Capabilities: []string{"registry", "retain"}, Ready: true}, {Instance: "sun", Capabilities: []string{"tag"}, Ready: true}},
		answers:   map[string]func(*providerv1.CheckRequest) (*providerv1.Outcome, error){}, asked: map[string]int{},
	}
}

func (w *world) register(s *connect.Server) {
	kernelv1connect.RegisterInstanceServiceHandler(s, w)
	providerv1connect.RegisterAuthenticatorServiceHandler(s, w)
	warehousev1connect.RegisterGoodsStepServiceHandler(s, w)
}

func (w *world) ListInstances(context.Context, *kernelv1.ListInstancesRequest) (*kernelv1.ListInstancesResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &kernelv1.ListInstancesResponse{Instances: w.instances}, nil
}

func (w *world) Check(ctx context.Context, req *providerv1.CheckRequest) (*providerv1.CheckResponse, error) {
	instance := call.From(ctx).Instance
	w.mu.Lock()
	w.asked[req.GetKey()]++
	answer, wedged := w.answers[instance], w.wedged == instance
	w.mu.Unlock()
	if wedged {
		<-ctx.Done()
		return nil, fault.New(connect.CodeDeadlineExceeded, "LATE", "too late")
	}
	if answer == nil {
		answer = says(providerv1.Result_RESULT_GENUINE, methodOf[instance], "KNOWN")
	}
	o, err := answer(req)
	return &providerv1.CheckResponse{Outcome: o}, err
}

var methodOf = map[string]string{"reg": "registry", "sun": "tag"}

func says(r providerv1.Result, method, reason string) func(*providerv1.CheckRequest) (*providerv1.Outcome, error) {
	return func(req *providerv1.CheckRequest) (*providerv1.Outcome, error) {
		return &providerv1.Outcome{Key: req.GetKey(), Result: r, Method: method, Reason: reason}, nil
	}
}

// will sets what an instance answers from now on.
func (w *world) will(instance string, f func(*providerv1.CheckRequest) (*providerv1.Outcome, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[instance] = f
}

func (w *world) Retain(_ context.Context, req *providerv1.RetainRequest) (*providerv1.RetainResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf {
		return nil, fault.New(connect.CodeUnavailable, "DOWN", "not now")
	}
	w.told = append(w.told, req)
	return &providerv1.RetainResponse{}, nil
}

func (w *world) AdmitGoods(_ context.Context, req *warehousev1.AdmitGoodsRequest) (*warehousev1.AdmitGoodsResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses != nil {
		return nil, w.refuses
	}
	w.admitted = append(w.admitted, req)
	return &warehousev1.AdmitGoodsResponse{}, nil
}

func (w *world) RefuseGoods(_ context.Context, req *warehousev1.RefuseGoodsRequest) (*warehousev1.RefuseGoodsResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses != nil {
		return nil, w.refuses
	}
	w.refused = append(w.refused, req)
	return &warehousev1.RefuseGoodsResponse{}, nil
}

// consign sends and receives a consignment of watches with these serials.
func (h *house) consign(t require.TestingT, serials ...string) *inspectionv1.ReceiveConsignmentResponse {
	lines := []*inspectionv1.ConsignmentLine{{
		Sku: watch, Gtin: gtin, Quantity: int64(len(serials)), Serialised: true, Serials: serials, Category: "watches/gold",
	}}
	if len(serials) == 0 {
		lines = []*inspectionv1.ConsignmentLine{{Sku: serum, Quantity: 10, Lot: "L/1", Category: "care"}}
	}
	req := &inspectionv1.OpenConsignmentRequest{ConsignmentId: id.New("csg"), Lines: lines}
	_, err := h.merchant.OpenConsignment(context.Background(), req)
	require.NoError(t, err)
	res, err := h.ann.ReceiveConsignment(context.Background(), &inspectionv1.ReceiveConsignmentRequest{ConsignmentId: req.GetConsignmentId(), Lines: lines})
	require.NoError(t, err)
	return res
}

func (h *house) getCase(t require.TestingT, caseID string) *inspectionv1.Case {
	res, err := h.ann.GetCase(context.Background(), &inspectionv1.GetCaseRequest{CaseId: caseID})
	require.NoError(t, err)
	return res.GetCase()
}

func (h *house) getUnit(t require.TestingT, unitID string) *inspectionv1.Unit {
	res, err := h.ann.GetUnit(context.Background(), &inspectionv1.GetUnitRequest{UnitId: unitID})
	require.NoError(t, err)
	return res.GetUnit()
}

// see records one manual check of a whole case.
func (h *house) see(t require.TestingT, caseID string, r result) {
	_, err := h.ann.RecordCheck(context.Background(), seen(caseID, r))
	require.NoError(t, err)
}

func seen(caseID string, r result) *inspectionv1.RecordCheckRequest {
	return &inspectionv1.RecordCheckRequest{
		CheckId: id.New("chk"), CaseId: caseID, Method: "manual", Instrument: "loupe", Result: r,
		Inputs: []*inspectionv1.Evidence{{Kind: "photo", BlobId: blob('1')}},
	}
}

var says4 = map[verdict]result{
	genuine: saysGenuine, counterfeit: saysCounterfeit, inconclusive: saysInconclusive, wrongItem: inspectionv1.Check_RESULT_WRONG_ITEM,
	damaged: inspectionv1.Check_RESULT_DAMAGED,
}

func (h *house) propose(t require.TestingT, caseID string, v verdict) {
	h.see(t, caseID, says4[v])
	_, err := h.ann.ProposeVerdict(context.Background(), &inspectionv1.ProposeVerdictRequest{CaseId: caseID, Verdict: v, Reason: "looked"})
	require.NoError(t, err)
}

// find leads a case to a confirmed verdict.
func (h *house) find(t require.TestingT, caseID string, v verdict) *inspectionv1.Case {
	h.propose(t, caseID, v)
	_, err := h.bob.ConfirmVerdict(context.Background(), &inspectionv1.ConfirmVerdictRequest{CaseId: caseID, Verdict: v})
	require.NoError(t, err)
	return h.getCase(t, caseID)
}

func (h *house) orderDestruction(caseID string) (*inspectionv1.Destruction, error) {
	res, err := h.ann.OrderDestruction(context.Background(), &inspectionv1.OrderDestructionRequest{
		DestructionId: id.New("dst"), CaseId: caseID, Ground: inspectionv1.Ground_GROUND_IP_INFRINGING, Reason: "a fake",
	})
	return res.GetDestruction(), err
}

func done(destructionID string) *inspectionv1.ConfirmDestructionRequest {
	return &inspectionv1.ConfirmDestructionRequest{DestructionId: destructionID, Witness: "acc_wit", WeightGrams: 120, BlobIds: []string{blob('a'), blob('b')}}
}

// destroyCase destroys the goods of a case that was found false.
func (h *house) destroyCase(t require.TestingT, caseID string) {
	d, err := h.orderDestruction(caseID)
	require.NoError(t, err)
	_, err = h.bob.ConfirmDestruction(context.Background(), done(d.GetDestructionId()))
	require.NoError(t, err)
}

// shelve receives one watch, finds it genuine and has it in the warehouse.
func (h *house) shelve(t require.TestingT, serial string) *inspectionv1.Unit {
	res := h.consign(t, serial)
	u := res.GetUnits()[0]
	require.Equal(t, closed, h.find(t, res.GetConsignment().GetCaseIds()[0], genuine).GetState())
	return h.getUnit(t, u.GetUnitId())
}

// sell hands a unit over to a carrier and delivers it.
func (h *house) sell(t require.TestingT, fulfilment string, unitIDs ...string) {
	require.NoError(t, h.Deliver(context.Background(), "warehouse",
		&warehousev1.FulfilmentHandedOver{FulfilmentId: fulfilment, Reference: "ord_" + fulfilment, ShipmentId: "shp_1", UnitIds: unitIDs},
		&warehousev1.FulfilmentDelivered{FulfilmentId: fulfilment, Reference: "ord_" + fulfilment, ShipmentId: "shp_1", UnitIds: unitIDs}))
}

func refused(t require.TestingT, code connect.Code, reason string, err error) {
	require.Error(t, err)
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(host.Relay(err)), "%v", err)
}

// of are the published events of one kind, in order.
func of[M any](t testing.TB, h *house) []M {
	t.Helper()
	var out []M
	for _, e := range h.Published(t) {
		if m, ok := e.(M); ok {
			out = append(out, m)
		}
	}
	return out
}

package operator

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/core/registry"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func service(restart func(context.Context, string) error) *Service {
	catalog := &registry.Plugin{Name: "catalog", State: registry.Ready, SHA256: "abc", Restarts: 2, StartedAt: time.Unix(1, 0),
		Process:  registry.NewProcess(os.Getpid(), nil, nil),
		Manifest: &pluginv1.Manifest{Version: "1.0.0", Kind: pluginv1.Manifest_KIND_MODULE, Serves: []*pluginv1.ServedContract{{Contract: "entrepot.catalog.v1"}}}}
	past := time.Now().Add(-time.Hour)
	return New(Config{
		Version: "1.2.3", Node: "kernel", StartedAt: time.Unix(0, 0), Database: "embedded", Restart: restart,
		Deployment: &deployment.Deployment{
			Plugins: []*deployment.Plugin{
				{Name: "catalog", Instances: []*deployment.Instance{{Name: "catalog"}}},
				{Name: "pay", Instances: []*deployment.Instance{{Name: "pay-gb"}}},
			},
			Markets: []*deployment.Market{{Code: "GB", Currency: "GBP"}, {Code: "DE", Currency: "EUR"}},
			Bindings: []*deployment.Binding{
				{Contract: "pay.v1", Instance: "pay-any", Weight: 1},
				{Contract: "pay.v1", Market: "GB", Instance: "pay-second", Priority: 2, Weight: 1},
				{Contract: "pay.v1", Market: "GB", Instance: "pay-gb", Priority: 1, Weight: 1},
				{Contract: "pay.v1", Market: "GB", Instance: "pay-old", Until: past},
				{Contract: "pay.v1", Market: "GB", Merchant: "mrc_1", Instance: "pay-own"},
				{Contract: "tax.v1", Instance: "tax", Weight: 1},
			},
		},
		Snapshot: func() *registry.Snapshot {
			return &registry.Snapshot{Plugins: map[string]*registry.Plugin{"catalog": catalog},
				Instances: map[string]*registry.Instance{"catalog": {Name: "catalog", Plugin: catalog, Healthy: true, Revision: 7, Reason: "SLOW"}}}
		},
	})
}

func TestTheStatusTellsWhatRunsAndWhatDoesNot(t *testing.T) {
	res, err := service(nil).GetStatus(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "embedded", res.GetDatabase())
	catalog := res.GetPlugins()[0]
	require.Positive(t, catalog.GetResidentBytes())
	catalog.ResidentBytes, catalog.CpuSeconds, catalog.StartedAt, catalog.Pid = 0, 0, nil, 0
	require.Empty(t, cmp.Diff([]*operatorv1.PluginStatus{
		{Name: "catalog", Version: "1.0.0", Kind: "module", State: "ready", Sha256: "abc", Restarts: 2, Contracts: []string{"entrepot.catalog.v1"},
			Instances: []*operatorv1.InstanceStatus{{Name: "catalog", Revision: 7, Health: "degraded", Reason: "SLOW"}}},
		{Name: "pay", State: "starting"},
	}, res.GetPlugins(), protocmp.Transform()))
}

func TestAMarketShowsTheBindingsThatHoldThere(t *testing.T) {
	res, err := service(nil).GetStatus(t.Context(), nil)
	require.NoError(t, err)
	shown := map[string][]string{}
	for _, m := range res.GetMarkets() {
		for _, b := range m.GetBindings() {
			shown[m.GetMarket()] = append(shown[m.GetMarket()], b.GetInstance())
		}
	}
	require.Equal(t, map[string][]string{"GB": {"pay-gb", "pay-second", "tax"}, "DE": {"pay-any", "tax"}}, shown)
}

func TestARestartAnswersHowItWent(t *testing.T) {
	var asked string
	s := service(func(_ context.Context, name string) error { asked = name; return nil })
	_, err := s.RestartPlugin(t.Context(), &operatorv1.RestartPluginRequest{Plugin: "pay"})
	require.NoError(t, err)
	require.Equal(t, "pay", asked)

	_, err = s.RestartPlugin(t.Context(), &operatorv1.RestartPluginRequest{Plugin: "nobody"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))

	s = service(func(context.Context, string) error { return errors.New("exit status 3") })
	_, err = s.RestartPlugin(t.Context(), &operatorv1.RestartPluginRequest{Plugin: "pay"})
	require.Equal(t, ReasonRestartFailed, fault.Reason(err))
	require.ErrorContains(t, err, "exit status 3")
}

func TestUsageIsReadFromProcAndFromPS(t *testing.T) {
	u, err := parseStat("42 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 100 4096 10 0", 4096)
	require.NoError(t, err)
	require.Equal(t, usage{residentBytes: 40960, cpuSeconds: 2}, u)
	_, err = parseStat("42 (a", 4096)
	require.Error(t, err)
	u, err = parsePS("  2048 1:02:03.50\n")
	require.NoError(t, err)
	require.Equal(t, usage{residentBytes: 2 << 20, cpuSeconds: 3723.5}, u)
	_, err = parsePS("")
	require.Error(t, err)
}

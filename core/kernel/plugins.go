package kernel

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/core/bus"
	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/core/persistence"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/supervisor"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// supervise makes the supervisor of the deployment's plugins.
func (k *kernel) supervise() (*supervisor.Supervisor, error) {
	d := k.cfg.Deployment
	byName := make(map[string]*deployment.Plugin, len(d.Plugins))
	specs := make([]supervisor.Spec, 0, len(d.Plugins))
	for _, p := range d.Plugins {
		byName[p.Name] = p
		sum := d.Binaries[p.Name].SHA256
		specs = append(specs, supervisor.Spec{
			Name: p.Name, SHA256: sum, Verify: func() (string, error) { return k.cfg.Artifacts.Verify(sum) },
		})
	}
	// A plugin that is ready again gets its events at once.
	k.registry.Watch(tellBus(k.bus))
	return supervisor.New(supervisor.Config{
		Plugins: specs, Registry: k.registry, LogLevel: d.Kernel.LogLevel.String(), Log: k.log,
		HostHandler: func(name string) http.Handler { return k.host.Handler(name, d.Binaries[name].Manifest) },
		Prepare: func(ctx context.Context, name string, described *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error) {
			return k.prepare(ctx, byName[name], described)
		},
	})
}

// prepare is what happens between a process's description and its service: it
// must be what was granted, its schema is brought up to date, the bus learns
// what it publishes and wants, and its instances get their configuration.
func (k *kernel) prepare(ctx context.Context, p *deployment.Plugin, described *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error) {
	d := k.cfg.Deployment
	m := described.GetManifest()
	if !proto.Equal(m, d.Binaries[p.Name].Manifest) {
		return nil, fmt.Errorf("plugin %s describes another manifest than its binary printed: it is not what was granted", p.Name)
	}
	reg := bus.Registration{Plugin: p.Name, Manifest: m, Sagas: described.GetSagas()}
	var database *pluginv1.Database
	if m.GetKind() == pluginv1.Manifest_KIND_MODULE {
		creds, err := k.db.EnsureModule(ctx, persistence.Module{Name: p.Name, Migrations: described.GetMigrations(), MaxConnections: p.MaxConnections})
		if err != nil {
			return nil, err
		}
		reg.Role = creds.Role
		database = &pluginv1.Database{Url: creds.URL, Schema: creds.Schema, MaxConnections: creds.MaxConnections}
	}
	numbers, err := k.bus.Register(ctx, reg)
	if err != nil {
		return nil, err
	}
	if database != nil {
		database.Subscriptions = numbers
	}
	out := make([]*pluginv1.ConfigureRequest, 0, len(p.Instances))
	for _, in := range p.Instances {
		dir := filepath.Join(d.Kernel.DataDir, "instances", in.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		secrets := make(map[string]string, len(in.Secrets))
		for name, s := range in.Secrets {
			secrets[name] = s.Reveal()
		}
		out = append(out, &pluginv1.ConfigureRequest{
			Instance: in.Name, Revision: k.started.UnixMilli(), Config: in.Config, Secrets: secrets, Database: database, Node: k.node.ID(),
			DataDir: dir, PublicUrl: d.Kernel.PublicURL, Markets: markets(d.Markets), DefaultMarket: d.Kernel.DefaultMarket,
		})
	}
	return out, nil
}

func markets(all []*deployment.Market) []*typev1.Market {
	out := make([]*typev1.Market, len(all))
	for i, m := range all {
		out[i] = &typev1.Market{Code: m.Code, CurrencyCode: m.Currency, Languages: m.Languages}
	}
	return out
}

func bindings(all []*deployment.Binding) []router.Binding {
	out := make([]router.Binding, len(all))
	for i, b := range all {
		out[i] = router.Binding{
			Contract: b.Contract, Market: b.Market, Merchant: b.Merchant, Instance: b.Instance, Priority: b.Priority, Weight: b.Weight,
			From: b.From, Until: b.Until,
		}
	}
	return out
}

// contracts tells which contracts the deployment's plugins are to serve.
func contracts(binaries map[string]deployment.Binary) func(string) bool {
	served := make(map[string]bool)
	for _, b := range binaries {
		for _, c := range b.Manifest.GetServes() {
			served[c.GetContract()] = true
		}
	}
	return func(contract string) bool { return served[contract] }
}

// instanceOf is the instance that receives a plugin's events: a module has
// one.
func instanceOf(plugins []*deployment.Plugin) map[string]string {
	out := make(map[string]string, len(plugins))
	for _, p := range plugins {
		out[p.Name] = p.Instances[0].Name
	}
	return out
}

// deliverer brings the bus's batches to the plugins.
type deliverer struct {
	caller    *router.Caller
	instances map[string]string
}

// Deliver implements bus.Deliverer.
func (d *deliverer) Deliver(ctx context.Context, plugin string, req *pluginv1.DeliverRequest) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return connect.NewError(connect.CodeInternal, "the batch cannot be encoded").WithCause(err)
	}
	_, _, err = d.caller.Unary(ctx, pluginv1connect.EventServiceDeliverProcedure, call.Info{Instance: d.instances[plugin]}, body)
	return err
}

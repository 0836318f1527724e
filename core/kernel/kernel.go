// Package kernel puts the rooms together: the database, the vault and
// identities, the bus and sagas, plugin processes, and the two doors, the
// public port and the plugins' private sockets. It holds nothing else.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/entrepot/entrepot/core/artifact"
	"github.com/entrepot/entrepot/core/blob"
	"github.com/entrepot/entrepot/core/bus"
	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/core/gateway"
	"github.com/entrepot/entrepot/core/hostapi"
	"github.com/entrepot/entrepot/core/identity"
	"github.com/entrepot/entrepot/core/persistence"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/saga"
	"github.com/entrepot/entrepot/core/supervisor"
	"github.com/entrepot/entrepot/core/telemetry"
	"github.com/entrepot/entrepot/core/vault"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// TokenFile is the file in the data directory that holds the local operator's token while a
// kernel runs there: whoever may read the folder operates the deployment.
const TokenFile = "operator.token"

const (
	// shutdownTimeout bounds how long public calls may take to finish at the
	// end, drainTimeout steps of sagas and deliveries of events.
	shutdownTimeout = 30 * time.Second
	drainTimeout    = 10 * time.Second
)

// Config is what Run needs.
type Config struct {
	Deployment *deployment.Prepared
	Artifacts  *artifact.Store
	// Version of the kernel, for operators.
	Version string
	Log     *slog.Logger
}

// kernel is everything that runs.
type kernel struct {
	cfg      Config
	log      *slog.Logger
	started  time.Time
	metrics  *prometheus.Registry
	db       *persistence.DB
	vault    *vault.Vault
	identity *identity.Service
	blobs    *blob.Store
	node     *bus.Node
	registry *registry.Registry
	router   *router.Router
	bus      *bus.Bus
	sagas    *saga.Runner
	host     *hostapi.Host
	plugins  *supervisor.Supervisor
	gateway  *gateway.Gateway
}

// Run serves a deployment until ctx ends, then stops it: public calls finish,
// then steps of sagas and deliveries, then the plugins, all of them together,
// then the database. It returns an error when it cannot start, or when the
// database is lost.
func Run(ctx context.Context, cfg Config) error {
	listener, err := net.Listen("tcp", cfg.Deployment.Kernel.Listen)
	if err != nil {
		return fmt.Errorf("the public port: %w. Free it, or write another kernel.listen", err)
	}
	return newKernel(cfg).run(ctx, listener)
}

func newKernel(cfg Config) *kernel {
	return &kernel{cfg: cfg, log: cfg.Log, started: time.Now(), registry: registry.New(), metrics: telemetry.NewRegistry()}
}

func (k *kernel) run(ctx context.Context, listener net.Listener) error {
	defer func() { _ = listener.Close() }()
	if err := k.open(ctx); err != nil {
		if k.db != nil {
			k.db.Close(context.WithoutCancel(ctx))
		}
		return err
	}
	defer k.db.Close(context.WithoutCancel(ctx))
	return k.serve(ctx, listener)
}

// open makes the rooms, from the database up.
func (k *kernel) open(ctx context.Context) (err error) {
	d := k.cfg.Deployment
	data := d.Kernel.DataDir
	// The data folder itself was made with the artifact store in it.
	if err := os.MkdirAll(filepath.Join(data, "keys"), 0o700); err != nil {
		return err
	}
	k.db, err = persistence.Open(ctx, persistence.Config{
		URL: d.Kernel.DatabaseURL.Reveal(), DataDir: data, Logger: k.log,
		Schemas: []persistence.Schema{
			{Name: vault.Schema, Files: vault.Migrations()}, {Name: "kernel", Files: identity.Migrations()}, {Name: busdb.Schema, Files: busdb.Migrations()},
		},
		ModuleFunctions: append(append([]string(nil), busdb.ModuleFunctions...), vault.ModuleFunctions...),
		OwnerFunctions:  busdb.OwnerFunctions,
	})
	if err != nil {
		return err
	}
	people, err := k.db.Pool(ctx, "identity", 8)
	if err != nil {
		return err
	}
	k.vault, err = vault.Open(ctx, vault.Options{
		Pool: people, KeyFile: filepath.Join(data, "keys", "vault.json"), CallerFrom: vaultCaller,
	})
	if err != nil {
		return err
	}
	k.identity, err = identity.New(ctx, identity.Options{
		Pool: people, Vault: k.vault, KeyFile: filepath.Join(data, "keys", "identity.json"), Mailer: k.mailer(),
		Argon2MemoryKiB: d.Kernel.Identity.Argon2MemoryKiB, ClientAddr: gateway.ClientAddress, Limits: limits(d.Kernel.Identity), Log: k.log,
	})
	if err != nil {
		return err
	}
	k.blobs, err = blob.Open(blob.Options{
		Dir: d.Kernel.Blobs.Dir, KeyFile: filepath.Join(data, "keys", "blob.key"), CallerFrom: pluginName, Log: k.log,
	})
	if err != nil {
		return err
	}
	if err := k.openBus(ctx); err != nil {
		return err
	}
	return k.openDoors()
}

// limits are the operator's bounds on tries at the public doors of identity.
func limits(i deployment.Identity) identity.Limits {
	var l identity.Limits
	if i.ClientBurst > 0 && i.ClientPerSecond > 0 {
		l.Client = identity.Rate{Burst: i.ClientBurst, Every: time.Duration(float64(time.Second) / i.ClientPerSecond)}
	}
	return l
}

func (k *kernel) mailer() identity.Mailer {
	if k.cfg.Deployment.Kernel.Identity.Mail == "discard" {
		return identity.Discard{}
	}
	return identity.FileDrop{Dir: filepath.Join(k.cfg.Deployment.Kernel.DataDir, "mail")}
}

// openBus makes the router, which needs the bus to be told of events, and the
// bus, which reaches plugins through the router.
func (k *kernel) openBus(ctx context.Context) error {
	events, err := k.db.Pool(ctx, "bus", 6)
	if err != nil {
		return err
	}
	runs, err := k.db.Pool(ctx, "saga", 6)
	if err != nil {
		return err
	}
	k.node, err = bus.Join(ctx, bus.NodeConfig{
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			c := events.Config().ConnConfig.Copy()
			c.RuntimeParams["application_name"] = "entrepot/node"
			return pgx.ConnectConfig(ctx, c)
		},
		Name: "kernel", Logger: k.log,
	})
	if err != nil {
		return err
	}
	k.router = router.New(router.Config{
		Registry: k.registry, Committed: func(string, int) { k.bus.Poke() }, Expected: contracts(k.cfg.Deployment.Binaries),
	})
	table, err := router.NewTable(bindings(k.cfg.Deployment.Bindings))
	if err != nil {
		return err
	}
	k.router.SetBindings(table)
	caller := router.NewCaller(k.router)
	k.bus, err = bus.New(bus.Config{Pool: events, Node: k.node, Deliverer: &deliverer{caller: caller, instances: instanceOf(k.cfg.Deployment.Plugins)}, Logger: k.log,
		Metrics: k.metrics, KeepDays: k.cfg.Deployment.Kernel.Bus.KeepDays, DrainTimeout: drainTimeout})
	if err != nil {
		return err
	}
	k.sagas, err = saga.New(saga.Config{Pool: runs, Node: k.node.ID(), Caller: caller, Logger: k.log, Metrics: k.metrics,
		KeepDays: k.cfg.Deployment.Kernel.Bus.KeepDays, DrainTimeout: drainTimeout})
	return err
}

// openDoors makes the private sockets' API, the plugins behind them and the
// public port.
func (k *kernel) openDoors() (err error) {
	d := k.cfg.Deployment
	markets := make([]string, len(d.Markets))
	for i, m := range d.Markets {
		markets[i] = m.Code
	}
	k.host, err = hostapi.New(hostapi.Config{Router: k.router, Kernel: k.hostServices(markets), Markets: markets, DefaultMarket: d.Kernel.DefaultMarket, Log: k.log})
	if err != nil {
		return err
	}
	if k.plugins, err = k.supervise(); err != nil {
		return err
	}
	k.gateway, err = gateway.New(gateway.Config{
		Address: d.Kernel.Listen, Markets: markets, DefaultMarket: d.Kernel.DefaultMarket, MaxBody: d.Kernel.Limits.Body,
		MaxInFlight: d.Kernel.Limits.InFlight, RatePerSecond: d.Kernel.Limits.RatePerSecond, RateBurst: d.Kernel.Limits.Burst,
		AllowedOrigins: d.Kernel.CORS.Origins, Metrics: d.Kernel.Metrics != "",
	}, gateway.Parts{Router: k.router, Kernel: k.publicServices(), Authenticator: k.identity, Blobs: k.blobs, Ready: k.unready, Log: k.log})
	return err
}

// serve runs until ctx ends or something that nothing can do without does.
func (k *kernel) serve(ctx context.Context, listener net.Listener) error {
	closeMetrics, err := k.showMetrics()
	if err != nil {
		return err
	}
	defer closeMetrics()
	defer func() { _ = k.blobs.Close() }()
	base := newGroup(ctx)
	defer base.stop()
	base.run("node", k.node.Run)
	base.run("mail", func(ctx context.Context) error { k.identity.Run(ctx); return nil })
	base.run("database watch", k.db.Watch)
	// What calls plugins unasked.
	work := newGroup(ctx)
	defer work.stop()
	work.run("bus", k.bus.Run)
	work.run("sagas", k.sagas.Run)

	token := filepath.Join(k.cfg.Deployment.Kernel.DataDir, TokenFile)
	if err := os.WriteFile(token, []byte(k.identity.LocalOperatorToken()+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(token) }()

	server := k.gateway.Server()
	server.Handler = telemetry.Hide(server.Handler)
	failed := make(chan error, 1)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("the public port: %w", err)
		}
	}()
	if err := k.plugins.Start(ctx); err != nil && ctx.Err() == nil {
		k.log.Error("not every plugin is up; they are tried again", "error", err)
	}
	k.log.Info("serving", "address", listener.Addr().String(), "database", k.db.Kind(), "plugins", len(k.cfg.Deployment.Plugins),
		"after", time.Since(k.started).Round(time.Millisecond).String())

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	case cause = <-base.failed:
	case cause = <-work.failed:
	case <-k.db.Exited():
		cause = errors.New("PostgreSQL ended unasked; start again to recover")
	}
	k.log.Info("stopping")
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		k.log.Warn("public calls were still under way", "error", err)
		_ = server.Close()
	}
	work.stop()
	k.plugins.Stop()
	return cause
}

// unready tells why the deployment cannot serve all it should.
func (k *kernel) unready() []string {
	var out []string
	snap := k.registry.Snapshot()
	for _, p := range k.cfg.Deployment.Plugins {
		if r := snap.Plugins[p.Name]; r == nil || r.Process == nil {
			reason := "not started"
			if r != nil {
				reason = string(r.State)
			}
			out = append(out, "plugin "+p.Name+": "+reason)
		}
	}
	return out
}

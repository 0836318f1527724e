// Package plugin serves a module or a provider to the kernel: a plugin author
// writes a Plugin and calls Main; the handshake, the lifecycle, instances,
// events and migrations are the SDK's.
package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/manifest"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/serve"
	"github.com/entrepot/entrepot/sdk/store"
)

// Plugin is what an author writes.
type Plugin struct {
	// Manifest is the text of plugin.hcl, embedded.
	Manifest string
	// Migrations holds files "<14 digits>_<words>.sql" at its root; modules
	// only. The kernel runs them in order, as the owner of the module's schema.
	Migrations fs.FS
	// Sagas that the module starts.
	Sagas []*saga.Definition
	// Validate looks further at a configuration than its fields' types. It
	// has no side effects. Optional.
	Validate func(config json.RawMessage) []*pluginv1.Diagnostic
	// New makes an instance: it registers services on in.Server, event
	// handlers with in.Subscribe, and may set in.Check and in.Close.
	New func(ctx context.Context, in *Instance) error
}

// Instance is one configured use of a plugin. New fills Server, handlers,
// Check and Close; afterwards everything is read-only.
type Instance struct {
	Name     string
	Revision int64
	// Secrets by field name.
	Secrets map[string]string
	// DB is the module's schema; nil for providers.
	DB *store.DB
	// Host is the line to the kernel.
	Host *host.Host
	// Server takes the services: xv1connect.RegisterYServiceHandler(in.Server, svc).
	Server *connect.Server
	// Markets of the deployment, and the one of calls that name none.
	Markets       map[string]*typev1.Market
	DefaultMarket string
	// DataDir outlives the process; empty where the operator gives none.
	DataDir string
	// PublicURL is the base of the deployment's public address.
	PublicURL string
	Log       *slog.Logger
	// Check tells how the instance is; nil: always well. It returns within
	// three seconds. An error made with fault.Downstream means degraded, any
	// other failed.
	Check func(ctx context.Context) error
	// Webhook gets what the outside sends to /webhooks/<instance>; the
	// signature is verified before anything is parsed. Providers only.
	Webhook func(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error)
	// Close ends background work of the instance, after its last call. ctx is
	// bounded.
	Close func(ctx context.Context)

	config   json.RawMessage
	handlers map[string]map[string]event.Handler
	plugin   *pluginv1.Manifest
	inflight sync.WaitGroup
	// endWork ends the SDK's own background work of a module, and waits for it.
	endWork func()
}

// Config decodes the instance's configuration into a struct; an unknown field
// is an error.
func (in *Instance) Config(into any) error {
	return strict(in.config, into)
}

// Subscribe says what is done with the events of a subscription that the
// manifest declares. Schedules come as *pluginv1.Tick on the subscription
// "schedules". A topic without a handler is passed over.
func (in *Instance) Subscribe(name string, handlers ...event.Handler) error {
	if in.handlers[name] != nil {
		return fmt.Errorf("plugin: subscription %q has its handlers already", name)
	}
	topics, ok := subscribed(in.plugin, name)
	if !ok {
		return fmt.Errorf("plugin: the manifest declares no subscription %q", name)
	}
	in.handlers[name] = make(map[string]event.Handler, len(handlers))
	for _, h := range handlers {
		if !topics[h.Topic()] {
			return fmt.Errorf("plugin: subscription %q does not list the topic %s", name, h.Topic())
		}
		in.handlers[name][h.Topic()] = h
	}
	return nil
}

// schedules is the subscription that the kernel adds for a manifest with
// schedules.
const schedules = "schedules"

func subscribed(m *pluginv1.Manifest, name string) (map[string]bool, bool) {
	if name == schedules && len(m.GetSchedules()) > 0 {
		return map[string]bool{string((&pluginv1.Tick{}).ProtoReflect().Descriptor().FullName()): true}, true
	}
	for _, s := range m.GetSubscriptions() {
		if s.GetName() == name {
			topics := make(map[string]bool, len(s.GetTopics()))
			for _, t := range s.GetTopics() {
				topics[t] = true
			}
			return topics, true
		}
	}
	return nil, false
}

// Main serves the plugin and does not return. Started with --manifest it
// prints the manifest and ends.
func Main(p Plugin) {
	if len(os.Args) == 2 && os.Args[1] == "--manifest" {
		fmt.Print(p.Manifest)
		os.Exit(0)
	}
	os.Exit(serve.Run(func(h *serve.Host) (*connect.Server, func(context.Context), error) {
		s, err := NewServer(p, h.Transport())
		if err != nil {
			return nil, nil, err
		}
		return s.Server, s.Drain, nil
	}))
}

// NewServer makes the plugin's server over a transport to the kernel. Main
// does this for a process; the test kit does it in process.
func NewServer(p Plugin, kernel connect.Transport) (*Server, error) {
	m, err := manifest.Parse([]byte(p.Manifest), "plugin.hcl")
	if err != nil {
		return nil, err
	}
	d, err := describe(p, m)
	if err != nil {
		return nil, err
	}
	return newServer(p, d, host.New(kernel))
}

// closeTimeout bounds the end of an instance.
const closeTimeout = 10 * time.Second

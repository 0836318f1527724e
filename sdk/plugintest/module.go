// Package plugintest runs a plugin in process: its real code against a real
// PostgreSQL, with fakes for its neighbours and a small kernel that answers
// what a plugin asks. It needs nothing but the SDK, so a third party's tests
// use it too.
package plugintest

import (
	"context"
	"encoding/json"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// Module is a plugin under test.
type Module struct {
	// DB is the database as the module's own role sees it.
	DB *store.DB
	// Admin is the database as its owner sees it.
	Admin *pgxpool.Pool

	manifest *pluginv1.Manifest
	server   *plugin.Server
	kernel   *kernel
	subs     map[string]int32
	next     map[int32]int64
	head     int64 // of the log
}

// Option changes how a plugin is started.
type Option func(*options)

type options struct {
	config     map[string]any
	secrets    map[string]string
	neighbours func(*connect.Server)
	instances  map[string][]*kernelv1.Instance
	dataDir    string
}

// Config gives the instance a configuration.
func Config(c map[string]any) Option { return func(o *options) { o.config = c } }

// Secrets gives the instance secrets.
func Secrets(s map[string]string) Option { return func(o *options) { o.secrets = s } }

// Neighbours registers fakes of the contracts that the plugin calls.
func Neighbours(register func(*connect.Server)) Option {
	return func(o *options) { o.neighbours = register }
}

// DataDir gives the instance a folder; without it a provider gets a temporary
// one.
func DataDir(dir string) Option { return func(o *options) { o.dataDir = dir } }

// Markets of every test: GB in pounds, DE in euros, JP in yen. GB is the
// default.
var Markets = []*typev1.Market{
	{Code: "GB", CurrencyCode: "GBP", Languages: []string{"en"}},
	{Code: "DE", CurrencyCode: "EUR", Languages: []string{"de", "en"}},
	{Code: "JP", CurrencyCode: "JPY", Languages: []string{"ja", "en"}},
}

// Start runs one instance, named like the plugin, until the test ends. A
// module gets a database of its own.
func Start(t testing.TB, p plugin.Plugin, opts ...Option) *Module {
	t.Helper()
	var o options
	for _, f := range opts {
		f(&o)
	}
	m := &Module{subs: make(map[string]int32), next: make(map[int32]int64)}
	m.kernel = newKernel(m, o)
	var err error
	m.server, err = plugin.NewServer(p, connectinprocess.New(m.kernel.server))
	require.NoError(t, err)
	life := pluginv1connect.NewPluginServiceClient(connect.NewClient(connectinprocess.New(m.server.Server)))
	d, err := life.Describe(t.Context(), &pluginv1.DescribeRequest{})
	require.NoError(t, err)
	m.manifest = d.GetManifest()

	config, err := json.Marshal(o.config)
	require.NoError(t, err)
	if o.config == nil {
		config = nil
	}
	found, err := life.ValidateConfig(t.Context(), &pluginv1.ValidateConfigRequest{Instance: m.manifest.GetName(), Config: config})
	require.NoError(t, err)
	require.Empty(t, found.GetDiagnostics())

	req := &pluginv1.ConfigureRequest{
		Instance: m.manifest.GetName(), Revision: 1, Config: config, Secrets: o.secrets, Node: "test",
		DataDir: o.dataDir, Markets: Markets, DefaultMarket: "GB", PublicUrl: "http://127.0.0.1:8080",
	}
	if m.manifest.GetKind() == pluginv1.Manifest_KIND_MODULE {
		req.Database = m.database(t, d)
	} else if req.DataDir == "" {
		req.DataDir = t.TempDir()
	}
	_, err = life.Configure(t.Context(), req)
	require.NoError(t, err)
	t.Cleanup(m.Stop)
	return m
}

// Stop ends the plugin as the kernel does that stops or replaces it: calls in
// flight finish, then its instances close. The end of the test does it too.
func (m *Module) Stop() { m.server.Drain(context.Background()) }

// Client calls the plugin as the kernel would on behalf of a caller. An unset
// market is GB.
func (m *Module) Client(info call.Info) *connect.Client {
	return connect.NewClient(connectinprocess.New(m.server.Server), func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			i := info
			if i.Instance == "" {
				i.Instance = m.manifest.GetName()
			}
			if ci, ok := connect.CallInfoForClientContext(ctx); ok {
				i.Encode(ci.RequestHeader().Set)
			}
			return next(ctx, spec)
		}
	})
}

// As is a caller: a principal in a market.
func As(p call.Principal, market string) call.Info { return call.Info{Principal: p, Market: market} }

// Deliver hands events to a subscription, as the bus would, and returns what
// the plugin answered. They stand in the log too, published by the area that
// their message is of.
func (m *Module) Deliver(ctx context.Context, subscription string, events ...proto.Message) error {
	sub := m.subs[subscription]
	move := &pluginv1.LaneMove{Expected: m.next[sub]}
	req := &pluginv1.DeliverRequest{Subscription: sub, Name: subscription, Lanes: []*pluginv1.LaneMove{move}}
	for _, e := range events {
		o, err := store.Encode(e)
		if err != nil {
			return err
		}
		m.head++
		if _, err := m.Admin.Exec(ctx, `INSERT INTO bus.log (pos, event_id, source, topic, key, lane, at, payload)
			VALUES ($1, gen_random_uuid(), split_part($2, '.', 2), $2, $3, 0, now(), $4)`, m.head, o.Topic, o.Key, o.Payload); err != nil {
			return err
		}
		req.Events = append(req.Events, &pluginv1.Event{
			Position: m.head, EventId: o.Topic + "/" + o.Key, Topic: o.Topic, Key: o.Key, Payload: o.Payload,
		})
	}
	move.Next = m.head
	_, err := pluginv1connect.NewEventServiceClient(m.Client(call.Info{})).Deliver(ctx, req)
	if err == nil {
		m.next[sub] = move.GetNext()
	}
	return err
}

// RunSagas drives every saga that the plugin has started and that has not
// ended, also one that an event's handler started and nobody waits for, in the
// order of their starts. It answers how each stands, by its key. One that
// waits is driven from its first step when this is called again: steps that are
// recorded answer as before.
func (m *Module) RunSagas(ctx context.Context) (map[string]*kernelv1.RunResponse, error) {
	rows, err := m.Admin.Query(ctx, "SELECT id::text, key FROM bus.saga WHERE status < 3 ORDER BY id")
	if err != nil {
		return nil, err
	}
	type started struct{ ID, Key string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[started])
	if err != nil {
		return nil, err
	}
	out := make(map[string]*kernelv1.RunResponse, len(all))
	for _, s := range all {
		if out[s.Key], err = m.kernel.Run(ctx, &kernelv1.RunRequest{SagaId: s.ID}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Published returns everything the plugin has put on the bus, in order.
func (m *Module) Published(t testing.TB) []proto.Message {
	t.Helper()
	out := m.kernel.publishedByProvider()
	if m.Admin == nil {
		return out
	}
	rows, err := m.Admin.Query(t.Context(), "SELECT topic, payload FROM bus.outbox ORDER BY seq")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var topic string
		var payload []byte
		require.NoError(t, rows.Scan(&topic, &payload))
		out = append(out, decode(t, topic, payload))
	}
	require.NoError(t, rows.Err())
	return out
}

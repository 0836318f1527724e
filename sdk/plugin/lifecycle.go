package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sort"
	"time"

	"connectrpc.com/connect/v2"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// lifecycle serves entrepot.plugin.v1.PluginService.
type lifecycle struct{ *Server }

func (l lifecycle) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return l.describe, nil
}

func (l lifecycle) ValidateConfig(_ context.Context, req *pluginv1.ValidateConfigRequest) (*pluginv1.ValidateConfigResponse, error) {
	found := fields(l.describe.GetManifest(), req.GetConfig())
	if len(found) == 0 && l.plugin.Validate != nil {
		found = l.plugin.Validate(req.GetConfig())
	}
	return &pluginv1.ValidateConfigResponse{Diagnostics: found}, nil
}

// fields checks a configuration against the manifest: unknown, missing and
// mistyped fields.
func fields(m *pluginv1.Manifest, config []byte) []*pluginv1.Diagnostic {
	var out []*pluginv1.Diagnostic
	report := func(field, format string, args ...any) {
		out = append(out, &pluginv1.Diagnostic{
			Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: fmt.Sprintf(format, args...),
		})
	}
	values := make(map[string]any)
	if len(config) > 0 {
		if err := json.Unmarshal(config, &values); err != nil {
			report("", "the configuration is no JSON object: %v", err)
			return out
		}
	}
	known := make([]string, 0, len(m.GetConfig()))
	for _, f := range m.GetConfig() {
		known = append(known, f.GetName())
		v, ok := values[f.GetName()]
		delete(values, f.GetName())
		switch {
		case !ok && f.GetRequired() && !f.GetSecret():
			report(f.GetName(), "is required: %s", f.GetDescription())
		case ok && !fits(f.GetType(), v):
			report(f.GetName(), "is %v; want %s", v, typeNames[f.GetType()])
		}
	}
	rest := make([]string, 0, len(values))
	for name := range values {
		rest = append(rest, name)
	}
	sort.Strings(rest)
	for _, name := range rest {
		report(name, "is not known; this plugin takes %v", known)
	}
	return out
}

var typeNames = map[pluginv1.ConfigField_Type]string{
	pluginv1.ConfigField_TYPE_STRING:   "a text",
	pluginv1.ConfigField_TYPE_INT:      "a whole number",
	pluginv1.ConfigField_TYPE_BOOL:     "true or false",
	pluginv1.ConfigField_TYPE_DURATION: `a duration, for example "250ms"`,
	pluginv1.ConfigField_TYPE_LIST:     "a list",
}

func fits(t pluginv1.ConfigField_Type, v any) bool {
	switch t {
	case pluginv1.ConfigField_TYPE_STRING:
		_, ok := v.(string)
		return ok
	case pluginv1.ConfigField_TYPE_INT:
		f, ok := v.(float64)
		return ok && f == float64(int64(f))
	case pluginv1.ConfigField_TYPE_BOOL:
		_, ok := v.(bool)
		return ok
	case pluginv1.ConfigField_TYPE_DURATION:
		s, ok := v.(string)
		if !ok {
			return false
		}
		_, err := time.ParseDuration(s)
		return err == nil
	case pluginv1.ConfigField_TYPE_LIST:
		_, ok := v.([]any)
		return ok
	}
	return false
}

func (l lifecycle) Configure(ctx context.Context, req *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	l.mu.RLock()
	old, ending := l.instances[req.GetInstance()], l.draining
	l.mu.RUnlock()
	switch {
	case ending:
		return nil, draining()
	case old != nil && old.Revision == req.GetRevision():
		return &pluginv1.ConfigureResponse{}, nil
	case old != nil && old.Revision > req.GetRevision():
		return nil, fault.New(connect.CodeFailedPrecondition, "REVISION_OLDER", "a newer revision is configured")
	}
	in, err := l.instance(ctx, req)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.instances[in.Name] = in
	l.mu.Unlock()
	if old != nil {
		go old.end(context.WithoutCancel(ctx))
	}
	return &pluginv1.ConfigureResponse{}, nil
}

func (l lifecycle) instance(ctx context.Context, req *pluginv1.ConfigureRequest) (*Instance, error) {
	m := l.describe.GetManifest()
	log := slog.Default().With("instance", req.GetInstance())
	in := &Instance{
		Name: req.GetInstance(), Revision: req.GetRevision(), Secrets: req.GetSecrets(), Host: l.host,
		Server: instanceServer(log), Markets: make(map[string]*typev1.Market, len(req.GetMarkets())),
		DefaultMarket: req.GetDefaultMarket(), DataDir: req.GetDataDir(), PublicURL: req.GetPublicUrl(), Log: log,
		config: req.GetConfig(), handlers: make(map[string]map[string]event.Handler), plugin: m,
	}
	for _, mk := range req.GetMarkets() {
		in.Markets[mk.GetCode()] = mk
	}
	if d := req.GetDatabase(); d != nil {
		db, err := store.Open(store.Config{URL: d.GetUrl(), Plugin: m.GetName(), Node: req.GetNode(), MaxConnections: int(d.GetMaxConnections())})
		if err != nil {
			return nil, err
		}
		in.DB = db
	} else if m.GetKind() == pluginv1.Manifest_KIND_MODULE {
		return nil, fault.New(connect.CodeInvalidArgument, "DATABASE_MISSING", "a module needs a database")
	}
	if err := l.plugin.New(ctx, in); err != nil {
		if in.DB != nil {
			_ = in.DB.Close()
		}
		// The kernel shows this to the operator, and to nobody else.
		return nil, fault.New(connect.CodeFailedPrecondition, "INSTANCE_REFUSED", err.Error())
	}
	if in.DB != nil {
		in.endWork = background(in.forget)
	}
	return in, nil
}

// background runs work until it is ended.
func background(work func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (l lifecycle) Check(ctx context.Context, req *pluginv1.CheckRequest) (*pluginv1.CheckResponse, error) {
	in, release, err := l.acquire(req.GetInstance())
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if in.DB != nil {
		if err := in.DB.PingContext(ctx); err != nil {
			return &pluginv1.CheckResponse{
				Status: pluginv1.CheckResponse_STATUS_DEGRADED, Reason: "DATABASE_UNREACHABLE", Message: "the database does not answer",
			}, nil
		}
	}
	if in.Check == nil {
		return &pluginv1.CheckResponse{Status: pluginv1.CheckResponse_STATUS_OK}, nil
	}
	if err := in.Check(ctx); err != nil {
		st := pluginv1.CheckResponse_STATUS_FAILED
		if fault.IsDownstream(err) {
			st = pluginv1.CheckResponse_STATUS_DEGRADED
		}
		return &pluginv1.CheckResponse{Status: st, Reason: fault.Reason(err), Message: err.Error()}, nil
	}
	return &pluginv1.CheckResponse{Status: pluginv1.CheckResponse_STATUS_OK}, nil
}

func (l lifecycle) Release(ctx context.Context, req *pluginv1.ReleaseRequest) (*pluginv1.ReleaseResponse, error) {
	l.mu.Lock()
	in := l.instances[req.GetInstance()]
	delete(l.instances, req.GetInstance())
	l.mu.Unlock()
	if in != nil {
		in.end(ctx)
	}
	return &pluginv1.ReleaseResponse{}, nil
}

// Drain of the lifecycle service ends every instance.
func (l lifecycle) Drain(ctx context.Context, _ *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	l.Server.Drain(ctx)
	return &pluginv1.DrainResponse{}, nil
}

// strict decodes JSON and refuses fields that the target does not have.
func strict(config []byte, into any) error {
	if len(config) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

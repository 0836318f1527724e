// Package manifest reads plugin.hcl, in which a plugin's author says what the
// plugin is and what it wants: the contracts it serves and calls, the topics
// it publishes, its subscriptions, schedules and configuration. The file is
// compiled into the binary.
//
//	name    = "order"
//	version = "0.1.0"
//	kind    = "module"
//	serves "entrepot.order.v1" {}
//	calls     = ["entrepot.catalog.v1"]
//	publishes = ["entrepot.order.v1.OrderPlaced"]
//	subscription "payments" {
//	  topics = ["entrepot.payment.v1.PaymentCaptured"]
//	}
//	schedule "expiry" { every = "10s" }
package manifest

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"buf.build/go/protovalidate"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"golang.org/x/mod/semver"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// MaxBytes is the largest manifest that is read.
const MaxBytes = 64 << 10

// Parse reads a manifest. filename stands in the findings. The error is a
// diagnostic.List: a line for each finding, with the place and the remedy.
func Parse(src []byte, filename string) (*pluginv1.Manifest, error) {
	if len(src) > MaxBytes {
		return nil, fmt.Errorf("%s: %d bytes is more than a manifest's %d", filename, len(src), MaxBytes)
	}
	r := reader{whole: hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}}
	if r.literals(src, filename); len(r.found) > 0 {
		return nil, r.found.Err()
	}
	parsed, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
	if diags.HasErrors() {
		r.found.AddHCL(diags)
		return nil, r.found.Err()
	}
	var f file
	if diags := gohcl.DecodeBody(parsed.Body, nil, &f); diags.HasErrors() {
		r.found.AddHCL(diags)
		return nil, r.found.Err()
	}
	m := r.manifest(&f)
	if len(r.found) == 0 {
		r.validate(m, &f)
	}
	if err := r.found.Err(); err != nil {
		return nil, err
	}
	return m, nil
}

type reader struct {
	found diagnostic.List
	whole hcl.Range
}

var (
	contractName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.v[1-9][0-9]*((alpha|beta)[0-9]*)?$`)
	topicName    = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.v[1-9][0-9]*((alpha|beta)[0-9]*)?\.[A-Z][A-Za-z0-9]*$`)
	plainName    = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	releaseNames = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+`)
)

func (r *reader) manifest(f *file) *pluginv1.Manifest {
	m := &pluginv1.Manifest{Name: f.Name, Version: f.Version, Title: f.Title, Calls: f.Calls, Publishes: f.Publishes, Reveals: f.Reveals}
	switch f.Kind {
	case "module":
		m.Kind = pluginv1.Manifest_KIND_MODULE
	case "provider":
		m.Kind = pluginv1.Manifest_KIND_PROVIDER
		if len(f.Subscriptions) > 0 {
			r.found.Add(f.Subscriptions[0].At, "a provider has no database to remember events by, so it has no subscriptions", `Write kind = "module", or leave the block out`)
		}
		if len(f.Schedules) > 0 {
			r.found.Add(f.Schedules[0].At, "a provider has no schedules", `Write kind = "module", or leave the block out`)
		}
	default:
		r.found.Add(f.KindAt, fmt.Sprintf("kind %q is unknown", f.Kind), `Write "module" if the plugin owns data, "provider" if it adapts something outside`)
	}
	if !semver.IsValid("v"+f.Version) || !releaseNames.MatchString(f.Version) {
		r.found.Add(f.VersionAt, fmt.Sprintf("version %q is no semantic version", f.Version), `Write three numbers, for example "0.1.0"`)
	}
	r.names(f.Calls, f.CallsAt, contractName, "contract", "entrepot.catalog.v1")
	r.names(f.Publishes, f.PublishesAt, topicName, "topic", "entrepot.order.v1.OrderPlaced")
	r.names(f.Reveals, f.RevealsAt, plainName, "purpose", "show-to-owner")

	once := r.unique("serves")
	for _, s := range f.Serves {
		once(s.Contract, s.At)
		r.names([]string{s.Contract}, s.At, contractName, "contract", "entrepot.order.v1")
		r.names(s.Capabilities, s.At, plainName, "capability", "partial-capture")
		m.Serves = append(m.Serves, &pluginv1.ServedContract{Contract: s.Contract, Capabilities: s.Capabilities})
	}
	once = r.unique("subscription")
	for _, s := range f.Subscriptions {
		once(s.Name, s.At)
		r.names(s.Topics, s.TopicsAt, topicName, "topic", "entrepot.order.v1.OrderPlaced")
		m.Subscriptions = append(m.Subscriptions, &pluginv1.Subscription{
			Name: s.Name, Topics: s.Topics, OnDead: r.onDead(s), MaxAttempts: s.MaxAttempts, GatherMilliseconds: r.gather(s),
		})
	}
	once = r.unique("schedule")
	for _, s := range f.Schedules {
		once(s.Name, s.At)
		m.Schedules = append(m.Schedules, &pluginv1.Schedule{Name: s.Name, EverySeconds: r.seconds(s)})
	}
	once = r.unique("config")
	for _, c := range f.Config {
		once(c.Name, c.At)
		m.Config = append(m.Config, &pluginv1.ConfigField{Name: c.Name, Type: r.configType(c), Required: c.Required, Secret: c.Secret, Description: c.Description})
	}
	return m
}

func (r *reader) unique(block string) func(name string, at hcl.Range) {
	seen := map[string]bool{}
	return func(name string, at hcl.Range) {
		if seen[name] {
			r.found.Add(at, fmt.Sprintf("%s %q stands twice", block, name), "Leave one out")
		}
		seen[name] = true
	}
}

func (r *reader) names(names []string, at hcl.Range, form *regexp.Regexp, what, example string) {
	seen := map[string]bool{}
	for _, n := range names {
		switch {
		case !form.MatchString(n):
			r.found.Add(at, fmt.Sprintf("%q is no name of a %s", n, what), "Write it like %q", example)
		case seen[n]:
			r.found.Add(at, fmt.Sprintf("%s %q stands twice", what, n), "Leave one out")
		}
		seen[n] = true
	}
}

func (r *reader) onDead(s subscription) pluginv1.Subscription_OnDead {
	switch s.OnDead {
	case "", "block_key":
		return pluginv1.Subscription_ON_DEAD_BLOCK_KEY
	case "skip":
		return pluginv1.Subscription_ON_DEAD_SKIP
	}
	r.found.Add(s.OnDeadAt, fmt.Sprintf("on_dead %q is unknown", s.OnDead), `Write "block_key" (later events of the key wait) or "skip" (they flow on)`)
	return pluginv1.Subscription_ON_DEAD_UNSPECIFIED
}

func (r *reader) gather(s subscription) int32 {
	if s.Gather == "" {
		return 0
	}
	d, err := time.ParseDuration(s.Gather)
	if err != nil || d%time.Millisecond != 0 || d < 0 || d > 5*time.Second {
		r.found.Add(s.GatherAt, fmt.Sprintf("gather %q is no such time", s.Gather), `Write whole milliseconds up to five seconds, for example "200ms"`)
		return 0
	}
	return int32(d / time.Millisecond)
}

func (r *reader) seconds(s schedule) int32 {
	d, err := time.ParseDuration(s.Every)
	if err != nil || d%time.Second != 0 || d < time.Second || d > 31*24*time.Hour {
		r.found.Add(s.EveryAt, fmt.Sprintf("every %q is no period", s.Every), `Write whole seconds up to 31 days, for example "10s", "1h30m" or "24h"`)
		return 0
	}
	return int32(d / time.Second)
}

func (r *reader) configType(c config) pluginv1.ConfigField_Type {
	switch c.Type {
	case "", "string":
		return pluginv1.ConfigField_TYPE_STRING
	case "int":
		return pluginv1.ConfigField_TYPE_INT
	case "bool":
		return pluginv1.ConfigField_TYPE_BOOL
	case "duration":
		return pluginv1.ConfigField_TYPE_DURATION
	case "list":
		return pluginv1.ConfigField_TYPE_LIST
	}
	r.found.Add(c.TypeAt, fmt.Sprintf("type %q is unknown", c.Type), `Write "string", "int", "bool", "duration" or "list"`)
	return pluginv1.ConfigField_TYPE_UNSPECIFIED
}

// validate checks the limits that the contract itself states.
func (r *reader) validate(m *pluginv1.Manifest, f *file) {
	err := protovalidate.Validate(m)
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		if err != nil {
			r.found.Add(r.whole, err.Error(), "")
		}
		return
	}
	for _, v := range invalid.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		index := -1
		if e := v.Proto.GetField().GetElements(); len(e) > 0 && e[0].GetSubscript() != nil {
			index = int(e[0].GetIndex())
		}
		field := ""
		if v.FieldDescriptor != nil && len(v.Proto.GetField().GetElements()) > 0 {
			field = v.Proto.GetField().GetElements()[0].GetFieldName()
		}
		r.found.Add(f.at(field, index, r.whole), path+" "+v.Proto.GetMessage(), "")
	}
}

// at is where a field of the manifest is written.
func (f *file) at(field string, index int, whole hcl.Range) hcl.Range {
	single := map[string]hcl.Range{"name": f.NameAt, "version": f.VersionAt, "kind": f.KindAt, "title": f.TitleAt,
		"calls": f.CallsAt, "publishes": f.PublishesAt, "reveals": f.RevealsAt}
	if at, ok := single[field]; ok && at.Filename != "" {
		return at
	}
	switch {
	case index < 0:
	case field == "serves" && index < len(f.Serves):
		return f.Serves[index].At
	case field == "subscriptions" && index < len(f.Subscriptions):
		return f.Subscriptions[index].At
	case field == "schedules" && index < len(f.Schedules):
		return f.Schedules[index].At
	case field == "config" && index < len(f.Config):
		return f.Config[index].At
	}
	return whole
}

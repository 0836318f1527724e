package deployment

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// maxFile bounds an operator's file.
const maxFile = 1 << 20

// Read reads and checks an operator's file. The error is a diagnostic.List
// with a line for each finding: place, what is wrong, what to write instead.
// Values of secrets stand in none of them.
func Read(path string) (*Deployment, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	src, err := readBounded(abs, maxFile)
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	return parse(src, path, abs)
}

// parse reads a file's text. name stands in the findings; paths are relative
// to abs.
func parse(src []byte, name, abs string) (*Deployment, error) {
	p := parser{d: &Deployment{File: abs}, dir: filepath.Dir(abs),
		whole: hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}}
	p.ctx = functions(p.dir)
	parsed, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		p.found.AddHCL(diags)
		return nil, p.found.Err()
	}
	var f file
	if diags := gohcl.DecodeBody(parsed.Body, p.ctx, &f); diags.HasErrors() {
		p.found.AddHCL(diags)
		return nil, p.found.Err()
	}
	p.plugins(f.Plugins)
	p.markets(f.Markets)
	p.binds("", f.Binds)
	for _, m := range f.Markets {
		p.binds(m.Code, m.Binds)
	}
	if f.Kernel == nil {
		f.Kernel = &kernelBlock{}
	}
	p.kernel(f.Kernel)
	if err := p.found.Err(); err != nil {
		return nil, err
	}
	return p.d, nil
}

type parser struct {
	d         *Deployment
	dir       string
	ctx       *hcl.EvalContext
	whole     hcl.Range
	found     diagnostic.List
	instances map[string]bool
}

var plainName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

func (p *parser) plugins(blocks []pluginBlock) {
	p.instances = map[string]bool{}
	if len(blocks) == 0 {
		p.found.Add(p.whole, "no plugin is named", `Write at least one block: plugin "catalog" { path = "..." }`)
	}
	seen := map[string]bool{}
	for _, b := range blocks {
		p.name("plugin", b.Name, b.At, seen)
		g := &Plugin{Name: b.Name, Path: resolve(p.dir, b.Path), MaxConnections: b.MaxConnections, at: b.At, pathAt: b.PathAt}
		p.executable(g)
		if b.MaxConnections < 0 || b.MaxConnections > 100 {
			p.found.Add(b.ConnectionsAt, fmt.Sprintf("max_connections %d is out of range", b.MaxConnections), "Write 1 to 100, or leave it out for 8")
		}
		if g.MaxConnections == 0 {
			g.MaxConnections = 8
		}
		blocks := b.Instances
		if len(blocks) == 0 {
			blocks = []instanceBlock{{Name: b.Name, At: b.At, Config: b.Config, Secrets: b.Secrets}}
		} else if b.Config != nil || b.Secrets != nil {
			p.found.Add(b.At, fmt.Sprintf("plugin %q has instance blocks beside a config or secrets block of its own", b.Name), "Move them into the instances")
		}
		for _, i := range blocks {
			p.name("instance", i.Name, i.At, p.instances)
			g.Instances = append(g.Instances, p.instance(i))
		}
		p.d.Plugins = append(p.d.Plugins, g)
	}
}

func (p *parser) name(what, name string, at hcl.Range, seen map[string]bool) {
	switch {
	case !plainName.MatchString(name):
		p.found.Add(at, fmt.Sprintf("%q is no name of a %s", name, what), `Write small letters, digits and single hyphens, like "payment-sandbox"`)
	case seen[name]:
		p.found.Add(at, fmt.Sprintf("%s %q stands twice", what, name), "Give each a name of its own")
	}
	seen[name] = true
}

func (p *parser) instance(b instanceBlock) *Instance {
	i := &Instance{Name: b.Name, Config: []byte("{}"), Secrets: map[string]Secret{}, at: b.At, fieldsAt: map[string]hcl.Range{}, fields: map[string]bool{}}
	config := p.attributes(b.Config, i)
	values := make(map[string]cty.Value, len(config))
	for name, v := range config {
		i.fields[name] = true
		values[name] = v
	}
	object := cty.ObjectVal(values)
	text, err := ctyjson.Marshal(object, object.Type())
	if err != nil {
		p.found.Add(b.At, "config cannot be written as JSON: "+err.Error(), "Write texts, numbers, true, false, lists and objects")
		return i
	}
	i.Config = text
	for name, v := range p.attributes(b.Secrets, i) {
		s, err := convert.Convert(v, cty.String)
		if err != nil || s.IsNull() || s.AsString() == "" {
			p.found.Add(i.fieldsAt[name], fmt.Sprintf("secret %q is no text, or empty", name), `Write env("NAME") or file("path")`)
			continue
		}
		if i.fields[name] {
			p.found.Add(i.fieldsAt[name], fmt.Sprintf("%q stands under config and under secrets", name), "Keep the one in secrets")
		}
		i.Secrets[name] = Secret(s.AsString())
	}
	return i
}

func (p *parser) attributes(b *openBlock, i *Instance) map[string]cty.Value {
	if b == nil {
		return nil
	}
	attrs, diags := b.Body.JustAttributes()
	p.found.AddHCL(diags)
	values := make(map[string]cty.Value, len(attrs))
	for name, a := range attrs {
		v, diags := a.Expr.Value(p.ctx)
		p.found.AddHCL(diags)
		i.fieldsAt[name] = a.NameRange
		if !diags.HasErrors() {
			values[name] = v
		}
	}
	return values
}

// mostShare bounds weights and priorities.
const mostShare = 1_000_000

func (p *parser) binds(market string, blocks []bindBlock) {
	for _, b := range blocks {
		g := &Binding{Contract: b.Contract, Market: market, Merchant: b.Merchant, Instance: b.Instance, Priority: b.Priority, Weight: b.Weight, at: b.InstanceAt}
		if g.Weight == 0 {
			g.Weight = 1
		}
		if b.Weight < 0 || b.Weight > mostShare {
			p.found.Add(b.WeightAt, fmt.Sprintf("weight %d is out of range", b.Weight), "Write 1 to %d, or leave it out for 1", mostShare)
		}
		if b.Priority < 0 || b.Priority > mostShare {
			p.found.Add(b.PriorityAt, fmt.Sprintf("priority %d is out of range", b.Priority), "Write 0, which serves first, to %d, or leave it out for 0", mostShare)
		}
		if !p.instances[b.Instance] {
			p.found.Add(b.InstanceAt, fmt.Sprintf("no instance is named %q", b.Instance), "%s", p.suggest(b.Instance))
		}
		g.From = p.time(b.From, b.FromAt)
		g.Until = p.time(b.Until, b.UntilAt)
		if !g.From.IsZero() && !g.Until.IsZero() && !g.From.Before(g.Until) {
			p.found.Add(b.UntilAt, "the binding ends before it begins", "Write a later time in until")
		}
		if slices.ContainsFunc(p.d.Bindings, func(o *Binding) bool {
			return o.Contract == g.Contract && o.Market == g.Market && o.Merchant == g.Merchant && o.Instance == g.Instance && o.From.Equal(g.From)
		}) {
			p.found.Add(b.At, fmt.Sprintf("the binding of %s to %q stands twice", g.Contract, g.Instance), "Leave one out")
		}
		p.d.Bindings = append(p.d.Bindings, g)
	}
}

func (p *parser) time(s string, at hcl.Range) time.Time {
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		p.found.Add(at, fmt.Sprintf("%q is no time", s), `Write it like "2026-01-31T08:00:00Z"`)
	}
	return t
}

package deployment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot/entrepot/core/artifact"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// ErrLocked is wrapped when plugins differ from the lock file.
var ErrLocked = errors.New("the plugins differ from " + LockName)

// Prepared is a deployment whose plugins are known, verified and granted.
type Prepared struct {
	*Deployment
	// Binaries by plugin.
	Binaries map[string]Binary
	// Lock as it stands.
	Lock *Lock
	// Changes are what Lock has that the lock file had not: what a caller who
	// accepts them shows and then writes with Lock.Write. Nil when nothing
	// changed; First is true when there was no lock file.
	Changes []string
	First   bool
}

// Binary is a plugin's verified file and what it says of itself.
type Binary struct {
	// Path in the store.
	Path     string
	SHA256   string
	Manifest *pluginv1.Manifest
}

// Store makes the data folder if need be and opens the plugin store in it. As
// root the folder can be entered by others, so that PostgreSQL, which does not
// run as root, reaches its own; what is in it is closed by itself.
func (d *Deployment) Store() (*artifact.Store, error) {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if err := os.MkdirAll(d.Kernel.DataDir, mode); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return artifact.Open(filepath.Join(d.Kernel.DataDir, "store"))
}

// Prepare copies each plugin's binary into a store, compares it with the lock
// file, asks it for its manifest and checks the operator's file against the
// manifests. A binary that is not the locked one is not run, unless accept is
// true or there is no lock file yet; the error wraps ErrLocked then and says
// which plugins differ and how to accept them. Nothing is written but the
// store.
func (d *Deployment) Prepare(ctx context.Context, store *artifact.Store, accept bool) (*Prepared, error) {
	lock, err := ReadLock(d.LockPath())
	if err != nil {
		return nil, err
	}
	p := &Prepared{Deployment: d, Binaries: map[string]Binary{}, Lock: &Lock{}, First: lock == nil}
	held := lock != nil && !accept
	// Hashing and asking are of each plugin by itself.
	found := make([]look, len(d.Plugins))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, plugin := range d.Plugins {
		g.Go(func() (err error) {
			if found[i], err = plugin.look(gctx, store, lock, held); err != nil {
				return fmt.Errorf("plugin %s: %w", plugin.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var changed []string
	for i, plugin := range d.Plugins {
		if found[i].change != "" {
			changed = append(changed, found[i].change)
			continue
		}
		p.Binaries[plugin.Name] = found[i].Binary
		p.Lock.Plugins = append(p.Lock.Plugins, pin(found[i].Manifest, found[i].SHA256))
	}
	if len(changed) == 0 && lock != nil {
		p.Changes = lock.Compare(p.Lock)
		if held {
			changed = p.Changes
		}
	}
	if len(changed) > 0 {
		return nil, fmt.Errorf("%w:\n  %s\nLook at what changed with `entrepot lock --dry-run %s`; accept it with `entrepot lock %[3]s` or `entrepot serve --accept %[3]s`", ErrLocked, strings.Join(changed, "\n  "), filepath.Base(d.File))
	}
	return p, p.check()
}

// look is what was found of a plugin: its binary, or what the lock file has
// against it.
type look struct {
	Binary
	change string
}

// look copies a plugin's binary into the store and asks it for its manifest. A
// binary that is held to the lock file and is not the one is not run.
func (g *Plugin) look(ctx context.Context, store *artifact.Store, lock *Lock, held bool) (look, error) {
	path, sum, err := store.Put(g.Path, "")
	if err != nil {
		return look{}, err
	}
	switch locked, known := lock.find(g.Name); {
	case held && !known:
		return look{change: fmt.Sprintf("plugin %q is new: sha256 %s", g.Name, short(sum))}, nil
	case held && locked.SHA256 != sum:
		return look{change: fmt.Sprintf("plugin %q: sha256 was %s, is %s (%s)", g.Name, short(locked.SHA256), short(sum), g.Path)}, nil
	}
	m, err := ReadManifest(ctx, path)
	return look{Binary: Binary{Path: path, SHA256: sum, Manifest: m}}, err
}

// check compares the operator's file with the manifests.
func (p *Prepared) check() error {
	var found diagnostic.List
	serves := map[string]map[string]bool{}
	for _, g := range p.Plugins {
		m := p.Binaries[g.Name].Manifest
		if m.GetName() != g.Name {
			found.Add(g.at, fmt.Sprintf("the binary of plugin %q calls itself %q", g.Name, m.GetName()), "Write plugin %q, or another path", m.GetName())
			continue
		}
		if m.GetKind() == pluginv1.Manifest_KIND_MODULE && len(g.Instances) > 1 {
			found.Add(g.Instances[1].at, fmt.Sprintf("module %q owns one schema, so it has one instance", g.Name), "Leave one instance block")
		}
		contracts := map[string]bool{}
		for _, s := range m.GetServes() {
			contracts[s.GetContract()] = true
		}
		for _, i := range g.Instances {
			serves[i.Name] = contracts
			i.check(m, &found)
		}
	}
	for _, b := range p.Bindings {
		if contracts, ok := serves[b.Instance]; ok && !contracts[b.Contract] {
			found.Add(b.at, fmt.Sprintf("instance %q does not serve %s", b.Instance, b.Contract), "%s", offers(serves, b.Contract))
		}
	}
	return found.Err()
}

func offers(serves map[string]map[string]bool, contract string) string {
	var names []string
	for instance, contracts := range serves {
		if contracts[contract] {
			names = append(names, instance)
		}
	}
	if len(names) == 0 {
		return "No instance of this deployment does: add a plugin that serves it"
	}
	slices.Sort(names)
	return "It is served by " + strings.Join(names, ", ")
}

// check compares an instance's fields with the manifest; their types are the
// plugin's to judge.
func (i *Instance) check(m *pluginv1.Manifest, found *diagnostic.List) {
	var known []string
	for _, f := range m.GetConfig() {
		known = append(known, f.GetName())
		_, secret := i.Secrets[f.GetName()]
		switch plain := i.fields[f.GetName()]; {
		case f.GetSecret() && plain:
			found.Add(i.fieldsAt[f.GetName()], fmt.Sprintf("%q is a secret", f.GetName()), "Move it into the secrets block")
		case !f.GetSecret() && secret:
			found.Add(i.fieldsAt[f.GetName()], fmt.Sprintf("%q is no secret", f.GetName()), "Move it into the config block")
		case f.GetRequired() && !plain && !secret:
			found.Add(i.at, fmt.Sprintf("instance %q lacks %q", i.Name, f.GetName()), "Write it: %s", f.GetDescription())
		}
	}
	for name, at := range i.fieldsAt {
		if !slices.Contains(known, name) {
			remedy := "Plugin " + m.GetName() + " takes " + strings.Join(known, ", ")
			if len(known) == 0 {
				remedy = "Plugin " + m.GetName() + " takes no configuration"
			}
			found.Add(at, fmt.Sprintf("%q is unknown", name), "%s", remedy)
		}
	}
}

package deployment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// LockName is the lock file's name, beside the operator's file.
const LockName = "entrepot.lock.hcl"

// Lock pins every plugin: which file runs, and what it was granted.
type Lock struct {
	Plugins []Locked `hcl:"plugin,block"`
}

// Locked is one plugin in the lock file.
type Locked struct {
	Name    string `hcl:"name,label"`
	Version string `hcl:"version"`
	// SHA256 of the binary, in hex.
	SHA256    string   `hcl:"sha256"`
	Serves    []string `hcl:"serves,optional"`
	Calls     []string `hcl:"calls,optional"`
	Publishes []string `hcl:"publishes,optional"`
	// Listens are the topics of all its subscriptions: the facts that it is
	// told.
	Listens []string `hcl:"listens,optional"`
	Reveals []string `hcl:"reveals,optional"`
}

// LockPath is where the lock file of an operator's file stands.
func (d *Deployment) LockPath() string { return filepath.Join(filepath.Dir(d.File), LockName) }

// pin is what the lock says of a plugin as it is.
func pin(m *pluginv1.Manifest, sha256 string) Locked {
	sorted := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	var serves []string
	for _, s := range m.GetServes() {
		serves = append(serves, s.GetContract())
	}
	var listens []string
	for _, s := range m.GetSubscriptions() {
		listens = append(listens, s.GetTopics()...)
	}
	return Locked{Name: m.GetName(), Version: m.GetVersion(), SHA256: sha256,
		Serves: sorted(serves), Calls: sorted(m.GetCalls()), Publishes: sorted(m.GetPublishes()),
		Listens: slices.Compact(sorted(listens)), Reveals: sorted(m.GetReveals())}
}

// ReadLock reads a lock file; nil when there is none.
func ReadLock(path string) (*Lock, error) {
	src, err := readBounded(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	var found diagnostic.List
	var l Lock
	parsed, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	if !diags.HasErrors() {
		diags = gohcl.DecodeBody(parsed.Body, nil, &l)
	}
	found.AddHCL(diags)
	return &l, found.Err()
}

// Write writes the lock file in place of an older one, whole or not at all.
func (l *Lock) Write(path string) error {
	sorted := Lock{Plugins: slices.SortedFunc(slices.Values(l.Plugins), func(a, b Locked) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})}
	f := hclwrite.NewEmptyFile()
	gohcl.EncodeIntoBody(&sorted, f.Body())
	text := append([]byte("# Which plugins run here, and what each was granted. Written by `entrepot lock`;\n# keep it in version control.\n\n"), hclwrite.Format(f.Bytes())...)
	tmp, err := os.CreateTemp(filepath.Dir(path), ".lock-*")
	if err != nil {
		return fmt.Errorf("lock file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("lock file: %w", err)
	}
	return os.Rename(tmp.Name(), path)
}

func (l *Lock) find(name string) (Locked, bool) {
	if l != nil {
		for _, p := range l.Plugins {
			if p.Name == name {
				return p, true
			}
		}
	}
	return Locked{}, false
}

// Compare tells how a newer lock differs from this one, a line for each
// difference, empty when it does not.
func (l *Lock) Compare(now *Lock) []string {
	var lines []string
	for _, p := range now.Plugins {
		old, ok := l.find(p.Name)
		if !ok {
			lines = append(lines, fmt.Sprintf("plugin %q is new: version %s, sha256 %s", p.Name, p.Version, short(p.SHA256)))
			continue
		}
		lines = append(lines, old.compare(p)...)
	}
	for _, p := range l.Plugins {
		if _, ok := now.find(p.Name); !ok {
			lines = append(lines, fmt.Sprintf("plugin %q is gone", p.Name))
		}
	}
	return lines
}

func (p Locked) compare(now Locked) []string {
	var lines []string
	differ := func(what, old, now string) {
		lines = append(lines, fmt.Sprintf("plugin %q: %s was %s, is %s", p.Name, what, old, now))
	}
	if p.SHA256 != now.SHA256 {
		differ("sha256", short(p.SHA256), short(now.SHA256))
	}
	if p.Version != now.Version {
		differ("version", p.Version, now.Version)
	}
	for _, list := range []struct {
		verb     string
		old, now []string
	}{{"serves", p.Serves, now.Serves}, {"calls", p.Calls, now.Calls}, {"publishes", p.Publishes, now.Publishes},
		{"listens to", p.Listens, now.Listens}, {"reveals for", p.Reveals, now.Reveals}} {
		for _, s := range list.now {
			if !slices.Contains(list.old, s) {
				lines = append(lines, fmt.Sprintf("plugin %q: newly %s %s", p.Name, list.verb, s))
			}
		}
		for _, s := range list.old {
			if !slices.Contains(list.now, s) {
				lines = append(lines, fmt.Sprintf("plugin %q: no longer %s %s", p.Name, list.verb, s))
			}
		}
	}
	return lines
}

func short(sum string) string {
	if len(sum) > 12 {
		return sum[:12]
	}
	return sum
}

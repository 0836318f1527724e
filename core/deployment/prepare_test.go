package deployment

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/artifact"
)

func prepared(t *testing.T, dir, text string, accept bool) (*Prepared, error) {
	t.Setenv("SHOP_KEY", "hunter2")
	d, err := read(t, dir, text)
	require.NoError(t, err)
	store, err := artifact.Open(t.TempDir())
	require.NoError(t, err)
	return d.Prepare(t.Context(), store, accept)
}

func lock(t *testing.T, dir string) *Prepared {
	p, err := prepared(t, dir, shop, true)
	require.NoError(t, err)
	require.NoError(t, p.Lock.Write(p.LockPath()))
	return p
}

func TestTheFirstStartPinsWhatItFinds(t *testing.T) {
	dir := folder(t, manifests)
	p := lock(t, dir)
	require.True(t, p.First)
	require.Equal(t, "catalog", p.Binaries["catalog"].Manifest.GetName())
	require.NotEqual(t, p.Plugins[0].Path, p.Binaries["catalog"].Path, "what runs is the verified copy")

	again, err := ReadLock(p.LockPath())
	require.NoError(t, err)
	require.Equal(t, p.Lock, again)

	p, err = prepared(t, dir, shop, false)
	require.NoError(t, err)
	require.False(t, p.First)
	require.Empty(t, p.Changes)
}

func TestABinaryThatIsNotTheLockedOneIsNotRun(t *testing.T) {
	dir := folder(t, manifests)
	lock(t, dir)
	ran := filepath.Join(dir, "ran")
	script := "#!/bin/sh\ntouch " + ran + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", "catalog"), []byte(script), 0o755))

	_, err := prepared(t, dir, shop, false)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, `plugin "catalog": sha256 was `)
	require.ErrorContains(t, err, "entrepot lock deployment.hcl")
	require.NoFileExists(t, ran)
}

func TestWhatAnUpgradeAsksForIsShownBeforeItIsAccepted(t *testing.T) {
	dir := folder(t, manifests)
	lock(t, dir)
	binary(t, dir, "catalog", strings.Replace(manifests["catalog"], `"1.0.0"`, `"1.1.0"`, 1)+"\ncalls = [\"entrepot.order.v1\"]\nreveals = [\"print-label\"]\n"+listens)

	p, err := prepared(t, dir, shop, true)
	require.NoError(t, err)
	require.False(t, p.First)
	changes := strings.Join(p.Changes, "\n")
	for _, want := range []string{`version was 1.0.0, is 1.1.0`, `newly calls entrepot.order.v1`, `newly reveals for print-label`, `newly listens to entrepot.order.v1.OrderPlaced`, `sha256 was`} {
		require.Contains(t, changes, want)
	}
	require.NotContains(t, changes, "payment-sandbox")
}

// listens is two subscriptions to one topic.
const listens = `
subscription "sales" { topics = ["entrepot.order.v1.OrderPlaced"] }
subscription "figures" { topics = ["entrepot.order.v1.OrderPlaced"] }
`

// The lock file is the grant, whatever the binary: one that lacks a topic
// keeps the plugin from hearing of it.
func TestAPluginThatListensToMoreThanItWasGrantedIsRefused(t *testing.T) {
	with := maps.Clone(manifests)
	with["catalog"] += listens
	dir := folder(t, with)
	p := lock(t, dir)
	text, err := os.ReadFile(p.LockPath())
	require.NoError(t, err)
	require.Contains(t, string(text), `listens   = ["entrepot.order.v1.OrderPlaced"]`)
	_, err = prepared(t, dir, shop, false)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(p.LockPath(), []byte(strings.Replace(string(text), `["entrepot.order.v1.OrderPlaced"]`, `[]`, 1)), 0o600))
	_, err = prepared(t, dir, shop, false)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, `plugin "catalog": newly listens to entrepot.order.v1.OrderPlaced`)
	require.ErrorContains(t, err, "accept it with `entrepot lock deployment.hcl`")
}

func TestAPluginMoreOrLessThanLockedIsRefused(t *testing.T) {
	dir := folder(t, manifests)
	p := lock(t, dir)
	for change, want := range map[string]string{"less": `plugin "payment-sandbox" is new`, "more": `plugin "ghost" is gone`} {
		other := &Lock{Plugins: p.Lock.Plugins[:1]}
		if change == "more" {
			other.Plugins = slices.Concat(p.Lock.Plugins[:2], []Locked{{Name: "ghost"}})
		}
		require.NoError(t, other.Write(p.LockPath()))
		_, err := prepared(t, dir, shop, false)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, os.WriteFile(p.LockPath(), []byte("plugin {"), 0o600))
	_, err := prepared(t, dir, shop, false)
	require.ErrorContains(t, err, LockName+":1:")
}

func TestTheFileIsCheckedAgainstTheManifests(t *testing.T) {
	for name, c := range map[string]struct{ change, to, want string }{
		"unknown field":     {"pages = 20", "page = 20", `:25:5: "page" is unknown. Plugin catalog takes pages, tags, key`},
		"secret in config":  {`config { delay = "1s" }`, `config { token = "1s" }`, `"token" is a secret. Move it into the secrets block`},
		"config in secrets": {`key = env("SHOP_KEY")`, `tags = env("SHOP_KEY")`, `"tags" stands under config and under secrets`},
		"contract unserved": {`bind "entrepot.payment.provider.v1" { `, `bind "entrepot.tax.v1" { `, `instance "sandbox-de" does not serve entrepot.tax.v1. No instance of this deployment does`},
		"wrong instance":    {`instance = "sandbox-de"`, `instance = "catalog"`, `instance "catalog" does not serve entrepot.payment.provider.v1. It is served by sandbox-de, sandbox-gb`},
		"another's binary":  {`"bin/payment-sandbox"`, `"bin/catalog"`, `the binary of plugin "payment-sandbox" calls itself "catalog"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, manifests)
			text := strings.Replace(shop, c.change, c.to, 1)
			require.NotEqual(t, shop, text)
			t.Setenv("SHOP_KEY", "hunter2")
			d, err := read(t, dir, text)
			if err == nil {
				var store *artifact.Store
				store, err = artifact.Open(t.TempDir())
				require.NoError(t, err)
				_, err = d.Prepare(t.Context(), store, true)
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	t.Run("a required field", func(t *testing.T) {
		dir := folder(t, manifests)
		binary(t, dir, "catalog", manifests["catalog"]+"\nconfig \"url\" {\n required = true\n description = \"Where.\"\n}")
		_, err := prepared(t, dir, shop, true)
		require.ErrorContains(t, err, `instance "catalog" lacks "url". Write it: Where.`)
	})
}

func TestABinaryThatMisbehavesIsBounded(t *testing.T) {
	dir := t.TempDir()
	for script, want := range map[string]string{
		"#!/bin/sh\nexit 3\n": "exit status 3; is it a plugin of this release?",
		"#!/bin/sh\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n": "prints more than",
		"#!/bin/sh\necho 'name = '\n": "plugin.hcl:1:",
		"not a program":               "exec format error",
	} {
		path := filepath.Join(dir, "plugin")
		require.NoError(t, os.WriteFile(path, []byte(script), 0o755))
		_, err := ReadManifest(t.Context(), path)
		require.ErrorContains(t, err, want)
	}
}

package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// inOrder and notInOrder are exit codes of the command line (entrepot --help).
const (
	inOrder    = 0
	notInOrder = 3
)

// prepared is a shop that was not started yet, in a folder of its own.
func prepared(t *testing.T, build string) *shop.Shop {
	t.Helper()
	s, err := shop.New(shop.Options{Root: root, Build: build, Dir: filepath.Join(tempDir(t), "run")})
	require.NoError(t, err)
	return s
}

// tempDir is a folder for a test, that the database's user may pass through.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := publicDir()
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Whatever is wrong with the operator's file is told by its place, in words,
// with what to write instead; and nothing is started or written.
func TestABrokenFileIsToldByPlaceAndRemedy(t *testing.T) {
	s := prepared(t, binaries)
	file := filepath.Join(s.Dir, "deployment.hcl")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	code, out, err := entrepot(t.Context(), s, "validate", file)
	require.NoError(t, err)
	require.Equal(t, inOrder, code, out)

	for _, c := range []struct {
		what string
		// old is replaced by new, once; the finding is at the line of mark in
		// the changed file and says each of tells.
		old, new, mark string
		tells          []string
	}{
		{"an unknown attribute", `listen         =`, `lisen         =`, "lisen", []string{"lisen", `Did you mean "listen"`}},
		{"an unknown block", `market "JP" {`, `markt "JP" {`, `markt "JP"`, []string{"markt", `Did you mean "market"`}},
		{"a block that is not closed", "{ instance = \"lorries-jp\" }\n}", "{ instance = \"lorries-jp\" }\n", "", []string{"block"}},
		{"an instance that nobody named", `instance = "sandbox-jp" }`, `instance = "sandbox-jq" }`, "sandbox-jq", []string{`"sandbox-jq"`, `Did you mean "sandbox-jp"`}},
		{"an instance that does not serve the contract", `instance = "sandbox-jp" }`, `instance = "catalog" }`, `instance = "catalog"`, []string{"does not serve entrepot.payment.provider.v1", "sandbox-de, sandbox-gb, sandbox-jp"}},
		{"a binary that is not there", `/warehouse"`, `/warehose"`, "warehose", []string{`plugin "warehouse"`, "there is no file", "Build the plugin"}},
		{"a binary that is another plugin", `/warehouse"`, `/catalog"`, `plugin "warehouse"`, []string{`calls itself "catalog"`}},
		{"a folder for a binary", `/warehouse"`, `"`, "", []string{"is a folder", "path to the binary"}},
		{"no currency", `currency  = "JPY"`, `currency  = "YEN"`, "YEN", []string{`"YEN" is no currency`, "ISO 4217"}},
		{"no country", `market "JP" {`, `market "XX" {`, `market "XX"`, []string{`"XX" is no country`, "ISO 3166-1"}},
		{"a country twice", `market "JP" {`, `market "DE" {`, "", []string{"stands twice"}},
		{"no language", `["ja", "en"]`, `["japanese!", "en"]`, "japanese!", []string{"is no language", "BCP 47"}},
		{"a default that is no market", `default_market = "GB"`, `default_market = "FR"`, `"FR"`, []string{`"FR" is none of the markets`}},
		{"no address", `env("ENTREPOT_LISTEN", ` + strconv.Quote(s.Listen) + `)`, `"8080"`, `"8080"`, []string{"is no address", "127.0.0.1:8080"}},
		{"a variable that is not set", `env("DATABASE_URL", null)`, `env("NOBODY_SETS_THIS")`, "NOBODY_SETS_THIS", []string{"NOBODY_SETS_THIS is not set"}},
		{"a field that the plugin does not have", `config { currency = "JPY" }`, `config { colour = "red" }`, "colour", []string{`"colour" is unknown`, "payment-sandbox takes", "currency"}},
		{"a field of a plugin that takes none", `/order"`, "/order\"\n  config { colour = \"red\" }", "colour", []string{`"colour" is unknown`, "Plugin order takes no configuration"}},
		{"a secret in the open", "config { currency = \"JPY\" }\n    secrets { webhook_secret = env(\"SANDBOX_WEBHOOK_SECRET\") }", "config {\n webhook_secret = \"whsec_hunter2\"\n }", "whsec_hunter2", []string{`"webhook_secret" is a secret`, "secrets block"}},
		{"a module that is to be two", `/order"`, "/order\"\n  instance \"order-a\" {}\n  instance \"order-b\" {}", "order-b", []string{"owns one schema", "one instance"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			require.Equal(t, 1, strings.Count(string(good), c.old), "the file has %q once", c.old)
			changed := strings.Replace(string(good), c.old, c.new, 1)
			require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
			code, out, err := entrepot(t.Context(), s, "validate", file)
			require.NoError(t, err)
			require.Equal(t, notInOrder, code, out)
			require.NotContains(t, out, "hunter2", "no secret stands in a finding")
			for _, want := range c.tells {
				require.Contains(t, out, want)
			}
			place := file + ":"
			if c.mark != "" {
				place += line(changed, c.mark) + ":"
			}
			require.Contains(t, out, place)
		})
	}
	code, out, err = entrepot(t.Context(), s, "serve", file)
	require.NoError(t, err)
	require.Equal(t, notInOrder, code, "the last one does not start either: %s", out)
	require.NoFileExists(t, filepath.Join(s.Dir, "entrepot.lock.hcl"))
	require.NoDirExists(t, filepath.Join(s.Dir, "data", "postgres"))
}

// line is the number of the first line that holds a text.
func line(s, mark string) string {
	before, _, _ := strings.Cut(s, mark)
	return strconv.Itoa(strings.Count(before, "\n") + 1)
}

// What a plugin says against the values of its configuration is told with the
// plugin, the instance and the field, before the shop is open.
func TestAValueThatThePluginRefusesIsToldWithItsField(t *testing.T) {
	s := prepared(t, binaries)
	file := filepath.Join(s.Dir, "deployment.hcl")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(good), `config { currency = "JPY" }`, `config { currency = "YEN" }`, 1)), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var start sync.WaitGroup
	start.Go(func() { err = s.Start(ctx) })
	t.Cleanup(func() {
		cancel()
		start.Wait()
		require.NoError(t, s.Stop())
		require.Error(t, err, "the shop is not ready")
	})
	var reason string
	require.Eventually(t, func() bool {
		st, err := s.Status(ctx)
		for _, p := range st.GetPlugins() {
			if p.GetName() == "payment-sandbox" {
				reason = p.GetReason()
			}
		}
		return err == nil && reason != ""
	}, 30*time.Second, 50*time.Millisecond)
	for _, want := range []string{"sandbox-jp", "currency", "YEN"} {
		require.Contains(t, reason, want)
	}
}

// A plugin whose file changed does not run until the operator says so.
func TestAChangedPluginIsRefusedUntilItIsAccepted(t *testing.T) {
	bin := tempDir(t)
	files, err := os.ReadDir(binaries)
	require.NoError(t, err)
	for _, f := range files {
		require.NoError(t, os.Symlink(filepath.Join(binaries, f.Name()), filepath.Join(bin, f.Name())))
	}
	mine := filepath.Join(bin, "catalog")
	body, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.NoError(t, os.Remove(mine))
	require.NoError(t, os.WriteFile(mine, body, 0o755))
	s := prepared(t, bin)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, s.Start(ctx))
	first, err := s.Processes(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Stop())

	// It does the same as before: only its bytes are others.
	f, err := os.OpenFile(mine, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("one more line")
	require.NoError(t, err)
	require.NoError(t, f.Close())

	code, out, err := entrepot(ctx, s, "serve", "deployment.hcl")
	require.NoError(t, err)
	require.Equal(t, notInOrder, code, out)
	for _, want := range []string{"entrepot.lock.hcl", `plugin "catalog": sha256 was `, "entrepot lock deployment.hcl", "entrepot serve --accept deployment.hcl"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, `plugin "order"`, "the others are as they were")

	require.NoError(t, s.Start(ctx), "accepted")
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	second, err := s.Processes(ctx)
	require.NoError(t, err)
	for i, p := range second {
		require.Equal(t, first[i].Name, p.Name)
		require.Equal(t, p.Name != "catalog", p.SHA256 == first[i].SHA256, p.Name)
	}
}

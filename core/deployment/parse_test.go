package deployment

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const shop = `
kernel {
  listen         = "127.0.0.1:9090"
  data_dir       = "data"
  default_market = "DE"
  database_url   = env("SHOP_DATABASE", null)
  log_level      = "debug"
  limits {
    body            = "2MiB"
    rate_per_second = 50
  }
  cors { origins = ["https://shop.example"] }
  identity {
    mail = "discard"
    limits { client_burst = 9 }
  }
  metrics = "127.0.0.1:9464"
  bus { keep_days = 90 }
  blobs { url = "file:///srv/shop/blobs" }
}

plugin "catalog" {
  path = "bin/catalog"
  config {
    pages = 20
    tags  = ["a", "b"]
  }
  secrets { key = env("SHOP_KEY") }
}

plugin "payment-sandbox" {
  path            = "bin/payment-sandbox"
  max_connections = 3
  instance "sandbox-gb" {
    secrets { token = file("token") }
  }
  instance "sandbox-de" {
    config { delay = "1s" }
  }
}

market "GB" {
  currency  = "GBP"
  languages = ["en"]
  bind "entrepot.payment.provider.v1" {
    instance = "sandbox-gb"
    priority = 1
    from     = "2026-01-01T00:00:00Z"
  }
}
market "DE" {
  currency  = "EUR"
  languages = ["de", "en-GB"]
}
bind "entrepot.payment.provider.v1" { instance = "sandbox-de" }
`

// folder holds a deployment's binaries and secrets.
func folder(t *testing.T, manifests map[string]string) string {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for name, manifest := range manifests {
		binary(t, dir, name, manifest)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("t0ken\n"), 0o600))
	return dir
}

// binary is a script that prints a manifest.
func binary(t *testing.T, dir, name, manifest string) {
	script := "#!/bin/sh\ncat <<'END'\n" + manifest + "\nEND\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", name), []byte(script), 0o755))
}

var manifests = map[string]string{
	"catalog":         "name = \"catalog\"\nversion = \"1.0.0\"\nkind = \"module\"\nserves \"entrepot.catalog.v1\" {}\nconfig \"pages\" { type = \"int\" }\nconfig \"tags\" { type = \"list\" }\nconfig \"key\" { secret = true }",
	"payment-sandbox": "name = \"payment-sandbox\"\nversion = \"1.0.0\"\nkind = \"provider\"\nserves \"entrepot.payment.provider.v1\" {}\nconfig \"delay\" {}\nconfig \"token\" { secret = true }",
}

func read(t *testing.T, dir, text string) (*Deployment, error) {
	path := filepath.Join(dir, "deployment.hcl")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return Read(path)
}

func TestAnOperatorsFileIsRead(t *testing.T) {
	t.Setenv("SHOP_KEY", "hunter2")
	dir := folder(t, manifests)
	d, err := read(t, dir, shop)
	require.NoError(t, err)
	require.Equal(t, Kernel{
		Listen: "127.0.0.1:9090", DataDir: filepath.Join(dir, "data"), PublicURL: "http://127.0.0.1:9090", DefaultMarket: "DE",
		LogLevel: slog.LevelDebug, Limits: Limits{Body: 2 << 20, RatePerSecond: 50},
		CORS: CORS{Origins: []string{"https://shop.example"}}, Identity: Identity{Mail: "discard", Argon2MemoryKiB: 19456, ClientBurst: 9},
		Metrics: "127.0.0.1:9464", Bus: Bus{KeepDays: 90}, Blobs: Blobs{Dir: "/srv/shop/blobs"},
	}, d.Kernel)
	require.Len(t, d.Plugins, 2)
	catalog, payment := d.Plugins[0], d.Plugins[1]
	require.Equal(t, filepath.Join(dir, "bin/catalog"), catalog.Path)
	require.EqualValues(t, 8, catalog.MaxConnections)
	require.Equal(t, "catalog", catalog.Instances[0].Name, "without instance blocks there is one of the plugin's name")
	require.JSONEq(t, `{"pages": 20, "tags": ["a", "b"]}`, string(catalog.Instances[0].Config))
	require.Equal(t, "hunter2", catalog.Instances[0].Secrets["key"].Reveal())
	require.Equal(t, "t0ken", payment.Instances[0].Secrets["token"].Reveal(), "a file's last newline is no part of the secret")
	require.EqualValues(t, 3, payment.MaxConnections)
	require.Equal(t, []*Market{{"GB", "GBP", []string{"en"}}, {"DE", "EUR", []string{"de", "en-GB"}}}, d.Markets)
	require.Len(t, d.Bindings, 2)
	require.Empty(t, d.Bindings[0].Market)
	require.Equal(t, "GB", d.Bindings[1].Market)
	require.Equal(t, 1, d.Bindings[1].Weight)
	require.Equal(t, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), d.Bindings[1].From)
}

func TestAMarketBindsSeveralInstancesToOneContract(t *testing.T) {
	dir := folder(t, map[string]string{"carriers": ""})
	d, err := read(t, dir, `
plugin "carriers" {
  path = "bin/carriers"
  instance "fast" {}
  instance "cheap" {}
  instance "spare" {}
}
market "GB" {
  currency  = "GBP"
  languages = ["en"]
  bind "acme.carrier.v1" {
    instance = "fast"
    weight   = 30
  }
  bind "acme.carrier.v1" {
    instance = "cheap"
    weight   = 70
  }
  bind "acme.carrier.v1" {
    instance = "spare"
    priority = 1
  }
  bind "acme.carrier.v1" {
    instance = "cheap"
    merchant = "mrc_1"
  }
}
`)
	require.NoError(t, err)
	var got []string
	for _, b := range d.Bindings {
		got = append(got, fmt.Sprintf("%s %s%s %d/%d", b.Market, b.Merchant, b.Instance, b.Priority, b.Weight))
	}
	require.Equal(t, []string{"GB fast 0/30", "GB cheap 0/70", "GB spare 1/1", "GB mrc_1cheap 0/1"}, got)
	require.Equal(t, filepath.Join(dir, ".run/data/blobs"), d.Kernel.Blobs.Dir, "blobs are kept with the rest")
}

func TestASecretDoesNotShowItself(t *testing.T) {
	s := Secret("hunter2")
	text, err := json.Marshal(map[string]Secret{"a": s})
	require.NoError(t, err)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s)
	for _, shown := range []string{string(text), log.String(), fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), fmt.Sprint(map[string]Secret{"a": s})} {
		require.NotContains(t, shown, "hunter2")
	}
}

func TestFindingsNamePlaceAndRemedy(t *testing.T) {
	t.Setenv("SHOP_KEY", "hunter2")
	dir := folder(t, manifests)
	at := filepath.Join(dir, "deployment.hcl")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", "plain"), []byte("x"), 0o644))
	for name, c := range map[string]struct{ change, to, want string }{
		"unknown attribute":    {`listen  `, `lisen  `, at + `:3:3: Unsupported argument. An argument named "lisen" is not expected here. Did you mean "listen"?`},
		"unknown block":        {`cors {`, `corse {`, `Did you mean "cors"?`},
		"missing path":         {`path = "bin/catalog"`, ``, `The argument "path" is required`},
		"no such file":         {`"bin/catalog"`, `"bin/catalogue"`, at + `:23:10: plugin "catalog": there is no file ` + filepath.Join(dir, "bin/catalogue") + `. Build the plugin`},
		"not executable":       {`"bin/catalog"`, `"bin/plain"`, `is not executable. chmod +x`},
		"a folder":             {`"bin/catalog"`, `"bin"`, `is a folder`},
		"port":                 {`127.0.0.1:9090`, `127.0.0.1:http`, at + `:3:20: listen "127.0.0.1:http" is no address. Write host and port`},
		"size":                 {`"2MiB"`, `"2 megs"`, `body "2 megs" is no size`},
		"level":                {`"debug"`, `"loud"`, `log_level "loud" is unknown`},
		"origin":               {`"https://shop.example"`, `"https://shop.example/"`, `is no web origin`},
		"mail":                 {`"discard"`, `"smtp"`, `mail "smtp" is unknown. Write "file" or "discard".`},
		"unset variable":       {`env("SHOP_KEY")`, `env("SHOP_KEI")`, `the environment variable SHOP_KEI is not set`},
		"missing secret file":  {`file("token")`, `file("tokn")`, `no such file`},
		"plugin name":          {`plugin "catalog"`, `plugin "Catalog"`, `"Catalog" is no name of a plugin`},
		"plugin twice":         {`plugin "payment-sandbox"`, `plugin "catalog"`, `plugin "catalog" stands twice`},
		"instance twice":       {`instance "sandbox-de"`, `instance "catalog"`, `instance "catalog" stands twice`},
		"config beside":        {`max_connections = 3`, "config {}", `has instance blocks beside a config`},
		"connections":          {`max_connections = 3`, `max_connections = 500`, `max_connections 500 is out of range`},
		"unknown instance":     {`instance = "sandbox-gb"`, `instance = "sandbox-bg"`, at + `:46:16: no instance is named "sandbox-bg". Did you mean`},
		"nearest instance":     {`instance = "sandbox-gb"`, `instance = "sandbox-gg"`, `Did you mean "sandbox-gb"?`},
		"binding twice":        {`bind "entrepot.payment.provider.v1" { instance = "sandbox-de" }`, strings.Repeat("bind \"entrepot.payment.provider.v1\" { instance = \"sandbox-de\" }\n", 2), `stands twice`},
		"time":                 {`"2026-01-01T00:00:00Z"`, `"2026-01-01"`, `"2026-01-01" is no time`},
		"no currency":          {`currency  = "EUR"`, ``, `The argument "currency" is required`},
		"currency":             {`"EUR"`, `"Euro"`, `"Euro" is no currency. Write its three capital letters (ISO 4217)`},
		"unknown currency":     {`"EUR"`, `"EUX"`, `"EUX" is no currency`},
		"country":              {`market "GB"`, `market "UK"`, `market "UK" is no country`},
		"region":               {`market "GB"`, `market "EU"`, `market "EU" is no country`},
		"language":             {`"en-GB"`, `"english!"`, `"english!" is no language`},
		"default market":       {`default_market = "DE"`, `default_market = "JP"`, `default_market "JP" is none of the markets`},
		"database":             {`env("SHOP_DATABASE", null)`, `"mysql://u:hunter3@h/d"`, `database_url is no PostgreSQL URL`},
		"secret under config":  {`pages = 20`, `key = 20`, `"key" stands under config and under secrets`},
		"blocks inside config": {`pages = 20`, `pages {}`, `Blocks are not allowed here`},
		"negative limit":       {`client_burst = 9`, `client_burst = -9`, `a limit is negative`},
		"metrics for all":      {`"127.0.0.1:9464"`, `":9464"`, `metrics ":9464" is open to the public. Write an address of this machine`},
		"metrics outside":      {`"127.0.0.1:9464"`, `"203.0.113.7:9464"`, `is open to the public`},
		"metrics in public":    {`"127.0.0.1:9464"`, `"127.0.0.1:9090"`, at + `:17:13: metrics is the public port`},
		"metrics as a switch":  {`"127.0.0.1:9464"`, `true`, `metrics "true" is no address. Write host and port, like "127.0.0.1:9464"`},
		"no days":              {`keep_days = 90`, `keep_days = 0`, at + `:18:21: keep_days 0 is out of range. Write 1 or more`},
		"no days at all":       {`keep_days = 90`, ``, `The argument "keep_days" is required`},
		"blobs elsewhere":      {`"file:///srv/shop/blobs"`, `"s3://shop"`, at + `:19:17: url "s3://shop" is no folder. Write it like "file:///srv/shop/blobs"`},
		"blobs of a host":      {`"file:///srv/shop/blobs"`, `"file://srv/shop"`, `is no folder`},
		"blobs nowhere":        {`"file:///srv/shop/blobs"`, `"file:///"`, `is no folder`},
		"blobs with options":   {`"file:///srv/shop/blobs"`, `"file:///srv?no_tmp_dir=1"`, `is no folder`},
		"a path for blobs":     {`"file:///srv/shop/blobs"`, `"blobs"`, `is no folder`},
		"blobs unsaid":         {`url = "file:///srv/shop/blobs"`, ``, `The argument "url" is required`},
		"negative weight":      {`priority = 1`, `weight = -1`, `weight -1 is out of range. Write 1 to 1000000`},
		"too much weight":      {`priority = 1`, `weight = 3000000000`, `weight 3000000000 is out of range`},
		"negative priority":    {`priority = 1`, `priority = -1`, `priority -1 is out of range. Write 0, which serves first, to 1000000`},
		"half a priority":      {`priority = 1`, `priority = 1.5`, `must be a whole number`},
		"too little memory":    {`mail = "discard"`, `argon2_memory_kib = 1`, `argon2_memory_kib 1 is out of range`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(shop, c.change, c.to, 1)
			require.NotEqual(t, shop, text)
			_, err := read(t, dir, text)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter", "no secret stands in a finding")
		})
	}
	_, err := read(t, dir, "")
	require.ErrorContains(t, err, "no plugin is named")
	require.ErrorContains(t, err, "no market is named")
}

func FuzzParse(f *testing.F) {
	f.Add(shop)
	f.Add(`plugin "a" { config { b = file(env("c")) } }`)
	f.Add(`bind "" { instance = null }`)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parse([]byte(text), "deployment.hcl", filepath.Join(dir, "deployment.hcl"))
		require.True(t, (d == nil) == (err != nil))
	})
}

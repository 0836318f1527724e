package manifest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/manifest"
)

const order = `
name    = "order"
version = "0.1.0"
kind    = "module"
title   = "Orders"

serves "entrepot.order.v1" {
  capabilities = ["guest-checkout"]
}
calls     = ["entrepot.catalog.v1", "entrepot.payment.provider.v1"]
publishes = ["entrepot.order.v1.OrderPlaced"]
reveals   = ["show-to-owner"]

subscription "payments" {
  topics       = ["entrepot.payment.v1.PaymentCaptured"]
  on_dead      = "skip"
  max_attempts = 5
  gather       = "200ms"
}
schedule "expiry" { every = "1m30s" }
config "journal" {
  type        = "duration"
  required    = true
  description = "How long."
}
config "key" { secret = true }
`

func TestAManifestIsRead(t *testing.T) {
	m, err := manifest.Parse([]byte(order), "plugin.hcl")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(&pluginv1.Manifest{
		Name: "order", Version: "0.1.0", Kind: pluginv1.Manifest_KIND_MODULE, Title: "Orders",
		Serves:    []*pluginv1.ServedContract{{Contract: "entrepot.order.v1", Capabilities: []string{"guest-checkout"}}},
		Calls:     []string{"entrepot.catalog.v1", "entrepot.payment.provider.v1"},
		Publishes: []string{"entrepot.order.v1.OrderPlaced"},
		Reveals:   []string{"show-to-owner"},
		Subscriptions: []*pluginv1.Subscription{{Name: "payments", Topics: []string{"entrepot.payment.v1.PaymentCaptured"},
			OnDead: pluginv1.Subscription_ON_DEAD_SKIP, MaxAttempts: 5, GatherMilliseconds: 200}},
		Schedules: []*pluginv1.Schedule{{Name: "expiry", EverySeconds: 90}},
		Config: []*pluginv1.ConfigField{
			{Name: "journal", Type: pluginv1.ConfigField_TYPE_DURATION, Required: true, Description: "How long."},
			{Name: "key", Type: pluginv1.ConfigField_TYPE_STRING, Secret: true},
		},
	}, m, protocmp.Transform()))
}

func TestFindingsNamePlaceAndRemedy(t *testing.T) {
	for name, c := range map[string]struct{ change, to, want string }{
		"unknown attribute":      {`title   =`, `titel   =`, `plugin.hcl:5:1: Unsupported argument. An argument named "titel" is not expected here. Did you mean "title"?`},
		"unknown block":          {`schedule "expiry"`, `schedul "expiry"`, `Did you mean "schedule"?`},
		"missing attribute":      {`version = "0.1.0"`, ``, `The argument "version" is required`},
		"wrong type":             {`max_attempts = 5`, `max_attempts = "many"`, `plugin.hcl:17:19: Unsuitable value type`},
		"syntax":                 {`version = "0.1.0"`, `version = `, `plugin.hcl:3:11: Invalid expression`},
		"kind":                   {`"module"`, `"service"`, `plugin.hcl:4:11: kind "service" is unknown. Write "module" if`},
		"version":                {`"0.1.0"`, `"v1"`, `plugin.hcl:3:11: version "v1" is no semantic version. Write three numbers`},
		"short version":          {`"0.1.0"`, `"1.2"`, `version "1.2" is no semantic version`},
		"name":                   {`"order"`, `"Order"`, `plugin.hcl:2:11: name `},
		"contract":               {`"entrepot.catalog.v1"`, `"catalog"`, `plugin.hcl:10:13: "catalog" is no name of a contract. Write it like "entrepot.catalog.v1".`},
		"contract twice":         {`"entrepot.payment.provider.v1"`, `"entrepot.catalog.v1"`, `contract "entrepot.catalog.v1" stands twice. Leave one out.`},
		"topic":                  {`"entrepot.order.v1.OrderPlaced"`, `"OrderPlaced"`, `"OrderPlaced" is no name of a topic`},
		"on_dead":                {`"skip"`, `"ignore"`, `plugin.hcl:16:18: on_dead "ignore" is unknown`},
		"too many attempts":      {`max_attempts = 5`, `max_attempts = 500`, `plugin.hcl:14:14: subscriptions[0].max_attempts `},
		"too long a wait":        {`"200ms"`, `"6s"`, `plugin.hcl:18:18: gather "6s" is no such time. Write whole milliseconds`},
		"period":                 {`"1m30s"`, `"10ms"`, `plugin.hcl:20:29: every "10ms" is no period`},
		"config type":            {`"duration"`, `"time"`, `type "time" is unknown`},
		"config twice":           {`config "key"`, `config "journal"`, `config "journal" stands twice`},
		"provider subscribes":    {`"module"`, `"provider"`, `plugin.hcl:14:14: a provider has no database`},
		"references are refused": {`"order"`, `env.HOME`, `plugin.hcl:2:14: "." is not expected here. A manifest holds literal values alone`},
	} {
		t.Run(name, func(t *testing.T) {
			src := strings.Replace(order, c.change, c.to, 1)
			require.NotEqual(t, order, src)
			_, err := manifest.Parse([]byte(src), "plugin.hcl")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestEveryFindingIsReportedAtOnce(t *testing.T) {
	src := strings.NewReplacer(`"module"`, `"x"`, `"0.1.0"`, `"x"`).Replace(order)
	_, err := manifest.Parse([]byte(src), "plugin.hcl")
	require.Len(t, strings.Split(err.Error(), "\n"), 2)
	require.True(t, strings.HasPrefix(err.Error(), "plugin.hcl:3:"), "in the order of the file")
}

func TestHostileInputIsBounded(t *testing.T) {
	_, err := manifest.Parse(make([]byte, manifest.MaxBytes+1), "plugin.hcl")
	require.ErrorContains(t, err, "more than a manifest's")
	half := manifest.MaxBytes/2 - 8
	_, err = manifest.Parse([]byte(strings.Repeat("}", half)+"a = "+strings.Repeat("[", half)), "plugin.hcl")
	require.Error(t, err)
	for _, deep := range []string{"[", "a {\n", "!", "-", "1+", "x?", "(", "\"${", "x.", "{a="} {
		_, err = manifest.Parse([]byte("a = "+strings.Repeat(deep, (manifest.MaxBytes-8)/len(deep))), "plugin.hcl")
		require.Error(t, err, "deep nesting is an error, not a crash")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(order)
	f.Add(`name = "${1/0}"`)
	f.Add("serves \"\x00\" {}\nkind = null")
	f.Fuzz(func(t *testing.T, src string) {
		m, err := manifest.Parse([]byte(src), "plugin.hcl")
		require.True(t, (m == nil) == (err != nil))
	})
}

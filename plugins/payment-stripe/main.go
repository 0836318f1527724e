// Command payment-stripe adapts Stripe (https://stripe.com): cards by payment
// intents, payouts by transfers, disputes. README.md says how it is bound.
package main

import (
	_ "embed"

	"github.com/entrepot/entrepot/sdk/plugin"
)

//go:embed plugin.hcl
var manifest string

func main() { plugin.Main(provider()) }

func provider() plugin.Plugin {
	return plugin.Plugin{Manifest: manifest, Validate: validate, New: register}
}

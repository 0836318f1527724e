// Command carrier-sandbox is a carrier company to practise with, and the
// provider that adapts it: README.md says how it behaves.
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

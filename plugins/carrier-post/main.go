// Command carrier-post is a postal operator's adapter: items numbered after UPU
// S10, tariffs that the operator edits, labels and customs forms. README.md
// says what its files hold.
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

// Command authenticator-registry looks at goods by their serial: whether the
// manufacturer made it, and whether it was seen where it cannot be. The
// registers are files of the operator's, a line for each serial or range; what
// was seen, sold and destroyed is remembered beside them.
//
// A register proves that a serial was given, not that it stands on the goods it
// was given to: a copy bears a known serial as well. So of two that bear one
// serial neither is called a counterfeit, but for one whose original was
// destroyed.
package main

import (
	_ "embed"

	"github.com/entrepot/entrepot/sdk/plugin"
)

//go:embed plugin.hcl
var manifest string

func main() { plugin.Main(authenticator()) }

func authenticator() plugin.Plugin {
	return plugin.Plugin{Manifest: manifest, Validate: validate, New: register}
}

// Command authenticator-sun looks at goods by the NTAG 424 DNA chip on them:
// what a phone is given at a tap (a secure unique NFC message, NXP AN12196)
// proves that the chip is one of the operator's, that it is the goods' own and
// that the message is no copy of an earlier one. It proves the chip; that the
// chip sits on its goods only a seal shows.
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

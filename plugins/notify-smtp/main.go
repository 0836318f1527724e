// Command notify-smtp carries notifications as mails, by way of a mail server
// that the operator names.
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

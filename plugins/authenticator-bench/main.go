// Command authenticator-bench brings human inspectors: a check opens a task,
// two people answer its checklist without seeing each other, a third decides
// where they differ. Tasks stand in the instance's state until they are done
// and for as long afterwards as there is room; what inspectors wrote stands in
// blobs, and so do their photos.
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

// Command analytics is the module of browsing and purchase records: it
// recommends, and sums figures for merchants and operators, from a copy of its
// own that events feed.
package main

import (
	"embed"
	"io/fs"

	"github.com/entrepot/entrepot/sdk/plugin"
)

//go:embed plugin.hcl
var manifest string

//go:embed migrations/*.sql
var migrations embed.FS

func main() { plugin.Main(module()) }

func module() plugin.Plugin {
	files, _ := fs.Sub(migrations, "migrations") // embedded above
	return plugin.Plugin{Manifest: manifest, Migrations: files, New: register}
}

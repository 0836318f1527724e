// Command catalog is the module of products, prices and listings: what is
// shown where.
package main

import (
	"context"
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
	return plugin.Plugin{
		Manifest: manifest, Migrations: files,
		New: func(_ context.Context, in *plugin.Instance) error { return register(in) },
	}
}

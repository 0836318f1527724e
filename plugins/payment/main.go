// Command payment is the module of payments: what is held, taken and returned
// at payment companies, and the ledger that says so.
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
		New: func(_ context.Context, in *plugin.Instance) error { _, err := register(in); return err },
	}
}

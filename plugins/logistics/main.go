// Command logistics is the module of shipments: quotes across carriers,
// bookings whose outcome may be unknown, and the log of what carriers tell.
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

// Command inspection is the module of commodity identification: every good is
// recorded, found genuine or not by checks and two persons' word, and followed
// until it is sold or destroyed.
package main

import (
	"context"
	"embed"
	"io/fs"

	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/saga"
)

//go:embed plugin.hcl
var manifest string

//go:embed migrations/*.sql
var migrations embed.FS

func main() { plugin.Main(module()) }

func module() plugin.Plugin {
	files, _ := fs.Sub(migrations, "migrations") // embedded above
	return plugin.Plugin{
		Manifest: manifest, Migrations: files, Sagas: []*saga.Definition{admitSaga, refuseSaga, destroySaga},
		New: func(_ context.Context, in *plugin.Instance) error { _, err := register(in); return err },
	}
}

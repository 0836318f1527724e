// Command aftersale is the module of what happens after a sale: returns,
// exchanges, repairs, what got lost, and the conversation about it.
package main

import (
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
		Manifest: manifest, Migrations: files,
		Sagas: []*saga.Definition{returnSaga, exchangeSaga, repairSaga, refundSaga, reshipSaga, releaseSaga},
		New:   register,
	}
}

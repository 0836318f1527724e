// Command order is the module of carts, checkout and orders.
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
		Manifest: manifest, Migrations: files, New: register,
		Sagas: []*saga.Definition{
			checkoutSaga, acceptSaga, allotSaga, acceptSettledSaga, cancelSaga, cancelSettledSaga, shipSaga, recallSaga, editSaga, editStockSaga, editBothSaga,
		},
	}
}

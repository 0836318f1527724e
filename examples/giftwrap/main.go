// Command giftwrap is a plugin of a third party: a module that has placed
// orders wrapped.
package main

import (
	"embed"
	"io/fs"

	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/saga"
)

//go:generate sh -c "buf export \"$(go list -m -f '{{.Dir}}' github.com/entrepot/entrepot)\" --output .proto && buf generate"

//go:embed plugin.hcl
var manifest string

//go:embed migrations/*.sql
var migrations embed.FS

func main() { plugin.Main(module()) }

func module() plugin.Plugin {
	files, _ := fs.Sub(migrations, "migrations") // embedded above
	return plugin.Plugin{Manifest: manifest, Migrations: files, Sagas: []*saga.Definition{wrapSaga, unwrapSaga}, New: register}
}

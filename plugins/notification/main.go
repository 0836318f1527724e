// Command notification is the module that tells people and systems what
// happened: preferences, words, the inbox of the terminals, and a queue that
// carries mails and webhooks out by providers.
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
	return plugin.Plugin{Manifest: manifest, Migrations: files, Validate: validate, New: register}
}

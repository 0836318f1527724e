// Command entrepot runs and operates a marketplace out of plugins.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/entrepot/entrepot/core/cmd/entrepot/command"
	"github.com/entrepot/entrepot/core/kernel"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	os.Exit(command.Run(ctx, os.Args[1:], os.Stdout, os.Stderr, serve))
}

func serve(ctx context.Context, s command.Serving) error {
	return kernel.Run(ctx, kernel.Config{Deployment: s.Deployment, Artifacts: s.Store, Version: s.Version, Log: s.Log})
}

package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/core/artifact"
	"github.com/entrepot/entrepot/core/deployment"
)

func newValidate() *cobra.Command {
	return &cobra.Command{
		Use: "validate [FILE]", Short: "Check a deployment file, its plugins and its lock file", Args: between(0, 1),
		Long: `Validate reads the file, asks each plugin's binary for its manifest, and checks
the one against the other and both against the lock file. Nothing is started
and nothing is written. A binary that is not the locked one is not run.

Each finding is a line: file:line:column, what is wrong, what to write instead.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := deployment.Read(fileOf(args))
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "entrepot-validate-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }()
			store, err := artifact.Open(dir)
			if err != nil {
				return err
			}
			p, err := d.Prepare(cmd.Context(), store, false)
			if err != nil {
				return err
			}
			instances := 0
			for _, g := range p.Plugins {
				instances += len(g.Instances)
			}
			say(cmd.OutOrStdout(), "%s is in order: %d plugins, %d instances, %d markets, %d bindings", fileOf(args), len(p.Plugins), instances, len(p.Markets), len(p.Bindings))
			if p.First {
				say(cmd.OutOrStdout(), "there is no %s yet: the first `entrepot serve` writes it", deployment.LockName)
			}
			return nil
		},
	}
}

func newLock() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "lock [FILE]", Short: "Accept the plugins as they are, and pin them in the lock file", Args: between(0, 1),
		Long: `Lock writes ` + deployment.LockName + ` beside the file: each plugin's version and sha256,
and what it may do (contracts it serves and calls, topics it publishes and
listens to, purposes for which it may reveal personal data). It prints what changes; read
that as a grant. A kernel refuses to start with plugins that differ.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, _, err := prepare(cmd.Context(), fileOf(args), true)
			if err != nil {
				return err
			}
			if dry {
				return report(cmd.OutOrStdout(), p, "nothing is written")
			}
			if err := p.Lock.Write(p.LockPath()); err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), p, "written")
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print what would change and write nothing")
	return cmd
}

func newServe(serve Serve) *cobra.Command {
	var accept bool
	var format string
	cmd := &cobra.Command{
		Use: "serve [FILE]", Short: "Run a deployment until it is interrupted", Args: between(0, 1),
		Long: `Serve runs the kernel and its plugins. Interrupted (SIGINT, SIGTERM) it lets
calls in flight finish, stops the plugins, then its database; interrupted once
more it ends at once, and recovers at the next start.

The first start writes ` + deployment.LockName + `. A later one refuses plugins that differ
from it, and says which; --accept takes them as they are.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, store, err := prepare(cmd.Context(), fileOf(args), accept)
			if err != nil {
				return err
			}
			if p.First || len(p.Changes) > 0 {
				if err := p.Lock.Write(p.LockPath()); err != nil {
					return err
				}
				if err := report(cmd.ErrOrStderr(), p, "written"); err != nil {
					return err
				}
			}
			log, err := logger(cmd.ErrOrStderr(), format, p.Kernel.LogLevel)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), Serving{Deployment: p, Store: store, Version: Version(), Log: log})
		},
	}
	cmd.Flags().BoolVar(&accept, "accept", false, "take the plugins as they are and write the lock file anew")
	cmd.Flags().StringVar(&format, "log-format", "text", "how the log on standard error is written: text or json")
	return cmd
}

func prepare(ctx context.Context, file string, accept bool) (*deployment.Prepared, *artifact.Store, error) {
	d, err := deployment.Read(file)
	if err != nil {
		return nil, nil, err
	}
	store, err := d.Store()
	if err != nil {
		return nil, nil, err
	}
	p, err := d.Prepare(ctx, store, accept)
	return p, store, err
}

// report tells what a lock file pins or how it changed.
func report(out io.Writer, p *deployment.Prepared, done string) error {
	path := filepath.Base(p.LockPath())
	switch {
	case p.First:
		say(out, "%s: %s for the first time, %d plugins", path, done, len(p.Lock.Plugins))
		for _, l := range p.Lock.Plugins {
			say(out, "  plugin %q %s sha256 %s", l.Name, l.Version, l.SHA256)
		}
	case len(p.Changes) == 0:
		say(out, "%s: nothing changed", path)
	default:
		say(out, "%s: %s, %d changes", path, done, len(p.Changes))
		for _, c := range p.Changes {
			say(out, "  %s", c)
		}
	}
	return nil
}

func logger(out io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(out, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, options)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format is text or json, not %q", format)}
}

// say prints a line. Where it cannot be printed nothing else can help.
func say(out io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

// Package command is entrepot's command line: the operator's file is checked,
// pinned and served, and a running kernel is asked and told through the
// operator contract. Whatever a command does to a running kernel, a program
// can do by RPC.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/core/artifact"
	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// Exit codes.
const (
	exitOK = iota
	// The command was understood and failed.
	exitFailed
	// The command was not understood: a flag, an argument, a name.
	exitUsage
	// The operator's file is wrong, or the plugins differ from the lock file.
	exitFile
	// No kernel answers.
	exitUnreachable
)

// Serve runs a deployment until ctx ends.
type Serve func(ctx context.Context, s Serving) error

// Serving is what a kernel is started with.
type Serving struct {
	Deployment *deployment.Prepared
	Store      *artifact.Store
	Version    string
	Log        *slog.Logger
}

// Run runs one command line and returns the exit code. serve is the kernel.
func Run(ctx context.Context, args []string, out, errs io.Writer, serve Serve) int {
	root := newRoot(serve)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(errs, "%s\n", strings.TrimSpace("entrepot: "+err.Error()))
	var usage usageError
	var list diagnostic.List
	switch {
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.As(err, &list), errors.Is(err, deployment.ErrLocked):
		return exitFile
	case errors.Is(err, errUnreachable):
		return exitUnreachable
	}
	return exitFailed
}

// usageError is a command line that was not understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

const defaultFile = "deployment.hcl"

func newRoot(serve Serve) *cobra.Command {
	root := &cobra.Command{
		Use:   "entrepot",
		Short: "A kernel for cross-border commerce out of plugins",
		Long: `Entrepot runs a marketplace out of plugins: modules that own data, and
providers that reach payment companies, carriers and authenticators. One file,
deployment.hcl, says which run, in which markets, and with what configuration.

  entrepot validate deployment.hcl   look at the file without starting anything
  entrepot serve deployment.hcl      run it
  entrepot status deployment.hcl     see what runs

Commands that speak to a running kernel find it by the same file: its address,
and the operator's token in its data folder. FILE is deployment.hcl in this
folder where it is left out.

Exit codes: 0 done, 1 failed, 2 not understood, 3 the file or the lock file is
not in order, 4 no kernel answers.`,
		Args: noArgs, RunE: help,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(newValidate(), newServe(serve), newLock(), newStatus(), newBus(), newSagas(), newSaga(), newPlugin(), newCertificate(), newVersion())
	return root
}

// group is a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: help}
	cmd.AddCommand(children...)
	return cmd
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q for %q; see: %[2]s --help", args[0], cmd.CommandPath())}
	}
	return nil
}

// between checks the number of arguments and says how to write them.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError{fmt.Errorf("write it like: %s", cmd.UseLine())}
		}
		return nil
	}
}

// fileOf is the operator's file that a command names, else the default one.
func fileOf(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return defaultFile
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), Version())
			return err
		},
	}
}

// Version is the version the program was built from: the module's, else the
// revision of the repository.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel " + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

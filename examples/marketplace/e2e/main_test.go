// Package e2e_test holds the whole deployment to what it promises: the real
// kernel, the real plugins and a real database, reached as the outside reaches
// them.
package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

var (
	// root is the repository, binaries the folder of what was built of it.
	root, binaries string
	// open is the shop that tests share where they do not disturb each other.
	open *world
)

// world is a running shop with a merchant in it.
type world struct {
	*shop.Shop
	owner *shop.Person
	// received is how many units were brought so far.
	received int64
	// lamps are the orders of what terminals' merchants list, by sku.
	lamps map[string]string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if root, err = filepath.Abs("../../.."); err != nil {
		return 1, err
	}
	dir, err := publicDir()
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if binaries, err = build(ctx, filepath.Join(dir, "bin")); err != nil {
		return 1, err
	}
	// At debug the log says the most: what must not stand in it is looked for.
	s, err := shop.New(shop.Options{Root: root, Build: binaries, Dir: filepath.Join(dir, "shared"), Env: []string{"ENTREPOT_LOG_LEVEL=debug"}})
	if err != nil {
		return 1, err
	}
	defer func() { _ = s.Stop() }()
	if err := s.Start(ctx); err != nil {
		return 1, err
	}
	open = &world{Shop: s}
	if open.owner, err = s.Merchant(ctx, 0); err != nil {
		return 1, err
	}
	if code = m.Run(); code != 0 {
		complaints(filepath.Join(s.Dir, "kernel.log"))
	}
	return code, nil
}

// publicDir is a temporary folder that the database's unprivileged user may
// pass through.
func publicDir() (string, error) {
	dir, err := os.MkdirTemp(pgtest.Scratch(), "e2e")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// build makes every binary of the deployment, each once, unless make has.
func build(ctx context.Context, dir string) (string, error) {
	if made := os.Getenv("ENTREPOT_BUILD"); made != "" {
		return made, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./core/cmd/entrepot", "./plugins/...")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
}

// complaints shows what the kernel warned of, each kind once, for who has to
// find out why a test failed.
func complaints(log string) {
	f, err := os.Open(log)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	seen := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan() && len(seen) < 20; {
		_, line, ok := strings.Cut(sc.Text(), " level=")
		kind, _, _ := strings.Cut(line, " request_id=")
		if ok && (strings.HasPrefix(line, "WARN") || strings.HasPrefix(line, "ERROR")) && !seen[kind] {
			seen[kind] = true
			fmt.Fprintln(os.Stderr, "kernel:", line)
		}
	}
}

// entrepot runs the command line against a shop's file, as its operator.
func entrepot(ctx context.Context, s *shop.Shop, args ...string) (code int, out string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Build, "entrepot"), args...)
	cmd.Dir = s.Dir
	cmd.Env = slices.Concat(os.Environ(), s.Environ(), s.Env)
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() {
		return cmd.ProcessState.ExitCode(), string(b), nil
	}
	return -1, string(b), err
}

package pglocal

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// initTimeout bounds initdb, which takes a second on an idle machine.
const initTimeout = 2 * time.Minute

// initialise makes the cluster's files unless they exist, and returns the
// programs of their version. The files are made aside and renamed, so a crash
// half way leaves nothing that looks like a cluster.
func initialise(ctx context.Context, o owner, dir string, durable bool) (Binaries, error) {
	data := filepath.Join(dir, "data")
	if v, err := os.ReadFile(filepath.Join(data, "PG_VERSION")); err == nil {
		major, err := strconv.Atoi(strings.TrimSpace(string(v)))
		if err != nil {
			return Binaries{}, fmt.Errorf("%s/PG_VERSION: %w", data, err)
		}
		return findVersion(major)
	}
	bin, err := Find()
	if err != nil {
		return Binaries{}, err
	}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return Binaries{}, err
	}
	if err := o.take(password, 0o600); err != nil {
		return Binaries{}, err
	}
	aside := filepath.Join(dir, "data.new")
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	var out []byte
	for _, locale := range locales(bin.Version) {
		if err := os.RemoveAll(aside); err != nil {
			return Binaries{}, err
		}
		if err := o.makeDir(aside); err != nil {
			return Binaries{}, err
		}
		args := append([]string{"--pgdata=" + aside, "--encoding=UTF8", "--username=" + Superuser, "--pwfile=" + password,
			"--auth-local=scram-sha-256", "--auth-host=reject", "--no-instructions"}, locale...)
		if !durable {
			args = append(args, "--no-sync")
		}
		cmd := exec.CommandContext(ctx, bin.program("initdb"), args...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, environment(), o.attributes()
		if out, err = cmd.CombinedOutput(); err == nil {
			break
		}
	}
	if err != nil {
		return Binaries{}, fmt.Errorf("initdb of PostgreSQL %d in %s: %w: %s", bin.Version, dir, err, lastLines(out, 5))
	}
	if err := os.Rename(aside, data); err != nil {
		return Binaries{}, err
	}
	return bin, syncDir(dir)
}

// locales are initdb's arguments, best first: text sorts by code point, the
// same on every machine and after every upgrade, and letters beyond ASCII
// have upper and lower case where the system knows how.
func locales(major int) [][]string {
	if major >= 17 {
		return [][]string{{"--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"}}
	}
	return [][]string{{"--locale=C", "--lc-ctype=C.UTF-8"}, {"--locale=C"}}
}

// environment keeps settings of the person who starts us (PGDATA, PGPORT, a
// locale) away from the server.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	if p, ok := os.LookupEnv("PATH"); ok {
		env = append(env, "PATH="+p)
	}
	return env
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// lastLines is the end of a program's output on one line, for an error.
func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " | ")
}

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinVersion is the least major version of PostgreSQL that is used.
const MinVersion = 15

// Binaries is an installation of PostgreSQL's server programs.
type Binaries struct {
	// Dir holds initdb and postgres.
	Dir string
	// Version is the major version.
	Version int
}

func (b Binaries) program(name string) string { return filepath.Join(b.Dir, name) }

// ErrNotInstalled is wrapped by the errors of Find that say what to install.
var ErrNotInstalled = errors.New("no PostgreSQL server programs found")

// Find returns the newest installation on this machine. It looks in PATH, at
// pg_config, and where Debian, Red Hat, SUSE, Alpine, Homebrew, MacPorts and
// Postgres.app put the programs. The error is one line that says what to
// install.
func Find() (Binaries, error) {
	found := installed()
	if len(found) > 0 && found[0].Version >= MinVersion {
		return found[0], nil
	}
	if len(found) > 0 {
		return Binaries{}, fmt.Errorf("%w: PostgreSQL %d in %s is too old, at least %d is needed; %s", ErrNotInstalled, found[0].Version, found[0].Dir, MinVersion, remedy())
	}
	return Binaries{}, fmt.Errorf("%w; %s", ErrNotInstalled, remedy())
}

// findVersion returns an installation of exactly one major version: a
// cluster's files belong to the version that made them.
func findVersion(major int) (Binaries, error) {
	for _, b := range installed() {
		if b.Version == major {
			return b, nil
		}
	}
	return Binaries{}, fmt.Errorf("%w: the cluster was made by PostgreSQL %d, which is not installed; install it, or move the data with pg_upgrade", ErrNotInstalled, major)
}

func remedy() string {
	if runtime.GOOS == "darwin" {
		return "install it: brew install postgresql@17"
	}
	return "install it: apt-get install postgresql (Debian, Ubuntu), dnf install postgresql-server (Fedora), apk add postgresql (Alpine); or name a database_url"
}

// installed lists installations, newest first; of one version the first found.
func installed() []Binaries {
	var dirs []string
	for _, program := range []string{"postgres", "initdb"} {
		if p, err := exec.LookPath(program); err == nil {
			if p, err = filepath.EvalSymlinks(p); err == nil {
				dirs = append(dirs, filepath.Dir(p))
			}
		}
	}
	if p, err := exec.LookPath("pg_config"); err == nil {
		if out, err := output(p, "--bindir"); err == nil {
			dirs = append(dirs, strings.TrimSpace(out))
		}
	}
	patterns := []string{
		"/usr/lib/postgresql/*/bin", "/usr/lib/postgresql*/bin", "/usr/libexec/postgresql*", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/opt/local/lib/postgresql*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
	}
	if prefix := os.Getenv("HOMEBREW_PREFIX"); prefix != "" {
		patterns = append(patterns, filepath.Join(prefix, "opt/postgresql*/bin"))
	}
	for _, p := range patterns {
		m, _ := filepath.Glob(p) // only a malformed pattern fails
		dirs = append(dirs, m...)
	}
	var found []Binaries
	seen := map[string]bool{}
	for _, d := range dirs {
		if seen[d] {
			continue
		}
		seen[d] = true
		if b, ok := inspect(d); ok {
			found = append(found, b)
		}
	}
	slices.SortStableFunc(found, func(a, b Binaries) int { return b.Version - a.Version })
	return found
}

func inspect(dir string) (Binaries, bool) {
	b := Binaries{Dir: dir}
	if _, err := os.Stat(b.program("initdb")); err != nil {
		return b, false
	}
	out, err := output(b.program("postgres"), "--version")
	if err != nil {
		return b, false
	}
	b.Version, err = majorVersion(out)
	return b, err == nil
}

// majorVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0)".
func majorVersion(s string) (int, error) {
	_, after, ok := strings.Cut(s, "(PostgreSQL) ")
	end := strings.IndexFunc(after, func(r rune) bool { return r < '0' || r > '9' })
	if !ok || end == 0 {
		return 0, fmt.Errorf("no version in %q", s)
	}
	if end > 0 {
		after = after[:end]
	}
	return strconv.Atoi(after)
}

func output(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	return string(out), err
}

// Package pgtest gives each test a fresh PostgreSQL database, in parallel.
// One private cluster serves a test binary; databases are copies of a
// template that is built once. With DATABASE_URL set (a superuser's), that
// server is used instead.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	var template = pgtest.NewTemplate(func(ctx context.Context, url string) error { ... })
//
//	func TestX(t *testing.T) {
//		t.Parallel()
//		db := pgtest.New(t, template)
//	}
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/sdk/pglocal"
)

// timeout bounds each administrative step of a test.
const timeout = 2 * time.Minute

// server is where the databases of this test binary are.
type server struct {
	cluster *pglocal.Cluster
	dir     string
	admin   *url.URL
	mu      sync.Mutex
	// templates are dropped at the end: the server may outlive the binary.
	templates []string
}

var shared = sync.OnceValues(start)

var started bool

func start() (*server, error) {
	started = true
	if env := os.Getenv("DATABASE_URL"); env != "" {
		u, err := url.Parse(env)
		if err != nil {
			return nil, errors.New("DATABASE_URL is no URL")
		}
		return &server{admin: u}, nil
	}
	sweep()
	dir, err := os.MkdirTemp(Scratch(), fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := pglocal.Start(ctx, pglocal.Options{Dir: dir, MaxConnections: 300})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	u, err := url.Parse(c.URL("postgres"))
	return &server{cluster: c, dir: dir, admin: u}, err
}

const prefix = "entrepot-pgtest-"

const (
	memory = "/dev/shm"
	// roomy is what a file system in memory must have free: containers often
	// give it 64 MiB only.
	roomy = 4 << 30
)

// Scratch is the folder to make the folders of short-lived clusters in, and of
// what else a test runs: a file system in memory where the machine has a large
// one, since a copy of a database is a thousand small files. Otherwise it is
// the temporary folder.
func Scratch() string {
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &fs) == nil && fs.Bavail*uint64(fs.Bsize) > roomy && executable() {
		return memory
	}
	return os.TempDir()
}

// executable tells whether programs may be run from memory: containers often
// mount it so that they may not.
func executable() bool {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == memory {
			return !slices.Contains(strings.Split(f[3], ","), "noexec")
		}
	}
	return false
}

// sweep removes what test binaries left that were killed; their PostgreSQL
// was ended by pglocal's watchdog.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(Scratch(), prefix+"*"))
	for _, d := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(d), prefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(d)
		}
	}
}

// Main runs the tests and stops the cluster. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop ends the cluster of this test binary, if one was started. Main calls
// it; a TestMain with work of its own may call it instead.
func Stop() {
	if !started {
		return
	}
	s, err := shared()
	if err != nil {
		return
	}
	for _, t := range s.templates {
		_ = s.exec("DROP DATABASE IF EXISTS " + quote(t) + " WITH (FORCE)")
	}
	if s.cluster != nil {
		_ = s.cluster.Stop(context.Background())
		_ = os.RemoveAll(s.dir)
	}
}

// Template is a database that fresh ones are copied from. It is safe for
// concurrent use.
type Template struct {
	base  *Template
	build func(ctx context.Context, url string) error
	once  sync.Once
	name  string
	err   error
}

// NewTemplate describes a template by the function that fills it, given a
// superuser's URL. It is run once, when the first test asks for a copy.
// Connections that it opens must be closed when it returns.
func NewTemplate(build func(ctx context.Context, url string) error) *Template {
	return NewTemplateFrom(nil, build)
}

// NewTemplateFrom describes a template that begins as a copy of another; nil
// is an empty database.
func NewTemplateFrom(base *Template, build func(ctx context.Context, url string) error) *Template {
	return &Template{base: base, build: build}
}

func (t *Template) ready(s *server) (string, error) {
	if t == nil {
		return "template0", nil
	}
	t.once.Do(func() {
		var from string
		if from, t.err = t.base.ready(s); t.err != nil {
			return
		}
		t.name = "template_" + suffix()
		if t.err = s.create(t.name, from); t.err != nil {
			return
		}
		s.mu.Lock()
		s.templates = append(s.templates, t.name)
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		t.err = t.build(ctx, s.url(t.name, nil))
	})
	return t.name, t.err
}

// DB is one test's database. It is dropped when the test ends.
type DB struct {
	// Name of the database.
	Name string
	// URL for the superuser.
	URL string

	server *server
}

// New makes a database from a template; nil gives an empty one.
func New(t testing.TB, template *Template) *DB {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	from, err := template.ready(s)
	if err != nil {
		t.Fatalf("pgtest: template: %v", err)
	}
	db := &DB{Name: "test_" + suffix(), server: s}
	db.URL = s.url(db.Name, nil)
	if err := s.create(db.Name, from); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := s.exec("DROP DATABASE IF EXISTS " + quote(db.Name) + " WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return db
}

// URLFor is the database's URL for another role.
func (db *DB) URLFor(role, password string) string {
	return db.server.url(db.Name, url.UserPassword(role, password))
}

// Role makes a LOGIN role without rights that no other test has, and returns
// its name, which begins with the one given, and its URL. Roles belong to the
// whole cluster, so tests that share it cannot share their names.
func (db *DB) Role(t testing.TB, name string) (role, url string) {
	t.Helper()
	role, password := name+"_"+suffix(), rand.Text()
	if err := db.server.exec("CREATE ROLE " + quote(role) + " LOGIN PASSWORD '" + password + "'"); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() { db.dropRole(t, role) })
	return role, db.URLFor(role, password)
}

// dropRole removes a role with what it owns and was granted in the database.
func (db *DB) dropRole(t testing.TB, role string) {
	if err := exec(db.URL, "DROP OWNED BY "+quote(role)+" CASCADE", "DROP ROLE "+quote(role)); err != nil {
		t.Errorf("pgtest: %v", err)
	}
}

func (s *server) url(database string, user *url.Userinfo) string {
	u := *s.admin
	u.Path = "/" + database
	if user != nil {
		u.User = user
	}
	return u.String()
}

// create copies files: through the log, as the server would by itself, every
// page of a template is written twice.
func (s *server) create(name, from string) error {
	return s.exec("CREATE DATABASE " + quote(name) + " TEMPLATE " + from + " STRATEGY FILE_COPY")
}

func (s *server) exec(statement string) error { return exec(s.admin.String(), statement) }

// exec runs statements one by one, outside of a transaction.
func exec(url string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", strings.SplitN(sql, " PASSWORD", 2)[0], err)
		}
	}
	return nil
}

func suffix() string { return strings.ToLower(rand.Text()[:12]) }

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

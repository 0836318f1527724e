// Package pglocal runs a private PostgreSQL cluster from the programs that
// are installed on the machine: made on first start, reachable through a unix
// socket only, stopped on exit, recovered after a crash.
//
// A folder belongs to one cluster and to one process at a time (a file lock).
// Should that process be killed, a watchdog shuts PostgreSQL down; should it
// be killed too, the next Start ends what is left and recovers.
package pglocal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Superuser is the cluster's first role.
const Superuser = "entrepot"

const (
	// startTimeout is long: crash recovery reads a whole checkpoint's log.
	startTimeout = 5 * time.Minute
	// fastStop bounds a shutdown that rolls back what is open; after it the
	// server is told to stop at once and recovers at the next start.
	fastStop      = 20 * time.Second
	immediateStop = 5 * time.Second
	// socketLimit is what sockaddr_un holds on macOS, the least of all.
	socketLimit = 103
	socketName  = ".s.PGSQL.5432"
)

// Options describe a cluster.
type Options struct {
	// Dir is the cluster's folder, made when missing. It is given to the
	// account PostgreSQL runs as; keep nothing else in it.
	Dir string
	// Durable makes a commit survive a crash of the machine. Only tests do
	// without.
	Durable bool
	// MaxConnections bounds connections of all roles; 0 means 120.
	MaxConnections int
	// Settings are further settings of postgresql.conf, by name.
	Settings map[string]string
}

// Cluster is a running cluster. It is safe for concurrent use.
type Cluster struct {
	// Version is PostgreSQL's major version.
	Version int

	socketDir string
	password  string
	process   *os.Process
	lock      *os.File
	watchdog  func()
	exited    chan struct{}
	stop      sync.Once
	stopErr   error
}

// Start starts the cluster in a folder, making it first if need be, and
// returns when it accepts connections. The cluster outlives ctx: end it with
// Stop.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	o, err := currentOwner()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	if err := o.makeDir(dir); err != nil {
		return nil, fmt.Errorf("database folder: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	if err := o.reachable(dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{lock: lock, exited: make(chan struct{}), watchdog: func() {}}
	if err := c.start(ctx, o, dir, opts); err != nil {
		_ = c.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o owner, dir string, opts Options) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	data := filepath.Join(dir, "data")
	if err := clearLeftover(ctx, data); err != nil {
		return err
	}
	bin, err := initialise(ctx, o, dir, opts.Durable)
	if err != nil {
		return err
	}
	c.Version = bin.Version
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		return err
	}
	c.password = strings.TrimSpace(string(password))
	if c.socketDir, err = socketDir(o, dir); err != nil {
		return err
	}
	startLog, err := os.OpenFile(filepath.Join(dir, "start.log"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = startLog.Close() }()

	// The server ends with Stop, not with the context that started it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin.program("postgres"), append([]string{"-D", data}, settings(c.socketDir, opts)...)...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = data, environment(), o.attributes()
	cmd.Stdout, cmd.Stderr = startLog, startLog
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	c.process = cmd.Process
	go func() {
		_ = cmd.Wait() // how it ended stands in the log
		close(c.exited)
	}()
	if c.watchdog, err = watch(ctx, o, cmd.Process.Pid); err != nil {
		return err
	}
	if err := c.waitReady(ctx, data); err != nil {
		out, _ := os.ReadFile(startLog.Name())
		return fmt.Errorf("PostgreSQL %d in %s: %w: %s (more in %s)", bin.Version, dir, err, lastLines(out, 3), filepath.Join(data, "log"))
	}
	return nil
}

// waitReady waits until postmaster.pid says ready, as pg_ctl does.
func (c *Cluster) waitReady(ctx context.Context, data string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if pm, ok := readPostmaster(data); ok && pm.ready && pm.pid == c.process.Pid {
			return nil
		}
		select {
		case <-c.exited:
			return errors.New("ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// watch starts a small shell that waits for the end of this process (the end
// of its input) and then shuts the server down.
func watch(ctx context.Context, o owner, pid int) (stop func(), err error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", `read -r _; kill -INT "$1"`, "entrepot-postgres-watchdog", fmt.Sprint(pid))
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", environment(), o.attributes()
	in, err := cmd.StdinPipe()
	if err != nil {
		return func() {}, err
	}
	if err := cmd.Start(); err != nil {
		return func() {}, fmt.Errorf("watchdog: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	}, nil
}

// Stop shuts the cluster down: open transactions are rolled back and clients
// cut off. When that takes longer than 20 seconds, or ctx ends, it stops at
// once, and recovers at the next start. Stop may be called again.
func (c *Cluster) Stop(ctx context.Context) error {
	c.stop.Do(func() {
		defer unlockDir(c.lock)
		defer c.watchdog()
		if c.process == nil {
			return
		}
		fast, cancel := context.WithTimeout(ctx, fastStop)
		defer cancel()
		if c.signal(fast, syscall.SIGINT) {
			return
		}
		immediate, cancel := context.WithTimeout(context.WithoutCancel(ctx), immediateStop)
		defer cancel()
		if c.signal(immediate, syscall.SIGQUIT) {
			return
		}
		_ = c.process.Kill()
		<-c.exited
		c.stopErr = errors.New("PostgreSQL did not stop and was killed; it recovers at the next start")
	})
	return c.stopErr
}

func (c *Cluster) signal(ctx context.Context, s syscall.Signal) bool {
	_ = c.process.Signal(s) // fails only when it has ended
	select {
	case <-c.exited:
		return true
	case <-ctx.Done():
		return false
	}
}

// Exited is closed when the server has ended, also when it was not asked to.
func (c *Cluster) Exited() <-chan struct{} { return c.exited }

// URL is the connection URL of a database for the superuser. It is a secret.
func (c *Cluster) URL(database string) string {
	return c.URLFor(Superuser, c.password, database)
}

// URLFor is the connection URL of a database for a role. It is a secret.
func (c *Cluster) URLFor(role, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Path: "/" + database,
		RawQuery: url.Values{"host": {c.socketDir}, "sslmode": {"disable"}}.Encode()}
	return u.String()
}

func settings(socketDir string, opts Options) []string {
	s := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": socketDir,
		"unix_socket_permissions": "0700",
		"password_encryption":     "scram-sha-256",
		"shared_buffers":          "128MB",
		"max_connections":         "120",
		"TimeZone":                "UTC",
		"log_timezone":            "UTC",
		"jit":                     "off", // compiling costs more than our short statements take
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
		// A week of logs, one file a day, each overwritten a week later.
		"logging_collector":        "on",
		"log_directory":            "log",
		"log_filename":             "postgresql-%a.log",
		"log_truncate_on_rotation": "on",
		"log_rotation_age":         "1d",
		"log_rotation_size":        "0",
		"log_line_prefix":          "%m [%p] %q%u@%d %a ",
	}
	if opts.MaxConnections > 0 {
		s["max_connections"] = fmt.Sprint(opts.MaxConnections)
	}
	if !opts.Durable {
		s["fsync"], s["full_page_writes"], s["synchronous_commit"] = "off", "off", "off"
	}
	for k, v := range opts.Settings {
		s[k] = v
	}
	args := make([]string, 0, 2*len(s))
	for k, v := range s {
		args = append(args, "-c", k+"="+v)
	}
	return args
}

// socketDir is the folder of the unix socket: beside the data where the path
// is short enough for a socket's address, else under the system's folder for
// temporary files.
func socketDir(o owner, dir string) (string, error) {
	d := filepath.Join(dir, "socket")
	if len(d)+1+len(socketName) > socketLimit || strings.ContainsAny(d, `,"`) {
		sum := sha256.Sum256([]byte(dir))
		d = filepath.Join(os.TempDir(), "entrepot-"+hex.EncodeToString(sum[:6]))
		if err := os.Mkdir(d, 0o700); err != nil {
			if err := private(o, d); err != nil {
				return "", err
			}
		}
	}
	if len(d)+1+len(socketName) > socketLimit {
		return "", fmt.Errorf("the path of the database's socket, %s/%s, is longer than %d bytes: set TMPDIR to a shorter folder", d, socketName, socketLimit)
	}
	return d, o.makeDir(d)
}

// private refuses a folder under a shared one that somebody else made first.
func private(o owner, d string) error {
	info, err := os.Lstat(d)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != o.uid && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to somebody else: remove it", d)
	}
	return nil
}

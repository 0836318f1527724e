package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/entrepot/entrepot/sdk/handshake"
)

// maxHandshake bounds the first line that a plugin prints.
const maxHandshake = 8 << 10

// livenessFD is the first of exec.Cmd's extra files.
const livenessFD = 3

// passed are the only variables of the kernel's environment that a plugin
// sees: the rest may hold secrets.
var passed = []string{"PATH", "TZ", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GOMEMLIMIT", "GOMAXPROCS"}

// lastWords is how long a process that has ended may still be read from: what
// it wrote is in the pipes already, unless somebody else holds them.
const lastWords = 500 * time.Millisecond

// child is one plugin process: a process group of its own, a pipe that closes
// with the kernel, and both outputs in the kernel's hands. go-plugin gets the
// first line of standard output and nothing else.
type child struct {
	cmd      *exec.Cmd
	dir      string
	listener net.Listener
	pump     *pump
	first    *io.PipeReader
	firstW   *io.PipeWriter
	outR     *os.File
	errR     *os.File
	theirs   []*os.File  // the plugin's ends
	ours     []io.Closer // the kernel's
	pumps    sync.WaitGroup

	// starting ends the process when it is done before settled was called.
	starting context.Context
	settled  func() bool
	// exited is closed when the process has ended, its group with it, and
	// waitErr says how.
	exited  chan struct{}
	waitErr error
}

// newChild makes go-plugin's runner for a binary. dir is the private folder
// that go-plugin made for sockets; the kernel's own socket for this process
// stands in it too.
func newChild(starting context.Context, path, level string, p *pump, spec *exec.Cmd, dir string) (_ *child, err error) {
	c := &child{starting: starting, dir: dir, pump: p, exited: make(chan struct{}), settled: func() bool { return true }}
	defer func() {
		if err != nil {
			c.closeTheirs()
			c.closeOurs()
		}
	}()
	socket := filepath.Join(dir, "k")
	if c.listener, err = net.Listen("unix", socket); err != nil {
		return nil, err
	}
	c.ours = append(c.ours, c.listener)
	liveR, liveW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.theirs, c.ours = append(c.theirs, liveR), append(c.ours, liveW)
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.theirs, c.ours, c.outR = append(c.theirs, outW), append(c.ours, outR), outR
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.theirs, c.ours, c.errR = append(c.theirs, errW), append(c.ours, errR), errR
	c.first, c.firstW = io.Pipe()

	c.cmd = exec.Command(path)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = outW, errW, []*os.File{liveR}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Env = slices.Clone(spec.Env)
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+v)
		}
	}
	// A deployment is many processes on the same cores: each that spins for work
	// on all of them takes the others' time. What the operator says counts.
	if _, ok := os.LookupEnv("GOMAXPROCS"); !ok {
		c.cmd.Env = append(c.cmd.Env, "GOMAXPROCS="+strconv.Itoa(max(1, runtime.NumCPU()/2)))
	}
	c.cmd.Env = append(c.cmd.Env,
		handshake.EnvHostSocket+"="+socket,
		handshake.EnvLivenessFD+"="+strconv.Itoa(livenessFD),
		handshake.EnvLogLevel+"="+level,
	)
	return c, nil
}

func (c *child) closeTheirs() {
	for _, f := range c.theirs {
		_ = f.Close()
	}
}

func (c *child) closeOurs() {
	for _, x := range c.ours {
		_ = x.Close()
	}
}

// Start implements runner.Runner.
func (c *child) Start(context.Context) error {
	err := c.cmd.Start()
	// The plugin has its own ends now.
	c.closeTheirs()
	if err != nil {
		_ = c.firstW.CloseWithError(err)
		c.closeOurs()
		close(c.exited)
		return err
	}
	// go-plugin's start knows no context: ending the process ends its waiting.
	c.settled = context.AfterFunc(c.starting, func() { _ = c.Kill(context.Background()) })
	c.pumps.Go(c.stdout)
	c.pumps.Go(func() { c.pump.run(c.errR) })
	go c.reap()
	return nil
}

// stdout hands the first line to go-plugin and whatever follows to the log:
// nobody who writes there is ever blocked.
func (c *child) stdout() {
	r := bufio.NewReaderSize(c.outR, maxHandshake)
	line, err := r.ReadSlice('\n')
	_, _ = c.firstW.Write(line)
	if errors.Is(err, bufio.ErrBufferFull) {
		_ = c.firstW.CloseWithError(errors.New("the first line is too long for a handshake"))
	}
	_ = c.firstW.Close()
	c.pump.run(r)
}

// reap waits for the process, then ends what it left behind in its group: a
// grandchild would keep sockets and outputs open.
func (c *child) reap() {
	c.waitErr = c.cmd.Wait()
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	until := time.Now().Add(lastWords)
	_, _ = c.outR.SetReadDeadline(until), c.errR.SetReadDeadline(until)
	c.pumps.Wait()
	c.closeOurs()
	close(c.exited)
}

// Wait implements runner.Runner.
func (c *child) Wait(context.Context) error {
	<-c.exited
	return c.waitErr
}

// Kill implements runner.Runner: the whole group, at once.
func (c *child) Kill(context.Context) error {
	select {
	case <-c.exited:
		// The number may be another process's by now.
		return nil
	default:
	}
	if c.cmd.Process == nil {
		return nil
	}
	err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Stdout implements runner.Runner.
func (c *child) Stdout() io.ReadCloser { return c.first }

// Stderr implements runner.Runner. go-plugin panics on log lines of the wrong
// JSON types, so it sees none: the pump has them.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Diagnose implements runner.Runner. What the plugin wrote is added when it has
// ended, complete.
func (c *child) Diagnose(context.Context) string { return "" }

// Name implements runner.Runner.
func (c *child) Name() string { return c.cmd.Path }

// ID implements runner.Runner.
func (c *child) ID() string {
	if c.cmd.Process == nil {
		return ""
	}
	return strconv.Itoa(c.cmd.Process.Pid)
}

// PluginToHost implements runner.Runner. The address is the plugin's word: the
// kernel goes nowhere but into the folder it made.
func (c *child) PluginToHost(network, addr string) (string, string, error) {
	if in, err := filepath.Rel(c.dir, addr); network != "unix" || err != nil || !filepath.IsLocal(in) {
		return "", "", fmt.Errorf("it listens on %s %q; it must listen on a unix socket in PLUGIN_UNIX_SOCKET_DIR", network, addr)
	}
	return network, addr, nil
}

// HostToPlugin implements runner.Runner.
func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }

var _ runner.Runner = (*child)(nil)

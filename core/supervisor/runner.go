package supervisor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/entrepot/entrepot/sdk/handshake"
)

// maxHandshake bounds the first line that a plugin prints.
const maxHandshake = 8 << 10

// livenessFD is the first of exec.Cmd's extra files.
const livenessFD = 3

// passed are the only variables of the kernel's environment that a plugin
// sees: the rest may hold secrets.
var passed = []string{"PATH", "TZ", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// child is one plugin process: a process group of its own, a pipe that closes
// with the kernel, and both outputs in the kernel's hands. go-plugin gets the
// first line of standard output and nothing else.
type child struct {
	cmd      *exec.Cmd
	live     *os.File
	outR     *os.File
	errR     *os.File
	closers  []io.Closer
	first    *io.PipeReader
	firstW   *io.PipeWriter
	listener net.Listener
	pump     *pump
	exited   chan struct{}
	waitErr  error
}

// newChild makes go-plugin's runner for a binary. dir is the private folder
// that go-plugin made for sockets; the kernel's own socket for this process
// stands in it too.
func newChild(path, level string, p *pump, spec *exec.Cmd, dir string) (_ *child, err error) {
	c := &child{pump: p, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			c.closeAll()
		}
	}()
	socket := filepath.Join(dir, "k")
	if c.listener, err = net.Listen("unix", socket); err != nil {
		return nil, err
	}
	c.closers = append(c.closers, c.listener)
	liveR, liveW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.live = liveW
	c.closers = append(c.closers, liveR, liveW)
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.outR, c.errR = outR, errR
	c.first, c.firstW = io.Pipe()

	c.cmd = exec.Command(path)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = outW, errW, []*os.File{liveR}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Env = append([]string(nil), spec.Env...)
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+v)
		}
	}
	c.cmd.Env = append(c.cmd.Env,
		handshake.EnvHostSocket+"="+socket,
		handshake.EnvLivenessFD+"="+strconv.Itoa(livenessFD),
		handshake.EnvLogLevel+"="+level,
	)
	return c, nil
}

func (c *child) closeAll() {
	for _, x := range c.closers {
		_ = x.Close()
	}
}

// Start implements runner.Runner.
func (c *child) Start(context.Context) error {
	err := c.cmd.Start()
	// The plugin has its own ends now.
	_ = c.cmd.Stdout.(*os.File).Close()
	_ = c.cmd.Stderr.(*os.File).Close()
	_ = c.cmd.ExtraFiles[0].Close()
	if err != nil {
		_ = c.firstW.CloseWithError(err)
		_ = c.outR.Close()
		_ = c.errR.Close()
		return err
	}
	go c.stdout()
	go func() {
		c.pump.run(c.errR)
		_ = c.errR.Close()
	}()
	go c.reap()
	return nil
}

// stdout hands the first line to go-plugin and whatever follows to the log:
// nobody who writes there is ever blocked.
func (c *child) stdout() {
	defer func() { _ = c.outR.Close() }()
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
	c.closeAll()
	close(c.exited)
}

// Wait implements runner.Runner.
func (c *child) Wait(context.Context) error {
	<-c.exited
	return c.waitErr
}

// Kill implements runner.Runner: the whole group, at once.
func (c *child) Kill(context.Context) error {
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

// Diagnose implements runner.Runner.
func (c *child) Diagnose(context.Context) string { return c.pump.tail() }

// Name implements runner.Runner.
func (c *child) Name() string { return c.cmd.Path }

// ID implements runner.Runner.
func (c *child) ID() string {
	if c.cmd.Process == nil {
		return ""
	}
	return strconv.Itoa(c.cmd.Process.Pid)
}

// PluginToHost implements runner.Runner: one machine, one name.
func (c *child) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }

// HostToPlugin implements runner.Runner.
func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }

var _ runner.Runner = (*child)(nil)

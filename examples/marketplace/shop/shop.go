// Package shop runs the example marketplace and trades in it: it starts the
// kernel as an operator would and then speaks the public API, as merchants and
// consumers do. The demo, its tests and the benchmark share it.
package shop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say which shop to open.
type Options struct {
	// Root is the repository; Build the folder of its binaries.
	Root, Build string
	// Dir is where the shop runs: data, logs, the lock file. Its content is
	// lost.
	Dir string
	// Listen is the public address; empty takes a free port on loopback.
	Listen string
	// Env is added to the kernel's environment.
	Env []string
}

// Shop is a running marketplace.
type Shop struct {
	Options
	// URL of the public API.
	URL string
	// Staff, once they are hired.
	Staff *Staff

	log    *os.File
	keys   keys
	kernel *exec.Cmd
	exited chan struct{}
}

// New prepares a folder for a shop and starts nothing.
func New(o Options) (*Shop, error) {
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, err
	}
	// The database's unprivileged user passes through here.
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.ReadFile(filepath.Join(o.Root, "examples", "marketplace", "deployment.hcl"))
	if err != nil {
		return nil, err
	}
	if o.Listen == "" {
		if o.Listen, err = freePort(); err != nil {
			return nil, err
		}
	}
	// The copy holds for its own folder, so that `entrepot status` and its like
	// need no more than the file.
	own := strings.NewReplacer(`".run/data"`, `"data"`, `"127.0.0.1:8080"`, strconv.Quote(o.Listen), `"../../.build"`, strconv.Quote(o.Build)).Replace(string(file))
	if err := os.WriteFile(filepath.Join(o.Dir, "deployment.hcl"), []byte(own), 0o600); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "scans"), 0o755); err != nil {
		return nil, err
	}
	k, err := newKeys()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(o.Dir, "kernel.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Shop{Options: o, URL: "http://" + o.Listen, log: log, keys: k}
	return s, s.Publish(nil)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// Start starts the kernel and returns when every plugin is ready. It may be
// called again after the kernel ended.
func (s *Shop) Start(ctx context.Context) error {
	cmd := exec.Command(filepath.Join(s.Build, "entrepot"), "serve", "--accept", filepath.Join(s.Dir, "deployment.hcl"))
	cmd.Env = slices.Concat(os.Environ(), s.Environ(), s.Env)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// An interrupt of the terminal is for the demo, which then stops the kernel.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.kernel, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return s.ready(ctx)
}

// ready polls /readyz: the kernel is another process, there is no other
// signal.
func (s *Shop) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := "no answer"
	for {
		select {
		case <-s.exited:
			return fmt.Errorf("the kernel ended: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("the shop is not ready: %s", last)
		case <-time.After(20 * time.Millisecond):
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
		last = string(body)
	}
}

// tail is what the kernel logged last.
func (s *Shop) tail() string {
	f, err := os.Open(s.log.Name())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	var last []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if last = append(last, sc.Text()); len(last) > 10 {
			last = last[1:]
		}
	}
	return strings.Join(last, "\n")
}

// PID of the kernel.
func (s *Shop) PID() int { return s.kernel.Process.Pid }

// Exited is closed when the kernel process has ended.
func (s *Shop) Exited() <-chan struct{} { return s.exited }

// Stop ends the kernel as an operator would, and waits.
func (s *Shop) Stop() error {
	if s.kernel == nil {
		return nil
	}
	if err := s.kernel.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(2 * time.Minute):
		_ = s.kernel.Process.Kill()
		<-s.exited
		return errors.New("the kernel did not stop and was killed")
	}
}

// OperatorToken is the local operator's, as the kernel wrote it.
func (s *Shop) OperatorToken() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.Dir, "data", "operator.token"))
	return strings.TrimSpace(string(b)), err
}

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrInUse is wrapped by Start when another live process runs the cluster.
var ErrInUse = errors.New("in use by another process")

// lockDir takes the folder for this process. The lock ends with the process,
// however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(f.Name())
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("the database in %s is %w (pid %s)", dir, ErrInUse, strings.TrimSpace(string(pid)))
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	err = errors.Join(f.Truncate(0), func() error { _, err := fmt.Fprintln(f, os.Getpid()); return err }())
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// unlockDir frees the folder. Closing alone would not while a program that is
// being started holds the descriptor it inherited.
func unlockDir(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	_ = f.Close()
}

// postmaster is what a running PostgreSQL writes to postmaster.pid.
type postmaster struct {
	pid   int
	ready bool
}

func readPostmaster(data string) (postmaster, bool) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return postmaster{}, false
	}
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return postmaster{}, false
	}
	return postmaster{pid: pid, ready: len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready"}, true
}

// clearLeftover ends a PostgreSQL that an earlier, killed process left on
// these files. It is stopped rather than adopted: one way to start is easier
// to trust than two, and this one's settings and logs may be of an older
// release. The caller holds the folder's lock, so nobody alive uses it.
func clearLeftover(ctx context.Context, data string) error {
	pm, ok := readPostmaster(data)
	if !ok {
		return nil
	}
	if !alive(pm.pid) || !serves(ctx, pm.pid, data) {
		// A dead one's file, or the number went to a stranger since: then
		// PostgreSQL itself would refuse to start for ever.
		return removeIfExists(filepath.Join(data, "postmaster.pid"))
	}
	for _, s := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, 30 * time.Second}, {syscall.SIGQUIT, 10 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := syscall.Kill(pm.pid, s.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the PostgreSQL (pid %d) that an earlier run left behind: %w", pm.pid, err)
		}
		if gone, err := waitGone(ctx, pm.pid, s.wait); err != nil || gone {
			return err
		}
	}
	return fmt.Errorf("the PostgreSQL (pid %d) that an earlier run left behind does not end", pm.pid)
}

func waitGone(ctx context.Context, pid int, limit time.Duration) (bool, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for alive(pid) {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-deadline:
			return false, nil
		case <-tick.C:
		}
	}
	return true, nil
}

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// serves tells whether a process is a PostgreSQL on these files.
func serves(ctx context.Context, pid int, data string) bool {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		return strings.Contains(string(b), "\x00"+data+"\x00")
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), data)
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

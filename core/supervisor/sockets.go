package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// socketFolder begins the name of a kernel's folder of sockets, and of
	// nothing else: what is found under it is removed when its lock is free.
	socketFolder = "entrepot-run-"
	// longestRoot leaves room for the names below: a unix socket's path has at
	// most 104 bytes on some systems.
	longestRoot = 40
	lockFile    = "kernel.lock"
)

// sockets is the folder in which the processes of one kernel have their
// sockets: private, short, and locked while the kernel lives, so that the next
// one can tell what a killed kernel left.
type sockets struct {
	dir  string
	lock *os.File
}

func openSockets() (*sockets, error) {
	root := os.TempDir()
	if len(root) > longestRoot {
		root = "/tmp"
	}
	sweep(root)
	dir, err := os.MkdirTemp(root, socketFolder)
	if err != nil {
		return nil, fmt.Errorf("folder for sockets: %w", err)
	}
	s := &sockets{dir: dir}
	// Locked before it has its name: who looks for the name finds it locked.
	unnamed := filepath.Join(dir, "new")
	if s.lock, err = os.OpenFile(unnamed, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
		err = errors.Join(syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), os.Rename(unnamed, filepath.Join(dir, lockFile)))
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("folder for sockets: %w", err)
	}
	return s, nil
}

func (s *sockets) close() {
	_ = os.RemoveAll(s.dir)
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// sweep removes the folders of kernels that are gone.
func sweep(root string) {
	found, err := filepath.Glob(filepath.Join(root, socketFolder+"*"))
	if err != nil {
		return
	}
	for _, dir := range found {
		if gone(dir) {
			_ = os.RemoveAll(dir)
		}
	}
}

// gone tells whether a folder is this user's and nobody holds its lock.
func gone(dir string) bool {
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() {
		return false
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return false
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

package pglocal

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// owner is the account that PostgreSQL runs as. PostgreSQL refuses to run as
// root, so root hands it to an account that already exists: postgres, else
// nobody. Everybody else runs it as themselves.
type owner struct {
	name     string
	uid, gid int
	switched bool
}

func currentOwner() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			return owner{name: name, uid: uid, gid: gid, switched: true}, nil
		}
	}
	return owner{}, fmt.Errorf("PostgreSQL does not run as root, and this machine has neither an account postgres nor nobody: start as an ordinary user")
}

// attributes puts a program into a process group of its own, so that a
// terminal's interrupt reaches the kernel first, under the owner's account.
func (o owner) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if o.switched {
		a.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	return a
}

// makeDir makes a folder that only the owner enters. Folders on the way that
// root makes for another account can be walked through.
func (o owner) makeDir(path string) error {
	if o.switched {
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return o.take(path, 0o700)
}

// take gives a file to the owner.
func (o owner) take(path string, mode os.FileMode) error {
	if o.switched {
		if err := os.Chown(path, o.uid, o.gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// reachable tells whether the owner can walk to a folder, and if not, where
// the way ends.
func (o owner) reachable(dir string) error {
	if !o.switched {
		return nil
	}
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		need := os.FileMode(0o001)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case int(st.Uid) == o.uid:
				need = 0o100
			case int(st.Gid) == o.gid:
				need = 0o010
			}
		}
		if info.Mode().Perm()&need == 0 {
			return fmt.Errorf("started by root, PostgreSQL runs as %s, who may not enter %s: start as an ordinary user, put the data elsewhere, or chmod o+x %s", o.name, p, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

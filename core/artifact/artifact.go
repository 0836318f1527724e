// Package artifact keeps plugin binaries by the hash of their content, so that
// the file that runs is the file that was verified.
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxSize bounds a binary.
const maxSize = 1 << 30

// ErrMismatch is wrapped when a file's content is not what was expected.
var ErrMismatch = errors.New("the file's sha256 is not the expected one")

// Store is a folder of verified files, sha256/<hex>. Safe for concurrent use,
// also by several processes.
type Store struct{ dir string }

// Open makes the store's folder if there is none.
func Open(dir string) (*Store, error) {
	s := &Store{dir: filepath.Join(dir, "sha256")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return s, nil
}

// Hash is the hex sha256 of a file's content.
func Hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	return hash(f, io.Discard)
}

func hash(r io.Reader, w io.Writer) (string, error) {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), io.LimitReader(r, maxSize+1))
	if err != nil {
		return "", err
	}
	if n > maxSize {
		return "", fmt.Errorf("larger than %d bytes", int64(maxSize))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Put copies a file into the store and returns where its copy stands. want, if
// not empty, is the hash the content must have; it comes from the lock file,
// never from the file itself. What is hashed is what was copied; what the store
// has already, and is still what its name says, is not copied again. The copy
// is on the disk when Put returns.
func (s *Store) Put(path, want string) (stored, sum string, err error) {
	if stored, sum, ok := s.has(path); ok && (want == "" || sum == want) {
		return stored, sum, nil
	}
	tmp, sum, err := s.copy(path)
	defer func() { _ = os.Remove(tmp) }()
	if err == nil && want != "" && sum != want {
		err = fmt.Errorf("%w: have %s, want %s", ErrMismatch, sum, want)
	}
	if err != nil {
		return "", "", fmt.Errorf("artifact %s: %w", path, err)
	}
	stored = filepath.Join(s.dir, sum)
	if err := errors.Join(os.Rename(tmp, stored), syncDir(s.dir)); err != nil {
		return "", "", fmt.Errorf("artifact %s: %w", path, err)
	}
	return stored, sum, nil
}

// has finds the stored file of the same content.
func (s *Store) has(path string) (stored, sum string, ok bool) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return "", "", false
	}
	sum, err := Hash(path)
	if err != nil {
		return "", "", false
	}
	stored, err = s.Verify(sum)
	return stored, sum, err == nil
}

// copy makes a temporary copy, synced and ready to run.
func (s *Store) copy(path string) (tmp, sum string, err error) {
	src, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = src.Close() }()
	if st, err := src.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", "", errors.Join(err, errors.New("no regular file"))
	}
	// A process that is forked while the copy is open for writing holds it open
	// until its exec, and running a file that is open for writing fails with
	// "text file busy": no fork meanwhile.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dst, err := os.CreateTemp(s.dir, ".put-")
	if err != nil {
		return "", "", err
	}
	sum, err = hash(src, dst)
	return dst.Name(), sum, errors.Join(err, dst.Chmod(0o555), dst.Sync(), dst.Close())
}

// syncDir makes a rename in a folder last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Verify hashes a stored file again and returns its path, ready to run. Call
// it before each start.
func (s *Store) Verify(sum string) (string, error) {
	path := filepath.Join(s.dir, sum)
	have, err := Hash(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no artifact %s in the store: %w", sum, err)
	}
	if err != nil {
		return "", err
	}
	if have != sum {
		return "", fmt.Errorf("stored artifact %s: %w: it was changed on disk", sum, ErrMismatch)
	}
	return path, nil
}

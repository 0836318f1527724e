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
// never from the file itself. What is hashed is what was copied.
func (s *Store) Put(path, want string) (stored, sum string, err error) {
	src, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = src.Close() }()
	tmp, err := os.CreateTemp(s.dir, ".put-")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	sum, err = hash(src, tmp)
	if err == nil && want != "" && sum != want {
		err = fmt.Errorf("%s: %w: have %s, want %s", path, ErrMismatch, sum, want)
	}
	if err == nil {
		err = errors.Join(tmp.Chmod(0o555), tmp.Sync())
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return "", "", err
	}
	stored = filepath.Join(s.dir, sum)
	if err := os.Rename(tmp.Name(), stored); err != nil {
		return "", "", err
	}
	return stored, sum, nil
}

// Verify hashes a stored file again and returns its path, ready to run.
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

// Package blob keeps photos, labels, documents and exports: bytes that are
// what they claim to be, named by their content, each the property of the
// plugin that put it. A person, or another plugin, gets one by a signed link
// that ends soon.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	cloud "gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"

	"github.com/entrepot/entrepot/sdk/fault"
)

// MaxBytes is the most that one blob holds.
const MaxBytes = 8 << 20

// Reasons of refusals.
const (
	// ReasonUnknown: the caller owns no blob of that id.
	ReasonUnknown = "BLOB_UNKNOWN"
	// ReasonTypeDiffers: the same bytes are stored as another media type.
	ReasonTypeDiffers = "BLOB_TYPE_DIFFERS"
	// ReasonDamaged: what is stored is not what was put.
	ReasonDamaged = "BLOB_DAMAGED"
)

// Options configure a store. All but Log are required.
type Options struct {
	// Dir holds the blobs and nothing else. It is made when it is not there.
	Dir string
	// KeyFile holds the key that signs links, "<data>/keys/blob.key", mode
	// 0600. It is created on the first start. Without it the links that were
	// given out end, and nothing is lost.
	KeyFile string
	// CallerFrom tells which plugin makes a call of BlobService; false
	// refuses the call.
	CallerFrom func(context.Context) (plugin string, ok bool)
	// Log gets damage. Default slog.Default().
	Log *slog.Logger
}

// Store keeps blobs. It serves BlobService to plugins, and their links on the
// public port. Safe for concurrent use.
type Store struct {
	bucket     *cloud.Bucket
	dir        string
	signer     signer
	callerFrom func(context.Context) (string, bool)
	log        *slog.Logger
	now        func() time.Time
	locks      [64]sync.Mutex
	uploads    *uploads
}

// Open opens a store. What a process that was killed left half written is
// removed.
func Open(o Options) (*Store, error) {
	key, err := openKey(o.KeyFile)
	if err != nil {
		return nil, err
	}
	// Temporary files stand beside the final ones: a rename holds within one
	// file system only.
	bucket, err := fileblob.OpenBucket(o.Dir, &fileblob.Options{CreateDir: true, DirFileMode: 0o700, NoTempDir: true})
	if err != nil {
		return nil, fmt.Errorf("blobs: %w", err)
	}
	s := &Store{bucket: bucket, dir: o.Dir, signer: key, callerFrom: o.CallerFrom, log: o.Log, now: time.Now, uploads: newUploads()}
	if s.log == nil {
		s.log = slog.Default()
	}
	left, err := filepath.Glob(filepath.Join(o.Dir, "*", "*.tmp"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return nil, fmt.Errorf("blobs: %w", errors.Join(err, bucket.Close()))
	}
	return s, nil
}

// Close ends the store.
func (s *Store) Close() error { return s.bucket.Close() }

// name is the id of content.
func name(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256-" + hex.EncodeToString(sum[:])
}

// isName tells whether a text is an id, and so no path to anywhere.
func isName(id string) bool { return idPattern.MatchString(id) }

var idPattern = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)

// lock keeps writers of one blob apart.
func (s *Store) lock(id string) (unlock func()) {
	l := &s.locks[(int(id[len(id)-2])<<4+int(id[len(id)-1]))%len(s.locks)]
	l.Lock()
	return l.Unlock
}

// errDamaged is what is stored and is not what its name says.
var errDamaged = errors.New("blobs: what is stored is not what was put")

// put stores content that fits its media type and answers its id. When it
// returns, the blob survives the end of the process and of the machine.
func (s *Store) put(ctx context.Context, owner, mediaType string, content []byte) (string, error) {
	if err := check(mediaType, content); err != nil {
		return "", err
	}
	id := name(content)
	defer s.lock(id)()
	switch there, _, err := s.get(ctx, owner, id); {
	case err == nil && there != mediaType:
		return "", fault.New(connect.CodeAlreadyExists, ReasonTypeDiffers, "the same bytes are stored as "+there, "media_type", there)
	case err == nil:
		// Another writer may not have come to its sync.
		return id, s.sync(owner, id)
	}
	// It is not there, or not as it was put.
	if err := s.write(ctx, owner+"/"+id, mediaType, content); err != nil {
		return "", fmt.Errorf("blobs: write %s/%s: %w", owner, id, err)
	}
	return id, s.sync(owner, id)
}

// write writes a file beside the final one, syncs it and renames it.
func (s *Store) write(ctx context.Context, key, mediaType string, content []byte) error {
	// A writer whose context has ended throws away what it wrote.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File
	w, err := s.bucket.NewWriter(ctx, key, &cloud.WriterOptions{ContentType: mediaType, BeforeWrite: func(as func(any) bool) error {
		if !as(&file) {
			return errors.New("the bucket does not write to a file")
		}
		return nil
	}})
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		cancel()
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// sync makes a blob's name and media type as durable as its content is. The
// bucket writes the media type into a file of its own.
func (s *Store) sync(owner, id string) error {
	folder := filepath.Join(s.dir, owner)
	return syncAll(filepath.Join(folder, id+".attrs"), folder, s.dir)
}

func syncAll(paths ...string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
	}
	return nil
}

// open opens a blob of a known media type; gcerrors.NotFound when there is
// none.
func (s *Store) open(ctx context.Context, owner, id string) (*cloud.Reader, error) {
	if !isName(id) {
		return nil, unknown()
	}
	r, err := s.bucket.NewReader(ctx, owner+"/"+id, nil)
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return nil, unknown()
	case err != nil:
		return nil, fmt.Errorf("blobs: read %s/%s: %w", owner, id, err)
	case types[r.ContentType()] == nil || r.Size() > MaxBytes:
		return nil, errors.Join(errDamaged, r.Close())
	}
	return r, nil
}

// get reads a blob and proves that it is the one of that name.
func (s *Store) get(ctx context.Context, owner, id string) (mediaType string, content []byte, err error) {
	r, err := s.open(ctx, owner, id)
	if err != nil {
		return "", nil, err
	}
	content = make([]byte, r.Size())
	_, err = io.ReadFull(r, content)
	if err := errors.Join(err, r.Close()); err != nil {
		return "", nil, fmt.Errorf("blobs: read %s/%s: %w", owner, id, err)
	}
	if name(content) != id {
		return "", nil, fmt.Errorf("%w: %s/%s", errDamaged, owner, id)
	}
	return r.ContentType(), content, nil
}

// remove forgets a blob; one that is not there is forgotten already.
func (s *Store) remove(ctx context.Context, owner, id string) error {
	if !isName(id) {
		return unknown()
	}
	defer s.lock(id)()
	switch err := s.bucket.Delete(ctx, owner+"/"+id); {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return nil
	case err != nil:
		return fmt.Errorf("blobs: delete %s/%s: %w", owner, id, err)
	}
	return syncAll(filepath.Join(s.dir, owner))
}

func unknown() error {
	return fault.New(connect.CodeNotFound, ReasonUnknown, "this plugin has no such blob")
}

package blob

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func crc(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

type pluginKey struct{}

// as makes calls come from a plugin.
func as(ctx context.Context, plugin string) context.Context {
	return context.WithValue(ctx, pluginKey{}, plugin)
}

func options(dir string) Options {
	return Options{
		Dir: filepath.Join(dir, "blobs"), KeyFile: filepath.Join(dir, "keys", "blob.key"), Log: slog.New(slog.DiscardHandler),
		CallerFrom: func(ctx context.Context) (string, bool) {
			p, ok := ctx.Value(pluginKey{}).(string)
			return p, ok
		},
	}
}

func reopen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(options(dir))
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *Store, plugin, mediaType, content string) string {
	t.Helper()
	res, err := s.PutBlob(as(t.Context(), plugin), &kernelv1.PutBlobRequest{MediaType: mediaType, Content: []byte(content)})
	require.NoError(t, err)
	return res.GetBlobId()
}

func TestABlobIsNamedByItsContentAndOwnedByWhoPutIt(t *testing.T) {
	t.Parallel()
	s := reopen(t, t.TempDir())
	id := put(t, s, "order", "text/plain", "hello")
	require.Equal(t, "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", id)
	require.Equal(t, id, put(t, s, "order", "text/plain", "hello"), "the same bytes are stored once")

	got, err := s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
	require.NoError(t, err)
	require.Equal(t, "text/plain", got.GetMediaType())
	require.Equal(t, "hello", string(got.GetContent()))

	other := as(t.Context(), "catalog")
	_, err = s.GetBlob(other, &kernelv1.GetBlobRequest{BlobId: id})
	require.Equal(t, ReasonUnknown, fault.Reason(err))
	_, err = s.LinkBlob(other, &kernelv1.LinkBlobRequest{BlobId: id})
	require.Equal(t, ReasonUnknown, fault.Reason(err))
	_, err = s.DeleteBlob(other, &kernelv1.DeleteBlobRequest{BlobId: id})
	require.NoError(t, err, "it has none of that name, so it is forgotten already")
	_, err = s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
	require.NoError(t, err, "the owner's stays")
}

func TestTheSameBytesAreOfOneMediaType(t *testing.T) {
	t.Parallel()
	s := reopen(t, t.TempDir())
	id := put(t, s, "order", "text/plain", "[1]")
	_, err := s.PutBlob(as(t.Context(), "order"), &kernelv1.PutBlobRequest{MediaType: "application/json", Content: []byte("[1]")})
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
	require.Equal(t, ReasonTypeDiffers, fault.Reason(err))
	require.Equal(t, id, put(t, s, "catalog", "application/json", "[1]"), "another owner's are another blob")
}

func TestADeletedBlobIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := reopen(t, dir)
	id := put(t, s, "order", "text/plain", "hello")
	for range 2 {
		_, err := s.DeleteBlob(as(t.Context(), "order"), &kernelv1.DeleteBlobRequest{BlobId: id})
		require.NoError(t, err)
	}
	_, err := s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	left, err := os.ReadDir(filepath.Join(dir, "blobs", "order"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestNobodyButAPluginKeepsBlobs(t *testing.T) {
	t.Parallel()
	s := reopen(t, t.TempDir())
	_, err := s.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: []byte("x")})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	_, err = s.GrantUpload(t.Context(), &kernelv1.GrantUploadRequest{MediaTypes: []string{"text/plain"}})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
}

func TestAnIdIsNoPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := reopen(t, dir)
	id := put(t, s, "order", "text/plain", "hello")
	for _, hostile := range []string{
		"", "../keys/blob.key", "../order/" + id, "/" + id, id + "/", id + ".attrs", id + "\x00", strings.ToUpper(id), "..%2forder%2f" + id, id[:20], "sha256-" + strings.Repeat(".", 64),
	} {
		_, err := s.GetBlob(as(t.Context(), "catalog"), &kernelv1.GetBlobRequest{BlobId: hostile})
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), hostile)
		_, err = s.DeleteBlob(as(t.Context(), "order"), &kernelv1.DeleteBlobRequest{BlobId: hostile})
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), hostile)
	}
	_, err := os.Stat(filepath.Join(dir, "keys", "blob.key"))
	require.NoError(t, err)
}

func TestDamageIsToldAndMendedByPuttingAgain(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string) error{
		"other bytes":          func(p string) error { return os.WriteFile(p, []byte("hullo"), 0o600) },
		"fewer bytes":          func(p string) error { return os.Truncate(p, 0) },
		"more than there were": func(p string) error { return os.Truncate(p, MaxBytes+1) },
		"no media type":        func(p string) error { return os.Remove(p + ".attrs") },
		"half a media type":    func(p string) error { return os.Truncate(p+".attrs", 7) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := reopen(t, dir)
			id := put(t, s, "order", "text/plain", "hello")
			require.NoError(t, damage(filepath.Join(dir, "blobs", "order", id)))
			_, err := s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
			require.Error(t, err)
			require.NotEqual(t, connect.CodeNotFound, connect.CodeOf(err))
			require.Equal(t, id, put(t, s, "order", "text/plain", "hello"))
			got, err := s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
			require.NoError(t, err)
			require.Equal(t, "hello", string(got.GetContent()))
		})
	}
}

func TestAPutThatIsGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := reopen(t, dir)
	ctx, cancel := context.WithCancel(as(t.Context(), "order"))
	cancel()
	_, err := s.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: []byte("hello")})
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(filepath.Join(dir, "blobs", "order", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestManyMayPutTheSameBlobAtOnce(t *testing.T) {
	t.Parallel()
	s := reopen(t, t.TempDir())
	content := bytes.Repeat([]byte("x"), 1<<16)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := s.PutBlob(as(context.Background(), "order"), &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: content})
			if err == nil {
				_, err = s.GetBlob(as(context.Background(), "order"), &kernelv1.GetBlobRequest{BlobId: name(content)})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestTheKeyIsKeptAndGuarded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := reopen(t, dir)
	key := filepath.Join(dir, "keys", "blob.key")
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	path := s.signer.link(link{owner: "order", id: "x", until: time.Now().Add(time.Minute)})
	_, ok := reopen(t, dir).signer.openLink(strings.TrimPrefix(path, "/blobs/"), time.Now())
	require.True(t, ok, "links outlive a restart")

	require.NoError(t, os.Chmod(key, 0o644))
	_, err = Open(options(dir))
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.Chmod(key, 0o600))
	require.NoError(t, os.WriteFile(key, []byte("short"), 0o600))
	_, err = Open(options(dir))
	require.ErrorContains(t, err, "does not hold the key")
}

// TestWriterProcess is no test: TestAnAnsweredPutSurvivesAKill runs it as a
// process of its own, which puts without end and says what was answered.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv("BLOB_TEST_DIR")
	if dir == "" {
		t.Skip("run by another test")
	}
	s, err := Open(options(dir))
	require.NoError(t, err)
	for i := 0; ; i++ {
		id := put(t, s, "order", "text/plain", strings.Repeat(fmt.Sprintf("%d ", i), 5000))
		if _, err := fmt.Println(id); err != nil {
			return
		}
	}
}

func TestAnAnsweredPutSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
		cmd.Env = append(os.Environ(), "BLOB_TEST_DIR="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		var answered []string
		for lines.Scan() {
			if answered = append(answered, lines.Text()); len(answered) == 20 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait())
		require.GreaterOrEqual(t, len(answered), 20)
		s := reopen(t, dir)
		for _, id := range answered {
			_, err := s.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: id})
			require.NoError(t, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*.tmp"))
		require.NoError(t, err)
		require.Empty(t, left, "what was half written is swept")
		require.NoError(t, errors.Join(s.Close()))
	}
}

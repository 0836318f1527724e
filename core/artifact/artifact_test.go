package artifact

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheFileThatRunsIsTheFileThatWasVerified(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	require.NoError(t, err)
	src := filepath.Join(dir, "plugin")
	require.NoError(t, os.WriteFile(src, []byte("one"), 0o755))
	sum, err := Hash(src)
	require.NoError(t, err)

	stored, got, err := s.Put(src, sum)
	require.NoError(t, err)
	require.Equal(t, sum, got)

	// Another file under the old name changes nothing of what is stored.
	require.NoError(t, os.WriteFile(src, []byte("two"), 0o755))
	path, err := s.Verify(sum)
	require.NoError(t, err)
	require.Equal(t, stored, path)
	body, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "one", string(body))

	_, _, err = s.Put(src, sum)
	require.ErrorIs(t, err, ErrMismatch)

	require.NoError(t, os.Chmod(stored, 0o755))
	require.NoError(t, os.WriteFile(stored, []byte("evil"), 0o755))
	_, err = s.Verify(sum)
	require.ErrorIs(t, err, ErrMismatch)
}

func TestWhatIsStoredIsNotCopiedAgainUnlessItWasChanged(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	require.NoError(t, err)
	src := filepath.Join(dir, "plugin")
	require.NoError(t, os.WriteFile(src, []byte("one"), 0o755))
	stored, sum, err := s.Put(src, "")
	require.NoError(t, err)
	first, err := os.Stat(stored)
	require.NoError(t, err)

	_, again, err := s.Put(src, "")
	require.NoError(t, err)
	require.Equal(t, sum, again)
	now, err := os.Stat(stored)
	require.NoError(t, err)
	require.True(t, os.SameFile(first, now), "the same file stands there")

	require.NoError(t, os.Chmod(stored, 0o755))
	require.NoError(t, os.WriteFile(stored, []byte("evil"), 0o755))
	_, _, err = s.Put(src, sum)
	require.NoError(t, err)
	_, err = s.Verify(sum)
	require.NoError(t, err, "it was made anew")
}

func TestNothingUnverifiedStaysInTheStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	require.NoError(t, err)
	src := filepath.Join(dir, "plugin")
	require.NoError(t, os.WriteFile(src, []byte("one"), 0o755))
	_, _, err = s.Put(src, "00")
	require.ErrorIs(t, err, ErrMismatch)
	left, err := os.ReadDir(filepath.Join(dir, "sha256"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAStoredFileCanBeRunAtOnceWhileOthersAreForked(t *testing.T) {
	t.Parallel()
	script, err := exec.LookPath("true")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		s, err := Open(t.TempDir())
		require.NoError(t, err)
		wg.Go(func() {
			for range 50 {
				path, _, err := s.Put(script, "")
				if !assert.NoError(t, err) || !assert.NoError(t, exec.Command(path).Run()) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestOnlyRegularFilesAreStored(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir())
	require.NoError(t, err)
	_, _, err = s.Put(t.TempDir(), "")
	require.ErrorContains(t, err, "no regular file")
	_, _, err = s.Put(filepath.Join(t.TempDir(), "none"), "")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = s.Verify("../../etc/passwd")
	require.Error(t, err)
}

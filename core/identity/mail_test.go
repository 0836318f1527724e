package identity

import (
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFileDropWritesEachMailToOneFileOfItsOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	d := FileDrop{Dir: dir}
	at := time.Date(2026, 11, 22, 10, 0, 0, 5000, time.UTC)
	l := letter{id: "0193-7", kind: enrolConsumer, createdAt: at, to: "ada@example.com"}
	for range 2 {
		require.NoError(t, d.Send(t.Context(), l.write("tok-en_1")))
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "the same mail replaces itself")
	require.Equal(t, "20261122T100000.000005Z-0193-7.eml", files[0].Name())
	info, err := files[0].Info()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	f, err := os.Open(filepath.Join(dir, files[0].Name()))
	require.NoError(t, err)
	defer f.Close()
	m, err := mail.ReadMessage(f)
	require.NoError(t, err)
	to, err := m.Header.AddressList("To")
	require.NoError(t, err)
	require.Equal(t, "ada@example.com", to[0].Address)
	date, err := m.Header.Date()
	require.NoError(t, err)
	require.True(t, date.Equal(at.Truncate(time.Second)))
	body, err := io.ReadAll(m.Body)
	require.NoError(t, err)
	require.Equal(t, "tok-en_1", tokenIn(Mail{Body: string(body)}))
	require.Contains(t, string(body), "\r\ntoken: tok-en_1\r\n", "the token stands alone on its line")
}

func TestAnAddressCannotAddHeaders(t *testing.T) {
	t.Parallel()
	err := FileDrop{Dir: t.TempDir()}.Send(t.Context(), Mail{ID: "1", To: "a@example.com\r\nBcc: all@example.com"})
	require.ErrorContains(t, err, "one line")
}

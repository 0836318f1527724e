package kernel

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatAPluginKeepsIsReadByItsLinkAcrossAStop(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	k := h.start()
	paths, err := k.ask("back", "paper")
	require.NoError(t, err)
	link, grant, _ := strings.Cut(paths, " ")
	status, text := get(t, k.url+link)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "a paper", text)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, k.url+grant, strings.NewReader("a paper"))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "text/plain")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, string(answer), `{"blob_id":"sha256-`)

	require.NoError(t, k.end())
	k = h.start()
	status, text = get(t, k.url+link)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "a paper", text)
}

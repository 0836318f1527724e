package deployment

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAKernelIsReachedWithoutItsSecretsAndPlugins(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "deployment.hcl")
	for text, want := range map[string]Endpoint{
		shop: {"http://127.0.0.1:9090", filepath.Join(dir, "data")},
		"":   {"http://127.0.0.1:8080", filepath.Join(dir, ".run/data")},
		"kernel {\n listen = \":80\"\n data_dir = \"/var/shop\"\n}":   {"http://127.0.0.1:80", "/var/shop"},
		"kernel {\n listen = \"[::]:80\"\n}":                          {"http://127.0.0.1:80", filepath.Join(dir, ".run/data")},
		"kernel {\n listen = \"10.0.0.1:80\"\n x = env(\"UNSET\")\n}": {"http://10.0.0.1:80", filepath.Join(dir, ".run/data")},
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		got, err := ReadEndpoint(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.NoError(t, os.WriteFile(path, []byte("kernel {"), 0o600))
	_, err := ReadEndpoint(path)
	require.ErrorContains(t, err, "deployment.hcl:1:")
}

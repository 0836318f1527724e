// Package entrepot_test holds the house to its rules: which package may know
// which, and how large a file may grow.
package entrepot_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/entrepot/entrepot/"

// values are the packages of the SDK that the kernel may know: plain values,
// formats, the bus's SQL face and the private cluster that tests share.
var values = []string{
	"sdk/call", "sdk/fault", "sdk/handshake", "sdk/manifest", "sdk/money", "sdk/id", "sdk/gs1", "sdk/credential", "sdk/busdb", "sdk/pgerr", "sdk/pglocal",
}

// kernelContracts are what the kernel speaks; it knows no commerce.
var kernelContracts = []string{
	"proto/entrepot/type", "proto/entrepot/options", "proto/entrepot/plugin", "proto/entrepot/kernel", "proto/entrepot/operator", "proto/entrepot/identity",
}

// may tells whether a package of one part of the house may import another.
func may(from, to string) bool {
	in := func(path string, roots ...string) bool {
		for _, r := range roots {
			if path == r || strings.HasPrefix(path, r+"/") {
				return true
			}
		}
		return false
	}
	switch part, _, _ := strings.Cut(from, "/"); part {
	case "proto":
		return in(to, "proto")
	case "sdk":
		return in(to, "proto", "sdk")
	case "core":
		return in(to, kernelContracts...) || in(to, values...) || in(to, "core") || strings.HasPrefix(from, "core/supervisor/testdata") && in(to, "sdk")
	case "plugins":
		own := strings.Join(strings.SplitN(from, "/", 3)[:2], "/")
		return in(to, "proto", "sdk", own)
	case "examples":
		return in(to, "proto", "sdk", "examples")
	}
	return false
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...", "./core/supervisor/testdata/...").Output()
	require.NoError(t, err)
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		from := strings.TrimPrefix(p.ImportPath, module)
		seen++
		for _, list := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, path := range list {
				if to, ours := strings.CutPrefix(path, module); ours && !may(from, to) {
					t.Errorf("%s imports %s: against the arrows (plugins -> sdk -> proto; core -> proto and values)", from, to)
				}
			}
		}
	}
	require.Greater(t, seen, 40, "the whole house was looked at")
}

func TestAThirdPartyNeedsNoKernel(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-test", "./sdk/...").Output()
	require.NoError(t, err)
	for _, path := range strings.Fields(string(out)) {
		require.False(t, strings.HasPrefix(path, module+"core/"), "the SDK or its tests reach %s", path)
		require.False(t, strings.HasPrefix(path, "github.com/hashicorp/go-plugin"), "the SDK reaches %s", path)
		require.NotEqual(t, "google.golang.org/grpc", path, "the SDK reaches gRPC")
	}
}

// A file that needs a scroll map is two files.
func TestNoFileIsTwoIdeas(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".":
			return filepath.SkipDir
		case d.IsDir(), filepath.Ext(path) != ".go", strings.HasSuffix(path, ".pb.go"), strings.HasSuffix(path, ".connect.go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		lines := 0
		for s := bufio.NewScanner(f); s.Scan(); {
			lines++
		}
		require.LessOrEqual(t, lines, 500, "%s", path)
		return nil
	})
	require.NoError(t, err)
}

func TestMainsAreShort(t *testing.T) {
	t.Parallel()
	mains, err := filepath.Glob("plugins/*/main.go")
	require.NoError(t, err)
	require.NotEmpty(t, mains)
	for _, path := range mains {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		lines := 0
		for _, l := range strings.Split(string(b), "\n") {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "//") {
				lines++
			}
		}
		require.LessOrEqual(t, lines, 30, "%s", path)
	}
}

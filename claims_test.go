package entrepot_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var claimed = regexp.MustCompile("`([a-z0-9/_-]+_test\\.go):(Test[A-Za-z0-9]+)`")

// What the pages claim is shown by tests that there are.
func TestEveryClaimNamesATestThatThereIs(t *testing.T) {
	page, err := os.ReadFile("docs/goods.md")
	require.NoError(t, err)
	found := claimed.FindAllStringSubmatch(string(page), -1)
	require.Len(t, found, strings.Count(string(page), "_test.go"), "a claim is written as `file_test.go:TestName`")
	for _, m := range found {
		source, err := os.ReadFile(m[1])
		require.NoError(t, err)
		require.Contains(t, string(source), "func "+m[2]+"(t *testing.T)", m[1])
	}
}

package main

import (
	"testing"

	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// signingKey is 32 bytes of zeros.
const signingKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func TestItStarts(t *testing.T) {
	t.Parallel()
	plugintest.Start(t, module(), plugintest.Secrets(map[string]string{"signing_key": signingKey}))
}

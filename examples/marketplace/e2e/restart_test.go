package e2e_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pids are the processes of the plugins.
func (w *world) pids(t *testing.T) map[string]int32 {
	t.Helper()
	st, err := w.Status(t.Context())
	require.NoError(t, err)
	out := map[string]int32{}
	for _, p := range st.GetPlugins() {
		require.Equal(t, "ready", p.GetState(), "%s: %s", p.GetName(), p.GetReason())
		out[p.GetName()] = p.GetPid()
	}
	return out
}

// A plugin is replaced under the hands of buyers: its process changes, and
// none of them notices.
func TestAPluginIsReplacedWhileCallsRunAndNoCallerNotices(t *testing.T) {
	sku := open.article(t, 100_000)
	for _, plugin := range []string{"order", "catalog", "warehouse", "payment", "payment-sandbox"} {
		t.Run(plugin, func(t *testing.T) {
			before := open.books(t)
			old := open.pids(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var bought atomic.Int64
			replaced, warm := make(chan struct{}), make(chan struct{})
			errs := make(chan error, 64)
			var buyers sync.WaitGroup
			for range 4 {
				buyers.Go(func() {
					for range 10_000 {
						c, err := fill(ctx, open.Guest("GB"), sku, 1)
						if err == nil {
							_, err = c.checkout(ctx)
						}
						if err != nil {
							errs <- err
							return
						}
						if bought.Add(1) == 8 {
							close(warm)
						}
						select {
						case <-replaced:
							return
						default:
						}
					}
				})
			}
			select {
			case <-warm:
			case err := <-errs:
				require.NoError(t, err, "before anything was replaced")
			}
			code, out, err := entrepot(ctx, open.Shop, "plugin", "restart", plugin, "-f", filepath.Join(open.Dir, "deployment.hcl"))
			close(replaced)
			buyers.Wait()
			close(errs)
			require.NoError(t, err)
			require.Zero(t, code, out)
			for err := range errs {
				require.NoError(t, err)
			}
			now := open.pids(t)
			require.NotEqual(t, old[plugin], now[plugin], "another process")
			delete(old, plugin)
			delete(now, plugin)
			require.Equal(t, old, now, "and the same ones beside it")
			require.Equal(t, bought.Load(), open.books(t).Orders.GetOrders()["placed"]-before.Orders.GetOrders()["placed"])
		})
	}
}

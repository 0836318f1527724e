package kernel

import (
	"context"
	"fmt"
	"sync"
)

// group runs loops of the kernel until it is stopped.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
	failed chan error
}

// newGroup makes a group that outlives ctx: its end has an order.
func newGroup(ctx context.Context) *group {
	g := &group{failed: make(chan error, 1)}
	g.ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return g
}

// run starts a loop; one that ends with an error before it was told to ends
// the kernel.
func (g *group) run(name string, loop func(context.Context) error) {
	g.loops.Go(func() {
		if err := loop(g.ctx); err != nil && g.ctx.Err() == nil {
			select {
			case g.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	})
}

// stop tells the loops to end and returns when they have.
func (g *group) stop() {
	g.cancel()
	g.loops.Wait()
}

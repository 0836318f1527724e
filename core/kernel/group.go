package kernel

import (
	"context"
	"fmt"
	"sync"
)

// group runs the kernel's loops until their context ends.
type group struct {
	ctx    context.Context
	loops  sync.WaitGroup
	failed chan error
}

func newGroup(ctx context.Context) *group { return &group{ctx: ctx, failed: make(chan error, 1)} }

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

func (g *group) wait() { g.loops.Wait() }

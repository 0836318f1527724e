package main

import (
	"context"
	"fmt"
	"strings"
)

// overLimit measures checkouts in turns with pgbench, which runs the
// statements that one checkout was recorded to send. What the bus does besides
// is in ours and not in the limit.
func (b *bench) overLimit(ctx context.Context, n int) ([]figure, error) {
	l, statements, err := b.checkoutLimit(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.db.Close(ctx) }()
	// Twice as many, so that the plans each connection of pgbench makes first
	// weigh little: the modules' connections have theirs.
	if _, err := l.run(ctx, b, 2*n/rounds); err != nil {
		return nil, err
	}
	const ended = `SELECT count(*) FROM bus.saga WHERE status = 3`
	var before, after int
	if err := l.db.QueryRow(ctx, ended).Scan(&before); err != nil {
		return nil, err
	}
	var ours, limits turn
	for range rounds {
		o, err := b.turnOf(ctx, n/rounds, b.checkout)
		if err != nil {
			return nil, err
		}
		t, err := l.run(ctx, b, 2*n/rounds)
		if err != nil {
			return nil, err
		}
		ours.add(o)
		limits.add(t)
	}
	// A run of the script counts when it has gone to the saga's end.
	if err := l.db.QueryRow(ctx, ended).Scan(&after); err != nil {
		return nil, err
	}
	if after-before != limits.done {
		return nil, fmt.Errorf("the limit script ended %d checkouts in %d runs", after-before, limits.done)
	}
	return append(beside("checkouts", ours, limits, ">= 0.5"),
		figure{"  statements and commits of one", fmt.Sprintf("%d and %d", len(statements), commits(statements)), "<= 25, 6"}), nil
}

// checkoutLimit records a checkout and prepares its script and the copy of the
// database that it runs on.
func (b *bench) checkoutLimit(ctx context.Context) (*limit, []statement, error) {
	// Others follow what these do, or look around by themselves.
	statements, err := b.recorded(ctx, b.checkout, strings.Split(modules, ",")...)
	if err != nil {
		return nil, nil, err
	}
	c, err := openCluster(b.shop.Dir)
	if err != nil {
		return nil, nil, err
	}
	skus := make([]string, len(b.articles))
	for i, a := range b.articles {
		skus[i] = b.goods.SKU(a.Code)
	}
	names := numbers(skus)
	l := &limit{cluster: c}
	if l.db, err = c.copy(ctx, strings.NewReplacer(names...)); err != nil {
		return nil, nil, err
	}
	text, err := (&scripter{db: l.db}).script(ctx, statements, len(skus))
	if err != nil {
		return nil, nil, err
	}
	return l, statements, l.write(b.shop.Dir, "checkout.sql", text)
}

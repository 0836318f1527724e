package shop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// Step is told how far a piece of work is. Safe for concurrent use.
type Step interface {
	Add(n int)
	Done()
}

// Market is a populated shop: who trades there and what is listed.
type Market struct {
	Owners    []*Person
	Consumers map[string][]*Person
	Goods     *Goods
	// Received is how many units the merchants brought.
	Received int64
}

// Populate registers merchants and consumers, lists the articles and receives
// their stock.
func (s *Shop) Populate(ctx context.Context, data *Data, consumers int, step func(what string, total int) Step) (*Market, error) {
	m := &Market{Owners: make([]*Person, trade.Merchants), Consumers: make(map[string][]*Person)}
	people := step("people", trade.Merchants+consumers)
	err := side(ctx, trade.Merchants, 2, func(ctx context.Context, i int) (err error) {
		defer people.Add(1)
		m.Owners[i], err = s.Merchant(ctx, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	markets := []string{"GB", "GB", "DE", "JP"}
	err = side(ctx, consumers, 2, func(ctx context.Context, i int) error {
		defer people.Add(1)
		p, err := s.Consumer(ctx, i, markets[i%len(markets)])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		m.Consumers[p.Market] = append(m.Consumers[p.Market], p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	people.Done()
	listing := step("catalogue", len(data.Articles))
	if m.Goods, err = s.List(ctx, m.Owners, data.Articles, listing.Add); err != nil {
		return nil, err
	}
	listing.Done()
	receiving := step("receipts", len(data.Articles))
	m.Received, err = s.Receive(ctx, m.Owners, m.Goods, data.Articles, receiving.Add)
	receiving.Done()
	return m, err
}

// tokenLife is how often everybody logs in anew, well within the life of an
// access token.
const tokenLife = 10 * time.Minute

// Trade replays invoices while the merchants take the orders into processing.
// It returns when all is bought, cancelled and accepted.
func (s *Shop) Trade(ctx context.Context, m *Market, r *Replay, invoices []trade.Invoice, width int, step Step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.stayLoggedIn(ctx, m)
	bought := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(bought)
		return r.Run(ctx, invoices, width, step.Add)
	})
	for _, owner := range m.Owners {
		g.Go(func() error { return s.Accept(ctx, owner, bought, func(int) {}) })
	}
	return g.Wait()
}

// stayLoggedIn gives everybody a fresh token before the old one expires.
func (s *Shop) stayLoggedIn(ctx context.Context, m *Market) {
	tick := time.NewTicker(tokenLife)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		people := append([]*Person(nil), m.Owners...)
		for _, list := range m.Consumers {
			people = append(people, list...)
		}
		for _, p := range people {
			// A login that fails shows as a call refused.
			_ = s.Login(ctx, p)
		}
	}
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

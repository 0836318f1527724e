// Command bench measures a running deployment, durability on, and prints the
// figures of docs/performance.md with the machine's load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

func main() {
	n := flag.Int("n", 2000, "checkouts to measure")
	width := flag.Int("width", 8, "clients at the same time")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	err := run(ctx, *n, *width)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// silent is a Step that nobody looks at.
type silent struct{}

func (silent) Add(int) {}
func (silent) Done()   {}

// figure is one line of the table.
type figure struct{ what, value, goal string }

func run(ctx context.Context, n, width int) (err error) {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's own account passes through
		return err
	}
	s, err := shop.New(shop.Options{Root: root, Build: filepath.Join(root, ".build"), Dir: filepath.Join(dir, "run")})
	if err != nil {
		return err
	}
	if err := moreCarriers(s); err != nil {
		return err
	}
	fmt.Printf("%d cores, %s, load %s\n\n", runtime.NumCPU(), runtime.Version(), load())
	if err := s.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	data, err := shop.ReadData(root)
	if err != nil {
		return err
	}
	data.Articles = data.Articles[:400]
	for i := range data.Articles {
		data.Articles[i].Sold = 1_000_000
	}
	m, err := s.Populate(ctx, data, 0, func(string, int) shop.Step { return silent{} })
	if err != nil {
		return err
	}
	b := bench{shop: s, goods: m.Goods, owners: m.Owners, articles: data.Articles, width: width}
	var table []figure
	for _, measure := range []func(context.Context, int) ([]figure, error){
		b.checkouts, b.overLimit, b.lists, b.memory, b.starts, b.events, b.hop, b.routed,
		b.moves, b.quotes, b.tracking, b.recommendations,
	} {
		got, err := measure(ctx, n)
		if err != nil {
			return err
		}
		for _, f := range got {
			fmt.Printf("| %-58s | %22s | %10s |\n", f.what, f.value, f.goal)
		}
		table = append(table, got...)
	}
	fmt.Printf("\nload at the end %s, %d figures\n", load(), len(table))
	return nil
}

type bench struct {
	shop     *shop.Shop
	goods    *shop.Goods
	owners   []*shop.Person
	articles []trade.Article
	width    int
	// staff are hired for the goods' lines; bare is the CPU of a bare hop.
	staff *shop.Staff
	bare  time.Duration
	// before is what each process had used when the last measure began.
	before map[int]time.Duration
}

// split tells what each process used of the last measure, per job.
func (b *bench) split(ctx context.Context, n int) ([]figure, error) {
	after, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return nil, err
	}
	st, err := b.shop.Status(ctx)
	if err != nil {
		return nil, err
	}
	names := map[int]string{0: "PostgreSQL", b.shop.PID(): "kernel"}
	for _, p := range st.GetPlugins() {
		names[int(p.GetPid())] = p.GetName()
	}
	var out []figure
	for pid, name := range names {
		out = append(out, figure{"  of " + name, fmt.Sprintf("%.2f ms", ms((after[pid]-b.before[pid])/time.Duration(n))), ""})
	}
	slices.SortFunc(out, func(a, b figure) int { return strings.Compare(a.what, b.what) })
	return out, nil
}

// measured runs job n times, width at a time, and answers the CPU of the whole
// deployment and of this client per job, jobs a second and latencies.
func (b *bench) measured(ctx context.Context, n int, job func(ctx context.Context, i int) error) (per, client time.Duration, rate float64, took []time.Duration, err error) {
	for i := range n / 10 {
		if err := job(ctx, n+i); err != nil {
			return 0, 0, 0, nil, err
		}
	}
	before, err := cpu(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	if b.before, err = shares(b.shop.PID(), b.shop.Dir); err != nil {
		return 0, 0, 0, nil, err
	}
	mine, began := own(), time.Now()
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.width)
	for i := range n {
		g.Go(func() error {
			at := time.Now()
			err := job(gctx, i)
			mu.Lock()
			took = append(took, time.Since(at))
			mu.Unlock()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, 0, nil, err
	}
	wall := time.Since(began)
	// What the jobs left to do, events to deliver, is theirs too.
	if _, err := b.shop.Quiet(ctx); err != nil {
		return 0, 0, 0, nil, err
	}
	after, err := cpu(b.shop.PID(), b.shop.Dir)
	slices.Sort(took)
	return (after - before) / time.Duration(n), (own() - mine) / time.Duration(n), float64(n) / wall.Seconds(), took, err
}

// checkout is a guest's: a cart of three articles, bought.
func (b *bench) checkout(ctx context.Context, i int) error {
	who, buyer := b.shop.Guest("GB"), trade.Invoice{Market: "GB", Number: "bench"}.Consumer()
	create := &orderv1.CreateCartRequest{}
	for k := range 3 {
		create.Lines = append(create.Lines, &orderv1.LineInput{Sku: b.goods.SKU(b.articles[(i*3+k)%len(b.articles)].Code), Quantity: 1})
	}
	cart, err := orderv1connect.NewCartServiceClient(who.Client()).CreateCart(shop.Keyed(ctx), create)
	if err != nil {
		return err
	}
	_, err = orderv1connect.NewOrderServiceClient(who.Client()).Checkout(ctx, &orderv1.CheckoutRequest{
		CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), ShipTo: buyer.Address, Email: buyer.Email, PaymentMethodToken: "tok_ok",
	})
	return err
}

func (b *bench) checkouts(ctx context.Context, n int) ([]figure, error) {
	per, client, rate, took, err := b.measured(ctx, n, b.checkout)
	if err != nil {
		return nil, fmt.Errorf("checkout: %w", err)
	}
	parts, err := b.split(ctx, n)
	if err != nil {
		return nil, err
	}
	return append(append([]figure{{"CPU per guest checkout, all processes and PostgreSQL", fmt.Sprintf("%.2f ms", ms(per)), "<= 4 ms"}}, parts...), []figure{
		{"  of the client beside it", fmt.Sprintf("%.2f ms", ms(client)), ""},
		{"checkouts a second", fmt.Sprintf("%.0f", rate), ">= 200"},
		{"  half and 99 of 100 within", fmt.Sprintf("%.0f / %.0f ms", ms(took[len(took)/2]), ms(took[len(took)*99/100])), ""},
	}...), nil
}

func (b *bench) lists(ctx context.Context, n int) ([]figure, error) {
	c := catalogv1connect.NewStorefrontServiceClient(b.shop.Guest("GB").Client())
	per, client, rate, _, err := b.measured(ctx, 2*n, func(ctx context.Context, _ int) error {
		res, err := c.SearchListings(ctx, &catalogv1.SearchListingsRequest{PageSize: 40})
		if err == nil && len(res.GetListings()) != 40 {
			return fmt.Errorf("%d listings, want 40", len(res.GetListings()))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return []figure{
		{"CPU per list of 40 with prices and stock", fmt.Sprintf("%.2f ms", ms(per)), "<= 0.6 ms"},
		{"  of the client beside it", fmt.Sprintf("%.2f ms", ms(client)), ""},
		{"lists a second", fmt.Sprintf("%.0f", rate), ""},
	}, nil
}

func (b *bench) memory(ctx context.Context, _ int) ([]figure, error) {
	all, err := deployment(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return nil, err
	}
	running, err := b.shop.Processes(ctx)
	if err != nil {
		return nil, err
	}
	var out []figure
	for _, p := range running {
		out = append(out, figure{"resident memory of " + p.Name, mib(all[int(p.PID)].rss), ""})
	}
	slices.SortFunc(out, func(a, b figure) int { return strings.Compare(a.what, b.what) })
	return out, nil
}

// starts times the kernel from nothing to the first answer, on a database that
// exists.
func (b *bench) starts(ctx context.Context, _ int) ([]figure, error) {
	var took []time.Duration
	for range 3 {
		if err := b.shop.Stop(); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := b.shop.Start(ctx); err != nil {
			return nil, err
		}
		c := catalogv1connect.NewStorefrontServiceClient(b.shop.Guest("GB").Client())
		if _, err := c.SearchListings(ctx, &catalogv1.SearchListingsRequest{PageSize: 1}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return []figure{{"cold start to the first answer", fmt.Sprintf("%.2f s", took[1].Seconds()), "<= 3 s"}}, nil
}

// routed runs the router's own benchmark and compares its two ways.
func (b *bench) routed(ctx context.Context, _ int) ([]figure, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkCall", "-benchtime", "2s", "./core/hostapi")
	cmd.Dir = b.shop.Root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	cpus := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkCall/") {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			if strings.HasPrefix(f[i+1], "cpu") {
				var v float64
				if _, err := fmt.Sscan(f[i], &v); err == nil {
					name, _, _ := strings.Cut(strings.TrimPrefix(f[0], "BenchmarkCall/"), "-")
					cpus[name] = v
				}
			}
		}
	}
	if cpus["direct"] == 0 || cpus["routed"] == 0 {
		return nil, fmt.Errorf("the router's benchmark printed no figures: %s", out)
	}
	return []figure{{"CPU of a routed call over a direct one", fmt.Sprintf("%.2f", cpus["routed"]/cpus["direct"]), "<= 2.2"}}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

package shop_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

// still is a Step that nobody looks at.
type still struct{}

func (still) Add(int) {}
func (still) Done()   {}

func silent(string, int) shop.Step { return still{} }

// at is a Step that does something once, when n are done.
type at struct {
	n, seen atomic.Int64
	do      func()
}

func (a *at) Add(n int) {
	if a.seen.Add(int64(n)) == a.n.Load() {
		a.do()
	}
}
func (a *at) Done() {}

// build makes every binary of the deployment, unless make has.
func build(t *testing.T, root string) string {
	t.Helper()
	if made := os.Getenv("ENTREPOT_BUILD"); made != "" {
		return made
	}
	dir := filepath.Join(publicDir(t), "bin")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	plugins, err := filepath.Glob(filepath.Join(root, "plugins", "*", "main.go"))
	require.NoError(t, err)
	args := []string{"build", "-o", dir + "/", "./core/cmd/entrepot"}
	for _, p := range plugins {
		args = append(args, "./plugins/"+filepath.Base(filepath.Dir(p)))
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// publicDir is a temporary folder that the database's unprivileged user may
// pass through.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(pgtest.Scratch(), "shop")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

const (
	articles  = 150
	ordersPer = 60
	piecesPer = 3
)

// prove marks the last articles as ones that must pass inspection: nobody has
// ordered them yet.
func prove(d *shop.Data) []trade.Article {
	proven := d.Articles[articles:]
	for i := range proven {
		a := &proven[i]
		a.Sold, a.Proof = 2, trade.Proof(1+i%3)
		a.Category = map[trade.Proof]string{trade.Tag: "jewellery/fine", trade.Register: "jewellery", trade.Bench: "bags"}[a.Proof]
	}
	return proven
}

// cut keeps invoices to what the first articles can fill.
func cut(d *shop.Data) {
	d.Articles = d.Articles[:articles+4*piecesPer]
	known := make(map[string]bool, articles)
	for i := range d.Articles[:articles] {
		known[d.Articles[i].Code] = true
		d.Articles[i].Sold = max(d.Articles[i].Sold, 100)
	}
	var kept []trade.Invoice
	there := map[string]bool{}
	for _, v := range d.Invoices {
		var lines []trade.Line
		for _, l := range v.Lines {
			if known[l.Code] {
				lines = append(lines, l)
			}
		}
		if len(lines) == 0 || v.Cancels != "" && !there[v.Cancels] {
			continue
		}
		v.Lines = lines
		there[v.Number] = true
		kept = append(kept, v)
	}
	d.Invoices = kept
}

// Whatever process is killed in the middle of trade: after it is back, every
// saga ends and every book reconciles. That a module's death at a saga's every
// step is survived is proven in saga_test.go; these die at volume, and of whom
// modules ask.
func TestAnyProcessMayBeKilledInTheMiddleOfTrade(t *testing.T) {
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	s, err := shop.New(shop.Options{Root: root, Build: build(t, root), Dir: filepath.Join(publicDir(t), "run")})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	data, err := shop.ReadData(root)
	require.NoError(t, err)
	cut(data)
	proven := prove(data)
	require.NoError(t, s.Publish(proven))
	require.NoError(t, s.Start(ctx))
	t.Cleanup(func() { _ = s.Stop() })
	m, err := s.Populate(ctx, data, 8, silent)
	require.NoError(t, err)
	r := s.NewReplay(m.Goods, m.Consumers)
	done := &shop.Done{Received: m.Received, Replay: r, Consigned: &shop.Consignments{}}
	reconciles := func(t *testing.T) {
		t.Helper()
		quiet, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		books, err := s.Reconcile(quiet, done)
		require.NoError(t, err)
		for _, c := range books.Checks {
			require.True(t, c.OK(), "%s: %s %d, %s %d", c.What, c.Left, c.Want, c.Right, c.Have)
		}
	}

	rest := data.Invoices
	segment := func() []trade.Invoice {
		n, purchases := 0, 0
		for n < len(rest) && purchases < ordersPer {
			if rest[n].Cancels == "" {
				purchases++
			}
			n++
		}
		out := rest[:n]
		rest = rest[n:]
		return out
	}
	for _, victim := range []string{"order", "payment", "payment-sandbox", "warehouse", "catalog", "kernel", "a database session"} {
		t.Run(victim, func(t *testing.T) {
			invoices := segment()
			require.NotEmpty(t, invoices)
			killed := make(chan error, 1)
			step := &at{do: func() { go func() { killed <- kill(ctx, s, victim) }() }}
			step.n.Store(int64(len(invoices) / 3))
			require.NoError(t, s.Trade(ctx, m, r, invoices, 6, step))
			require.NoError(t, <-killed)
			reconciles(t)
		})
	}
	require.NotEmpty(t, r.Placed())

	// And of those who ship what was bought: every parcel arrives, once.
	staff, err := s.Hire(ctx, func(int) {})
	require.NoError(t, err)
	floor, err := s.NewFloor(ctx, staff.Floor)
	require.NoError(t, err)

	// And of those who look at goods: what is genuine comes onto the shelf, once,
	// and what is not is destroyed.
	for n, v := range []struct {
		victim string
		when   int64
	}{{"authenticator-sun", 0}} {
		t.Run("inspecting/"+v.victim, func(t *testing.T) {
			sent, err := s.Consign(ctx, m, proven[n*piecesPer:(n+1)*piecesPer], staff, func(int) {})
			require.NoError(t, err)
			killed := make(chan error, 1)
			step := &at{do: func() { go func() { killed <- kill(ctx, s, v.victim) }() }}
			if step.n.Store(v.when); v.when == 0 {
				step.Add(0) // before anybody has looked
			}
			require.NoError(t, s.Inspect(ctx, sent, staff, step.Add))
			require.NoError(t, <-killed)
			require.NoError(t, floor.Shelve(ctx, sent.Genuine, func(int) {}))
			done.Consigned.Genuine += sent.Genuine
			done.Consigned.Fakes += sent.Fakes
			reconciles(t)
		})
	}

	for _, victim := range []string{"carrier-sandbox", "carrier-post", "kernel"} {
		t.Run("shipping/"+victim, func(t *testing.T) {
			killed := make(chan error, 1)
			// In the middle: what is packed waits for its carrier.
			step := &at{do: func() { go func() { killed <- kill(ctx, s, victim) }() }}
			step.n.Store(1)
			shipped := 0
			require.NoError(t, floor.Work(ctx, 12, func(n int) {
				for range n {
					step.Add(1)
				}
				shipped += n
			}))
			require.Positive(t, shipped)
			require.NoError(t, <-killed)
			quiet, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_, err := s.Delivered(quiet)
			require.NoError(t, err)
			reconciles(t)
		})
	}

	// And of who keeps the ledger, while a bank takes money back.
	t.Run("disputing/payment", func(t *testing.T) {
		require.NoError(t, disputing(ctx, s, m, r, data.Articles))
		reconciles(t)
	})

	// And of those who take goods back: what came is decided, and paid back once.
	done.Returned = &shop.Returned{}
	for _, victim := range []string{"payment-sandbox"} {
		t.Run("returning/"+victim, func(t *testing.T) {
			killed := make(chan error, 1)
			step := &at{do: func() { go func() { killed <- kill(ctx, s, victim) }() }}
			step.n.Store(1)
			require.NoError(t, s.TakeBack(ctx, m, r, floor, staff, done.Returned, 3, step.Add))
			require.NoError(t, <-killed)
			reconciles(t)
		})
	}
}

// disputing has one dispute opened and answered while who keeps the ledger
// dies: first while the bank's taking the money back is told, then while the
// evidence is handed over. It stands once, and its money moved once.
func disputing(ctx context.Context, s *shop.Shop, m *shop.Market, r *shop.Replay, articles []trade.Article) error {
	killed := make(chan error, 1)
	dies := func(int) { go func() { killed <- kill(ctx, s, "payment") }() }
	d, err := s.Deny(ctx, m, r, articles, false, dies)
	if err != nil {
		return err
	}
	if err := <-killed; err != nil {
		return err
	}
	if _, err := d.Answer(ctx, true, dies); err != nil {
		return err
	}
	return <-killed
}

// kill ends a process with SIGKILL, and starts the kernel again if it was the
// kernel. Plugins are the kernel's to start again, sessions PostgreSQL's.
func kill(ctx context.Context, s *shop.Shop, victim string) error {
	switch victim {
	case "kernel":
		if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
			return err
		}
		<-s.Exited()
		return s.Start(ctx)
	case "a database session":
		pid, err := session(s.Dir, "p_order")
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	}
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, p := range st.GetPlugins() {
		if p.GetName() == victim {
			return syscall.Kill(int(p.GetPid()), syscall.SIGKILL)
		}
	}
	return fmt.Errorf("no plugin %s", victim)
}

// session finds a backend of a role among the children of the shop's own
// postmaster.
func session(dir, role string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "data", "postgres", "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	postmaster, _, _ := strings.Cut(string(b), "\n")
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		title, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err == nil && len(f) > 1 && f[1] == postmaster && strings.Contains(string(title), " "+role+" ") {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("no session of %s below postmaster %s", role, postmaster)
}

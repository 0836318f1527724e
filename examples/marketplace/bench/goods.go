package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// carriers is how many of them the first market has while it is measured.
const carriers = 5

// moreCarriers gives the first market of a shop that is not open yet lorries
// of other companies.
func moreCarriers(s *shop.Shop) error {
	path := filepath.Join(s.Dir, "deployment.hcl")
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var instances, binds strings.Builder
	for i := 2; i < carriers; i++ {
		fmt.Fprintf(&instances, "  instance \"lorries-gb-%d\" {\n    config {\n      currency = \"GBP\"\n      price_minor = %d\n    }\n  }\n", i, 500+10*i)
		fmt.Fprintf(&binds, "  bind \"entrepot.logistics.provider.v1\" {\n    instance = \"lorries-gb-%d\"\n    priority = %d\n  }\n", i, i)
	}
	const plugin, bound = "/carrier-sandbox\"\n", "  bind \"entrepot.logistics.provider.v1\" { instance = \"lorries-gb\" }\n"
	text := string(file)
	if strings.Count(text, plugin) != 1 || strings.Count(text, bound) != 1 {
		return fmt.Errorf("%s: carriers are not where they were", path)
	}
	text = strings.NewReplacer(plugin, plugin+instances.String(), bound, bound+binds.String()).Replace(text)
	return os.WriteFile(path, []byte(text), 0o600) //nolint:gosec // the shop's own copy
}

// floor is one of the warehouse's people, hired once.
func (b *bench) floor(ctx context.Context) (shop.Caller, error) {
	if b.staff == nil {
		staff, err := b.shop.Hire(ctx, func(int) {})
		if err != nil {
			return shop.Caller{}, err
		}
		b.staff = staff
	}
	who := b.staff.Floor.Caller
	who.Market = "GB"
	return who, nil
}

// moves measures the stock ledger: goods found damaged on the floor, one move
// in each commit, in turns with pgbench, which runs the statements that one was
// recorded to send; and receipts of a hundred lines, a move each.
func (b *bench) moves(ctx context.Context, n int) ([]figure, error) {
	who, err := b.floor(ctx)
	if err != nil {
		return nil, err
	}
	inventory := warehousev1connect.NewInventoryServiceClient(who.Client())
	move := func(ctx context.Context, i int) error {
		_, err := inventory.MoveStock(ctx, &warehousev1.MoveStockRequest{
			MoveId: id.New("mov"), Sku: b.goods.SKU(b.articles[i%len(b.articles)].Code), Quantity: 1,
			From: warehousev1.Disposition_DISPOSITION_SELLABLE, To: warehousev1.Disposition_DISPOSITION_DAMAGED, Cause: "fell off a shelf",
		})
		return err
	}
	l, one, err := b.limitOf(ctx, "p_warehouse", "moves.sql", move)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.db.Close(ctx) }()
	if _, err := l.run(ctx, b, n/rounds); err != nil { // its plans are made
		return nil, err
	}
	const made = `SELECT count(*) FROM p_warehouse.stock_move`
	var before, after int
	if err := l.db.QueryRow(ctx, made).Scan(&before); err != nil {
		return nil, err
	}
	var ours, limits turn
	for range rounds {
		o, err := b.turnOf(ctx, n/rounds, move)
		if err != nil {
			return nil, fmt.Errorf("move: %w", err)
		}
		t, err := l.run(ctx, b, n/rounds)
		if err != nil {
			return nil, err
		}
		ours.add(o)
		limits.add(t)
	}
	if err := l.db.QueryRow(ctx, made).Scan(&after); err != nil {
		return nil, err
	}
	if after-before != limits.done {
		return nil, fmt.Errorf("the limit script made %d moves in %d runs", after-before, limits.done)
	}
	receipts, err := b.receipts(ctx, n)
	return append(append(beside("stock moves", ours, limits, ""),
		figure{"  statements and commits of one", fmt.Sprintf("%d and %d", len(one), commits(one)), ""}), receipts...), err
}

// receiptLines is how many moves one receipt makes.
const receiptLines = 100

func (b *bench) receipts(ctx context.Context, n int) ([]figure, error) {
	share, merchant := []trade.Article(nil), 0
	for i, all := range shop.ByMerchant(b.articles) {
		if len(all) > len(share) {
			share, merchant = all[:min(len(all), receiptLines)], i
		}
	}
	owner := b.owners[merchant]
	if err := b.shop.Login(ctx, owner); err != nil {
		return nil, err
	}
	stock := warehousev1connect.NewStockServiceClient(owner.Client())
	var lines []*warehousev1.ReceiptLine
	for _, a := range share {
		lines = append(lines, &warehousev1.ReceiptLine{Sku: b.goods.SKU(a.Code), Quantity: 1})
	}
	receive := func(ctx context.Context, _ int) error {
		_, err := stock.ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{ReceiptId: id.New("rcp"), Lines: lines})
		return err
	}
	one, err := b.recorded(ctx, receive, "p_warehouse")
	if err != nil {
		return nil, err
	}
	per, _, rate, _, err := b.measured(ctx, max(50, n/20), receive)
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	moves := float64(len(lines))
	return []figure{
		{fmt.Sprintf("stock moves a second, receipts of %d lines", len(lines)), fmt.Sprintf("%.0f", rate*moves), ""},
		{"  CPU of one move, all processes and PostgreSQL", fmt.Sprintf("%.2f ms", ms(per)/moves), ""},
		{"  statements of a receipt, and of one move of it", fmt.Sprintf("%d, %.2f", len(one), float64(len(one))/moves), ""},
	}, nil
}

// turnOf is a turn of ours of any job.
func (b *bench) turnOf(ctx context.Context, n int, job func(context.Context, int) error) (turn, error) {
	per, client, rate, _, err := b.measured(ctx, n, job)
	if err != nil {
		return turn{}, err
	}
	after, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return turn{}, err
	}
	postgres := after[0] - b.before[0]
	return turn{
		done: n, took: time.Duration(float64(n) / rate * float64(time.Second)),
		postgres: postgres, others: (per+client)*time.Duration(n) - postgres,
	}, nil
}

// recorded is what some modules' roles send for one job.
func (b *bench) recorded(ctx context.Context, job func(context.Context, int) error, roles ...string) ([]statement, error) {
	c, err := openCluster(b.shop.Dir)
	if err != nil {
		return nil, err
	}
	db, err := c.connect(ctx, superuser)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close(ctx) }()
	all, err := c.record(ctx, db, func() error {
		if err := job(ctx, 0); err != nil {
			return err
		}
		_, err := b.shop.Quiet(ctx)
		return err
	})
	var own []statement
	for _, s := range all {
		if slices.Contains(roles, s.role) {
			own = append(own, s)
		}
	}
	return own, err
}

// limitOf records what a role's module sends for one job, and makes it a
// script for the copy of the database.
func (b *bench) limitOf(ctx context.Context, role, name string, job func(context.Context, int) error) (*limit, []statement, error) {
	one, err := b.recorded(ctx, job, role)
	if err != nil {
		return nil, nil, err
	}
	c, err := openCluster(b.shop.Dir)
	if err != nil {
		return nil, nil, err
	}
	l := &limit{cluster: c, schemas: role}
	if l.db, err = c.connect(ctx, limitDatabase); err != nil {
		return nil, nil, err
	}
	if _, err := l.db.Exec(ctx, "SET search_path = "+role); err != nil {
		return nil, nil, err
	}
	text, err := (&scripter{db: l.db}).script(ctx, one, len(b.articles))
	if err != nil {
		return nil, nil, err
	}
	return l, one, l.write(b.shop.Dir, name, text)
}

// quotes measures one round of all the market's carriers beside one of a single
// carrier, and both beside the bare hops that they are made of: in by the
// gateway, out to ask which carriers there are, and to each by the kernel.
func (b *bench) quotes(ctx context.Context, n int) ([]figure, error) {
	who, err := b.floor(ctx)
	if err != nil {
		return nil, err
	}
	c := logisticsv1connect.NewQuoteServiceClient(who.Client())
	ask := func(rule *logisticsv1.Rule, from int) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			res, err := c.QuoteShipment(ctx, &logisticsv1.QuoteShipmentRequest{
				Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, From: &logisticsv1.Party{CountryCode: "GB"}, To: &logisticsv1.Party{CountryCode: "GB"},
				Parcels: []*logisticsv1.Parcel{{ParcelId: "p", WeightGrams: 700}}, Rule: rule,
			})
			heard := map[string]bool{}
			for _, r := range res.GetRates() {
				heard[r.GetInstance()] = true
			}
			if err == nil && len(heard) != from {
				return fmt.Errorf("%d carriers quoted, want %d: without %v", len(heard), from, res.GetWithout())
			}
			return err
		}
	}
	var cpus, halves [2]time.Duration
	jobs := [2]func(context.Context, int) error{ask(nil, carriers), ask(&logisticsv1.Rule{Instance: "lorries-gb"}, 1)}
	width := b.width
	for range rounds {
		for i, job := range jobs {
			b.width = width
			per, _, _, _, err := b.measured(ctx, n, job)
			if err != nil {
				return nil, fmt.Errorf("quote: %w", err)
			}
			cpus[i] += per / rounds
			// One client: what a round takes when nobody else asks.
			b.width = 1
			_, _, _, took, err := b.measured(ctx, max(100, n/20), job)
			if err != nil {
				return nil, fmt.Errorf("quote: %w", err)
			}
			halves[i] += took[len(took)/2] / rounds
		}
	}
	b.width = width
	bare := func(carriers int) float64 { return ms(b.bare) * float64(3+2*carriers) }
	return []figure{
		{fmt.Sprintf("CPU per quote across %d carriers, all processes", carriers), fmt.Sprintf("%.2f ms", ms(cpus[0])), ""},
		{"  of one carrier", fmt.Sprintf("%.2f ms", ms(cpus[1])), ""},
		{fmt.Sprintf("  %d carriers over one", carriers), fmt.Sprintf("%.2f", float64(cpus[0])/float64(cpus[1])), ""},
		{fmt.Sprintf("  bare hops of %d carriers and of one, their CPU", carriers), fmt.Sprintf("%.2f, %.2f ms", bare(carriers), bare(1)), ""},
		{"  CPU of bare hops over a quote's", fmt.Sprintf("%.2f, %.2f", bare(carriers)/ms(cpus[0]), bare(1)/ms(cpus[1])), ""},
		{fmt.Sprintf("  half of a lone client's within, %d carriers and one", carriers), fmt.Sprintf("%.1f, %.1f ms", ms(halves[0]), ms(halves[1])), ""},
	}, nil
}

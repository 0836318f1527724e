// Command demo opens the example marketplace, replays a real shop's trade in
// it and reconciles every book. It exits non-zero when anything differs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

func main() {
	orders := flag.Int("orders", 2000, "invoices to replay as orders")
	consumers := flag.Int("consumers", 24, "consumers to register; invoices without a customer are guests'")
	width := flag.Int("width", 8, "consumers who buy at the same time")
	keep := flag.Bool("keep", false, "leave the shop open until interrupted")
	ship := flag.Int("ship", 400, "merchants' parts of orders to pick, pack and deliver")
	inspect := flag.Int("inspect", 40, "pieces that pass inspection before they are sold, of each kind of proof; 0 for none")
	back := flag.Int("returns", 15, "delivered parts of orders from which a piece comes back")
	listen := flag.String("listen", "127.0.0.1:8080", "public address of the shop")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, amounts{*orders, *consumers, *width, *ship, *inspect, *back}, *keep, *listen)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// amounts are how much of everything is done.
type amounts struct{ orders, consumers, width, ship, inspect, back int }

// errDiffers is returned when the books do not reconcile.
var errDiffers = errors.New("the books do not reconcile")

func run(ctx context.Context, of amounts, keep bool, listen string) (err error) {
	began := time.Now()
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "examples", "marketplace", ".run")
	say("Entrepot: a marketplace in three countries, on real trade")
	say("")
	s, err := shop.New(shop.Options{Root: root, Build: filepath.Join(root, ".build"), Dir: dir, Listen: listen})
	if err != nil {
		return err
	}
	data, err := shop.ReadData(root)
	if err != nil {
		return err
	}
	invoices := shop.Pick(data.Invoices, of.orders)
	trade.Authenticate(data.Articles, invoices, int64(of.inspect))
	shop.Spare(data.Articles)
	if err := s.Publish(data.Articles); err != nil {
		return err
	}
	say("starting   the kernel, its PostgreSQL and the plugins (log: %s)", relative(root, filepath.Join(dir, "kernel.log")))
	if err := s.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, p := range st.GetPlugins() {
		say("           %-22s pid %-7d sha256 %.12s  %s", p.GetName(), p.GetPid(), p.GetSha256(), p.GetState())
	}
	story := &story{shop: s, data: data, invoices: invoices, of: of}
	books, err := story.tell(ctx)
	if err != nil {
		return err
	}
	show(books)
	report, err := s.Report(ctx, books, data, began)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "report.json")
	if err := report.Write(path); err != nil {
		return err
	}
	say("")
	say("report     %s", relative(root, path))
	if !report.Reconciled {
		return errDiffers
	}
	say("           %d orders, %d cancelled, in %.0f s. Everything reconciles.", report.OrdersPlaced, report.OrdersCancelled, report.Seconds)
	if keep {
		invite(s)
		<-ctx.Done()
	}
	return nil
}

func invite(s *shop.Shop) {
	say("")
	say("The shop is open at %s. Three things to try:", s.URL)
	say("")
	say("  # what is sold in Germany, as JSON")
	say("  curl -s -H 'Entrepot-Market: DE' -H 'Content-Type: application/json' -d '{\"query\":\"teapot\",\"pageSize\":3}' \\")
	say("    %s/entrepot.catalog.v1.StorefrontService/SearchListings", s.URL)
	say("")
	say("  # the same over plain HTTP GET")
	say("  curl -s '%s/entrepot.catalog.v1.StorefrontService/SearchListings?connect=v1&encoding=json&message=%%7B%%22pageSize%%22%%3A1%%7D'", s.URL)
	say("")
	say("  # how far the bus is, as the operator")
	say("  curl -s -H \"Authorization: Bearer $(cat %s)\" -H 'Content-Type: application/json' -d '{}' \\", filepath.Join(s.Dir, "data", "operator.token"))
	say("    %s/entrepot.operator.v1.BusService/GetBus", s.URL)
	say("")
	say("Interrupt (Ctrl-C) closes it.")
}

func relative(root, path string) string {
	if r, err := filepath.Rel(root, path); err == nil {
		return r
	}
	return path
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

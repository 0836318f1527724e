package e2e_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// The pages of the terminals are run as they stand: their shell and their Go,
// by the public API alone, while the marketplace's people do their work.
func TestTheTerminalsPagesRunAsTheyStand(t *testing.T) {
	s := prepared(t, binaries)
	office := openPostOffice(t)
	edit(t, s.Dir, office.binding()...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	require.NoError(t, s.Start(ctx))
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	w := &world{Shop: s}
	var err error
	w.owner, err = s.Merchant(ctx, 0)
	require.NoError(t, err)
	w.article(t, 500)
	w.announce(t, w.article(t, 0))
	w.work(t, ctx)

	for _, c := range []struct{ page, program string }{
		{"user-terminal.md", "consumer"}, {"enterprise-terminal.md", "merchant"},
	} {
		b, err := os.ReadFile(filepath.Join(root, "docs", c.page))
		require.NoError(t, err)
		env := append(os.Environ(), "SHOP="+s.URL, "MAIL="+filepath.Join(s.Dir, "data", "mail"))
		t.Run(c.page+" in Go", func(t *testing.T) {
			source := filepath.Join(root, "examples", "terminals", c.program, "main.go")
			if page := withFunctions(t, string(b), source); page != string(b) && os.Getenv("UPDATE") != "" {
				require.NoError(t, os.WriteFile(filepath.Join(root, "docs", c.page), []byte(page), 0o644))
			} else {
				require.Equal(t, page, string(b), "the page shows what %s holds; UPDATE=1 writes it anew", source)
			}
			cmd := exec.CommandContext(ctx, "go", "run", "./examples/terminals/"+c.program, "-shop", s.URL, "-mail", filepath.Join(s.Dir, "data", "mail"))
			cmd.Dir, cmd.Env = root, env
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
		t.Run(c.page+" in shell", func(t *testing.T) {
			for _, program := range []string{"bash", "curl", "jq"} {
				if _, err := exec.LookPath(program); err != nil {
					t.Skip("there is no " + program + "; make readers installs it")
				}
			}
			cmd := exec.CommandContext(ctx, "bash", "-c", script(string(b)))
			cmd.Dir, cmd.Env = t.TempDir(), env
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
	t.Run("and what is owed on a durable medium came by mail", func(t *testing.T) {
		for _, text := range []string{"Thank you for your order ord_", " is cancelled"} {
			require.Eventually(t, func() bool { return office.holds("From: \"Entrepot\" <shop@entrepot.example>", text) }, time.Minute, 50*time.Millisecond, text)
		}
	})
}

// work has the merchant accept whatever is bought, and the warehouse pick, pack
// and hand it over, until the test ends.
func (w *world) work(t *testing.T, ctx context.Context) { //nolint:revive // the test comes first, as in all of its kind
	t.Helper()
	staff, err := w.Hire(ctx, func(int) {})
	require.NoError(t, err)
	floor, err := w.NewFloor(ctx, staff.Floor)
	require.NoError(t, err)
	people, err := w.Consumer(ctx, 1, "GB")
	require.NoError(t, err)
	stop := make(chan struct{})
	var working sync.WaitGroup
	for who, work := range map[string]func() error{
		"the merchant":  func() error { return w.acceptOld(ctx) },
		"the warehouse": func() error { return floor.Work(ctx, 50, func(int) {}) },
		"a consumer":    func() error { return w.wantLamps(ctx, people) },
	} {
		working.Go(func() {
			for {
				if err := work(); err != nil {
					t.Error(who+":", err)
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() {
		close(stop)
		working.Wait()
	})
}

// announce lets a sku be ordered that is not there yet.
func (w *world) announce(t *testing.T, sku string) {
	t.Helper()
	_, err := catalogv1connect.NewCatalogServiceClient(w.owner.Client()).SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{
		Sku: sku, Market: "GB", Listed: true, Backorder: &catalogv1.BackorderTerms{Limit: 100, ExpectedOn: time.Now().UTC().AddDate(0, 0, 21).Format(time.DateOnly)},
	}}})
	require.NoError(t, err)
}

// acceptOld accepts what was ordered a while ago: until then it can be changed
// without a word of the merchant.
func (w *world) acceptOld(ctx context.Context) error {
	c := orderv1connect.NewProcessingServiceClient(w.owner.Client())
	open, err := c.ListMerchantOrders(ctx, &orderv1.ListMerchantOrdersRequest{State: orderv1.Consignment_STATE_OPEN, PageSize: 50})
	req := &orderv1.AcceptOrdersRequest{}
	for _, o := range open.GetOrders() {
		if time.Since(o.GetPlacedAt().AsTime()) > 8*time.Second {
			req.OrderIds = append(req.OrderIds, o.GetOrderId())
		}
	}
	if err == nil && len(req.GetOrderIds()) > 0 {
		_, err = c.AcceptOrders(ctx, req)
	}
	return err
}

// wantLamps buys one of every lamp that the merchants' terminals list, and
// wants to send it back once it is delivered.
func (w *world) wantLamps(ctx context.Context, p *shop.Person) error {
	found, err := catalogv1connect.NewStorefrontServiceClient(p.Client()).SearchListings(ctx, &catalogv1.SearchListingsRequest{Query: "Brass terminal lamp", InStockOnly: true})
	if err != nil {
		return err
	}
	for _, l := range found.GetListings() {
		if w.lamps == nil {
			w.lamps = map[string]string{}
		}
		if w.lamps[l.GetSku()] != "" {
			continue
		}
		cart, err := orderv1connect.NewCartServiceClient(p.Client()).CreateCart(shop.Keyed(ctx), &orderv1.CreateCartRequest{
			Lines: []*orderv1.LineInput{{Sku: l.GetSku(), Quantity: 2}},
		})
		if err != nil {
			return err
		}
		res, err := orderv1connect.NewOrderServiceClient(p.Client()).Checkout(ctx, &orderv1.CheckoutRequest{
			CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), PaymentMethodToken: "tok_ok", ShipTo: p.Home,
		})
		if err != nil {
			return err
		}
		w.lamps[l.GetSku()] = res.GetOrder().GetOrderId()
	}
	c := aftersalev1connect.NewApplicationServiceClient(p.Client())
	for sku, order := range w.lamps {
		may, err := c.CheckApplication(ctx, &aftersalev1.CheckApplicationRequest{OrderId: order})
		if connect.CodeOf(err) == connect.CodeNotFound || err == nil && (len(may.GetLines()) == 0 || may.GetLines()[0].GetFree() < 2) {
			continue // not delivered yet, or asked for before
		}
		if err != nil {
			return err
		}
		if _, err := c.Apply(ctx, &aftersalev1.ApplyRequest{
			ApplicationId: "lamp", OrderId: order, Kind: aftersalev1.Kind_KIND_RETURN, Reason: aftersalev1.Reason_REASON_DEFECTIVE,
			Lines: []*aftersalev1.ApplyLine{{Sku: sku, Quantity: 1}},
		}); err != nil {
			return err
		}
	}
	return nil
}

var (
	heading = regexp.MustCompile(`(?m)^## (.*)$`)
	shell   = regexp.MustCompile("(?s)```sh\n(.*?)```")
	shown   = regexp.MustCompile("(?s)<!-- ([a-zA-Z]+) -->\n(?:\n```go\n.*?```\n)?")
)

// script is the shell of a page in its order, each act with its heading.
func script(page string) string {
	var b strings.Builder
	b.WriteString("set -euo pipefail\n")
	page = heading.ReplaceAllString(page, "```sh\necho '## $1'\n```")
	for _, block := range shell.FindAllStringSubmatch(page, -1) {
		b.WriteString(block[1])
	}
	return b.String()
}

// withFunctions puts behind each "<!-- name -->" of a page the function of that
// name.
func withFunctions(t *testing.T, page, source string) string {
	t.Helper()
	b, err := os.ReadFile(source)
	require.NoError(t, err)
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, source, b, 0)
	require.NoError(t, err)
	text := map[string]string{}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			text[f.Name.Name] = string(b[fset.Position(f.Pos()).Offset:fset.Position(f.End()).Offset])
		}
	}
	return shown.ReplaceAllStringFunc(page, func(found string) string {
		name := shown.FindStringSubmatch(found)[1]
		require.Contains(t, text, name, "%s has no such function", source)
		return "<!-- " + name + " -->\n\n```go\n" + text[name] + "\n```\n"
	})
}

package shop

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// Data is the real trade, read.
type Data struct {
	Articles []trade.Article
	Invoices []trade.Invoice
	// Refused rows by reason.
	Refused map[string]int
}

// ReadData reads the vendored files.
func ReadData(root string) (*Data, error) {
	d := &Data{Refused: make(map[string]int)}
	refuse := func(r trade.Refusal) { d.Refused[r.Reason]++ }
	dir := filepath.Join(root, "examples", "marketplace", "data")
	f, err := os.Open(filepath.Join(dir, "catalogue.csv"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if d.Articles, err = trade.ReadCatalogue(f, refuse); err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(d.Articles))
	for _, a := range d.Articles {
		known[a.Code] = true
	}
	g, err := os.Open(filepath.Join(dir, "invoices.csv.gz"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = g.Close() }()
	z, err := gzip.NewReader(g)
	if err != nil {
		return nil, err
	}
	d.Invoices, err = trade.ReadInvoices(z, func(code string) bool { return known[code] }, refuse)
	return d, err
}

// Goods are the articles in the catalogue of the running shop.
type Goods struct {
	mu sync.RWMutex
	// SKU of each article by its code.
	sku map[string]string
}

// SKU of an article.
func (g *Goods) SKU(code string) string {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.sku[code]
}

const batch = 200

// ByMerchant shares articles out.
func ByMerchant(articles []trade.Article) [][]trade.Article {
	out := make([][]trade.Article, trade.Merchants)
	for _, a := range articles {
		out[a.Merchant] = append(out[a.Merchant], a)
	}
	return out
}

// List has each merchant put its articles into the catalogue, price them in
// every market and show them there. step is told of each article done.
func (s *Shop) List(ctx context.Context, owners []*Person, articles []trade.Article, step func(n int)) (*Goods, error) {
	g := &Goods{sku: make(map[string]string, len(articles))}
	shares := ByMerchant(articles)
	return g, side(ctx, len(owners), 2, func(ctx context.Context, i int) error {
		for part := range parts(shares[i]) {
			if err := s.listPart(ctx, owners[i], g, part); err != nil {
				return fmt.Errorf("merchant %d: %w", i, err)
			}
			step(len(part))
		}
		return nil
	})
}

func parts[T any](all []T) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			n := min(batch, len(all))
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

func (s *Shop) listPart(ctx context.Context, owner *Person, g *Goods, part []trade.Article) error {
	c := catalogv1connect.NewCatalogServiceClient(owner.Client())
	put := &catalogv1.PutProductsRequest{}
	for _, a := range part {
		put.Products = append(put.Products, &catalogv1.Product{
			Titles: []*typev1.LocalizedText{{Language: "en", Text: a.Title}}, Category: a.Category, OriginCountry: a.Origin, HsCode: a.HSCode,
			Variants: []*catalogv1.Variant{{MerchantSku: a.Code, Gtin: a.GTIN, WeightGrams: a.WeightGrams()}},
		})
	}
	res, err := Patient(ctx, func(ctx context.Context) (*catalogv1.PutProductsResponse, error) { return c.PutProducts(ctx, put) })
	if err != nil {
		return err
	}
	prices, listings := &catalogv1.SetPricesRequest{}, &catalogv1.SetListingsRequest{}
	g.mu.Lock()
	for i, p := range res.GetProducts() {
		sku := p.GetVariants()[0].GetSku()
		g.sku[part[i].Code] = sku
		for market := range trade.Currencies {
			price, err := part[i].PriceIn(market)
			if err != nil {
				g.mu.Unlock()
				return err
			}
			prices.Prices = append(prices.Prices, &catalogv1.Price{Sku: sku, Market: market, Amount: price.Proto()})
			listings.Listings = append(listings.Listings, &catalogv1.ListingChange{
				Sku: sku, Market: market, Listed: true, RequiresAuthentication: part[i].Proof != trade.Unproven,
			})
		}
	}
	g.mu.Unlock()
	if _, err := Patient(ctx, func(ctx context.Context) (*catalogv1.SetPricesResponse, error) { return c.SetPrices(ctx, prices) }); err != nil {
		return err
	}
	_, err = Patient(ctx, func(ctx context.Context) (*catalogv1.SetListingsResponse, error) { return c.SetListings(ctx, listings) })
	return err
}

// Receive has each merchant bring what the real shop sold of its articles, but
// for those that must pass inspection. It answers how many units were booked.
func (s *Shop) Receive(ctx context.Context, owners []*Person, g *Goods, articles []trade.Article, step func(n int)) (int64, error) {
	var mu sync.Mutex
	var units int64
	shares := ByMerchant(articles)
	err := side(ctx, len(owners), 2, func(ctx context.Context, i int) error {
		c := warehousev1connect.NewStockServiceClient(owners[i].Client())
		n := 0
		for part := range parts(shares[i]) {
			n++
			req := &warehousev1.ReceiveStockRequest{ReceiptId: fmt.Sprintf("ASN-%d-%03d", i, n)}
			var sum int64
			for _, a := range part {
				if a.Sold > 0 && a.Proof == trade.Unproven {
					req.Lines = append(req.Lines, &warehousev1.ReceiptLine{Sku: g.SKU(a.Code), Quantity: a.Sold})
					sum += a.Sold
				}
			}
			if len(req.GetLines()) > 0 {
				if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ReceiveStockResponse, error) { return receive(ctx, c, req) }); err != nil {
					return fmt.Errorf("merchant %d: %w", i, err)
				}
			}
			mu.Lock()
			units += sum
			mu.Unlock()
			step(len(part))
		}
		return nil
	})
	return units, err
}

package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// PutProducts makes or replaces products, found by the article numbers of
// their variants. A variant that a product no longer has is retired.
func (s *service) PutProducts(ctx context.Context, req *catalogv1.PutProductsRequest) (*catalogv1.PutProductsResponse, error) {
	merchant, err := seller(ctx)
	if err != nil {
		return nil, err
	}
	numbers, err := checkProducts(req.GetProducts())
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*catalogv1.PutProductsResponse, error) {
		if err := alone(ctx, tx, merchant); err != nil {
			return nil, err
		}
		have, err := productsByNumbers(ctx, tx, merchant, numbers)
		if err != nil {
			return nil, err
		}
		p := &putting{merchant: merchant, have: have, taken: make(map[string]bool), at: time.Now().UTC().Truncate(time.Microsecond), res: &catalogv1.PutProductsResponse{}}
		for i, in := range req.GetProducts() {
			if err := p.put(i, in); err != nil {
				return nil, err
			}
		}
		if err := p.write(ctx, tx); err != nil {
			return nil, err
		}
		return p.res, s.showAgain(ctx, tx, p)
	})
}

// checkProducts looks at what the contract's limits cannot say, and gathers
// the article numbers.
func checkProducts(in []*catalogv1.Product) ([]string, error) {
	var numbers []string
	seen := make(map[string]bool)
	for i, p := range in {
		at := fmt.Sprintf("products[%d]", i)
		if err := eachOnce(at+".titles", p.GetTitles()); err != nil {
			return nil, err
		}
		if err := eachOnce(at+".descriptions", p.GetDescriptions()); err != nil {
			return nil, err
		}
		for j, v := range p.GetVariants() {
			at := fmt.Sprintf("%s.variants[%d]", at, j)
			if seen[v.GetMerchantSku()] {
				return nil, fault.Field(at+".merchant_sku", v.GetMerchantSku()+" stands twice in the request")
			}
			seen[v.GetMerchantSku()] = true
			numbers = append(numbers, v.GetMerchantSku())
			if v.GetGtin() != "" {
				if _, err := gs1.GTIN(v.GetGtin()); err != nil {
					return nil, fault.Field(at+".gtin", err.Error())
				}
			}
		}
	}
	return numbers, nil
}

// eachOnce refuses a language that stands twice.
func eachOnce(field string, in []*typev1.LocalizedText) error {
	seen := make(map[string]bool, len(in))
	for _, t := range in {
		if seen[t.GetLanguage()] {
			return fault.Field(field, "the language "+t.GetLanguage()+" stands twice")
		}
		seen[t.GetLanguage()] = true
	}
	return nil
}

// productsByNumbers reads the merchant's products that have any of the
// article numbers, each under every number it has.
func productsByNumbers(ctx context.Context, tx *store.Tx, merchant string, numbers []string) (map[string]*product, error) {
	var found []*product
	err := tx.NewSelect().Model(&found).Relation("Variants", byPlace).
		Where("id IN (SELECT product_id FROM variant WHERE merchant = ? AND merchant_sku IN (?))", merchant, bun.List(numbers)).Scan(ctx)
	out := make(map[string]*product)
	for _, p := range found {
		for _, v := range p.Variants {
			out[v.MerchantSKU] = p
		}
	}
	return out, err
}

// putting is a PutProducts under way.
type putting struct {
	merchant string
	have     map[string]*product // by article number
	taken    map[string]bool     // products the request names already
	at       time.Time
	res      *catalogv1.PutProductsResponse
	products []*product
	variants []*variant
	// changed are skus whose listings are made anew, retired ones taken away.
	changed, retired []string
}

// put decides what becomes of one product of the request.
func (p *putting) put(i int, in *catalogv1.Product) error {
	var old *product
	for _, v := range in.GetVariants() {
		switch found := p.have[v.GetMerchantSku()]; {
		case found == nil || found == old:
		case old != nil || p.taken[found.ID]:
			return fault.New(connect.CodeFailedPrecondition, "VARIANT_ELSEWHERE", fmt.Sprintf(
				"products[%d]: the article number %s belongs to another product; a variant stays with its product", i, v.GetMerchantSku()),
				"merchant_sku", v.GetMerchantSku())
		default:
			old = found
		}
	}
	made := &product{
		ID: id.New("prd"), Merchant: p.merchant, Titles: texts(in.GetTitles()), Descriptions: texts(in.GetDescriptions()),
		Brand: in.GetBrand(), Category: in.GetCategory(), OriginCountry: in.GetOriginCountry(), HSCode: in.GetHsCode(), UpdatedAt: p.at,
	}
	known := make(map[string]*variant)
	if old != nil {
		p.taken[old.ID], made.ID = true, old.ID
		for _, v := range old.Variants {
			known[v.MerchantSKU] = v
		}
	}
	for n, v := range in.GetVariants() {
		sku := id.New("sku")
		if k := known[v.GetMerchantSku()]; k != nil {
			sku = k.SKU
			delete(known, v.GetMerchantSku())
		}
		attributes := v.GetAttributes()
		if attributes == nil {
			attributes = map[string]string{}
		}
		made.Variants = append(made.Variants, &variant{
			SKU: sku, ProductID: made.ID, N: int16(n), Merchant: p.merchant, MerchantSKU: v.GetMerchantSku(),
			GTIN: v.GetGtin(), Attributes: attributes, WeightGrams: v.GetWeightGrams(),
		})
	}
	out := made.proto()
	p.res.Products = append(p.res.Products, out)
	switch {
	case old == nil:
		p.res.Created++
	case same(old.proto(), out):
		p.res.Unchanged++
		out.UpdatedAt = timestamppb.New(old.UpdatedAt)
		return nil
	default:
		p.res.Updated++
		p.changed = append(p.changed, made.skus()...)
	}
	for _, v := range known {
		if !v.Retired {
			v.Retired = true
			p.variants, p.retired = append(p.variants, v), append(p.retired, v.SKU)
		}
	}
	p.products, p.variants = append(p.products, made), append(p.variants, made.Variants...)
	return nil
}

func same(old, made *catalogv1.Product) bool {
	old.UpdatedAt = made.GetUpdatedAt()
	return proto.Equal(old, made)
}

// write stores what changed: products, then variants, each with one statement.
func (p *putting) write(ctx context.Context, tx *store.Tx) error {
	if len(p.products) == 0 {
		return nil
	}
	q := tx.NewInsert().Model(&p.products).On("CONFLICT (id) DO UPDATE")
	for _, c := range []string{"titles", "descriptions", "brand", "category", "origin_country", "hs_code", "updated_at"} {
		q = q.Set("? = EXCLUDED.?", bun.Ident(c), bun.Ident(c))
	}
	if _, err := q.Exec(ctx); err != nil {
		return fmt.Errorf("products: %w", err)
	}
	q = tx.NewInsert().Model(&p.variants).On("CONFLICT (sku) DO UPDATE")
	for _, c := range []string{"n", "gtin", "attributes", "weight_grams", "retired"} {
		q = q.Set("? = EXCLUDED.?", bun.Ident(c), bun.Ident(c))
	}
	if _, err := q.Exec(ctx); err != nil {
		return fmt.Errorf("variants: %w", err)
	}
	for _, made := range p.products {
		if err := tx.Publish(&catalogv1.ProductChanged{ProductId: made.ID, MerchantId: p.merchant, Skus: made.skus(), Goods: made.goods()}); err != nil {
			return err
		}
	}
	return nil
}

// GetProduct tells a product of the caller's.
func (s *service) GetProduct(ctx context.Context, req *catalogv1.GetProductRequest) (*catalogv1.GetProductResponse, error) {
	found, err := s.products(ctx, func(q *bun.SelectQuery) *bun.SelectQuery { return q.Where("id = ?", req.GetProductId()) })
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fault.New(connect.CodeNotFound, "PRODUCT_UNKNOWN", "no such product")
	}
	return &catalogv1.GetProductResponse{Product: found[0].proto()}, nil
}

// productsPage is a page of ListProducts when nobody says how long.
const productsPage = 50

// ListProducts pages by id, which rises with the time of making.
func (s *service) ListProducts(ctx context.Context, req *catalogv1.ListProductsRequest) (*catalogv1.ListProductsResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = productsPage
	}
	var after string
	if err := (token{&after}).decode(req.GetPageToken()); err != nil {
		return nil, err
	}
	found, err := s.products(ctx, func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("id > ?", after).Order("id").Limit(int64(size) + 1)
	})
	if err != nil {
		return nil, err
	}
	res := &catalogv1.ListProductsResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = token{found[size-1].ID}.encode()
	}
	for _, p := range found {
		res.Products = append(res.Products, p.proto())
	}
	return res, nil
}

func (s *service) products(ctx context.Context, which func(*bun.SelectQuery) *bun.SelectQuery) ([]*product, error) {
	merchant, err := reader(ctx)
	if err != nil {
		return nil, err
	}
	var found []*product
	q := which(s.db.NewSelect().Model(&found).Relation("Variants", byPlace))
	if merchant != "" {
		q = q.Where("merchant = ?", merchant)
	}
	return found, store.Wrap(q.Scan(ctx))
}

package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// quoteLife is how long a cart's prices hold.
	quoteLife = 30 * time.Minute
	// maxLines bounds a cart.
	maxLines = 500
	// maxTotal keeps an order's total inside the contract's Money.
	maxTotal = 9_000_000_000_000
)

// line is one sku of a cart as its row holds it.
type line struct {
	SKU      string `json:"sku"`
	Merchant string `json:"merchant"`
	Title    string `json:"title"`
	Quantity int64  `json:"quantity"`
	// Unit is the price of one in minor units.
	Unit int64 `json:"unit"`
	// Authenticated: only units that passed inspection will do.
	Authenticated bool `json:"authenticated,omitempty"`
	// What a customs declaration wants to know, of one piece.
	Weight int32  `json:"weight,omitempty"` // grams
	HSCode string `json:"hs,omitempty"`
	Origin string `json:"origin,omitempty"`
	// How many may wait in the market, and for which day they are expected.
	MayWait    int64  `json:"may_wait,omitempty"`
	ExpectedOn string `json:"expected_on,omitempty"`
}

func (l line) total() int64 { return l.Quantity * l.Unit }

type cart struct {
	id, market, account, currency, orderID string
	state                                  orderv1.Cart_State
	lines                                  []line
	quotedAt                               time.Time
}

func (c *cart) total() int64 {
	var sum int64
	for _, l := range c.lines {
		sum += l.total()
	}
	return sum
}

func (c *cart) proto() *orderv1.Cart {
	out := &orderv1.Cart{
		CartId: c.id, Market: c.market, State: c.state, OrderId: c.orderID,
		QuotedAt: timestamppb.New(c.quotedAt), Lines: linesProto(c.currency, c.lines),
	}
	if c.currency != "" {
		out.Total = money(c.currency, c.total())
	}
	return out
}

func linesProto(currency string, lines []line) []*orderv1.Line {
	out := make([]*orderv1.Line, len(lines))
	for i, l := range lines {
		out[i] = &orderv1.Line{
			Sku: l.SKU, MerchantId: l.Merchant, Title: l.Title, Quantity: l.Quantity,
			UnitPrice: money(currency, l.Unit), Total: money(currency, l.total()),
		}
	}
	return out
}

func money(currency string, minor int64) *typev1.Money {
	return &typev1.Money{CurrencyCode: currency, MinorUnits: minor}
}

// want is what a cart is to hold, in the order it was asked for.
type want struct {
	sku      string
	quantity int64
}

// merge sums inputs of one sku and drops what comes to nothing.
func merge(have []line, set bool, in []*orderv1.LineInput) ([]want, error) {
	order := make([]string, 0, len(have)+len(in))
	sum := make(map[string]int64, len(have)+len(in))
	for _, l := range have {
		order, sum[l.SKU] = append(order, l.SKU), l.Quantity
	}
	for _, l := range in {
		q, known := sum[l.GetSku()]
		if !known {
			order = append(order, l.GetSku())
		}
		if set {
			q = 0
		}
		sum[l.GetSku()] = q + l.GetQuantity()
	}
	out := make([]want, 0, len(order))
	for _, sku := range order {
		switch q := sum[sku]; {
		case q > 100_000:
			return nil, fault.Field("lines", "at most 100000 of one sku")
		case q > 0:
			out = append(out, want{sku, q})
		}
	}
	if len(out) > maxLines {
		return nil, fault.Field("lines", "at most 500 different skus")
	}
	return out, nil
}

// quote asks the catalog what the wanted skus cost in a market now.
func (s *service) quote(ctx context.Context, market string, wants []want) (currency string, lines []line, err error) {
	if len(wants) == 0 {
		return "", nil, nil
	}
	req := &catalogv1.QuotePricesRequest{Market: market, Skus: make([]string, len(wants))}
	for i, w := range wants {
		req.Skus[i] = w.sku
	}
	res, err := s.quotes.QuotePrices(ctx, req)
	if err != nil {
		return "", nil, err
	}
	if len(res.GetQuotes()) != len(wants) {
		return "", nil, fmt.Errorf("catalog answered %d quotes for %d skus", len(res.GetQuotes()), len(wants))
	}
	var total int64
	lines = make([]line, len(wants))
	for i, q := range res.GetQuotes() {
		price := q.GetPrice()
		if q.GetSku() != wants[i].sku || price.GetMinorUnits() < 0 || currency != "" && currency != price.GetCurrencyCode() {
			return "", nil, fmt.Errorf("catalog answered a quote that does not fit: %v", q)
		}
		currency = price.GetCurrencyCode()
		if price.GetMinorUnits() > 0 && wants[i].quantity > math.MaxInt64/price.GetMinorUnits() {
			return "", nil, fault.New(connect.CodeOutOfRange, "TOTAL_TOO_LARGE", "the cart's total is too large")
		}
		lines[i] = line{
			SKU: q.GetSku(), Merchant: q.GetMerchantId(), Title: q.GetTitle(), Quantity: wants[i].quantity, Unit: price.GetMinorUnits(),
			Authenticated: q.GetRequiresAuthentication(), Weight: q.GetWeightGrams(), HSCode: q.GetHsCode(), Origin: q.GetOriginCountry(),
			MayWait: q.GetBackorder().GetLimit(), ExpectedOn: q.GetBackorder().GetExpectedOn(),
		}
		if total += lines[i].total(); total > maxTotal || total < 0 {
			return "", nil, fault.New(connect.CodeOutOfRange, "TOTAL_TOO_LARGE", "the cart's total is too large")
		}
	}
	return currency, lines, nil
}

// CreateCart is one statement: the cart's row is its own record of the
// idempotency key.
func (s *service) CreateCart(ctx context.Context, req *orderv1.CreateCartRequest) (*orderv1.CreateCartResponse, error) {
	info := call.From(ctx)
	if info.IdempotencyKey == "" || len(info.IdempotencyKey) > 255 {
		return nil, fault.New(connect.CodeInvalidArgument, fault.ReasonIdempotencyKeyRequired,
			"this method needs the header Idempotency-Key, at most 255 characters: a text of your own that is the same when you repeat the call")
	}
	if k := info.Principal.Kind; k != call.Nobody && k != call.Consumer {
		return nil, fault.New(connect.CodePermissionDenied, "NOT_A_BUYER", "carts are for consumers and guests")
	}
	wants, err := merge(nil, false, req.GetLines())
	if err != nil {
		return nil, err
	}
	currency, lines, err := s.quote(ctx, info.Market, wants)
	if err != nil {
		return nil, err
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, err
	}
	fingerprint := sha256.Sum256(append(body, info.Market...))
	c := &cart{id: id.New("crt"), market: info.Market, account: info.Principal.Account, currency: currency, lines: lines, state: orderv1.Cart_STATE_OPEN}
	stored, err := s.insertCart(ctx, c, info.Principal.String(), info.IdempotencyKey, fingerprint[:])
	if err != nil {
		return nil, err
	}
	if string(stored) != string(fingerprint[:]) {
		return nil, fault.New(connect.CodeAlreadyExists, fault.ReasonIdempotencyKeyReused, "this Idempotency-Key was used for another request; take a new one")
	}
	res := &orderv1.CreateCartResponse{Cart: c.proto()}
	if c.account == "" {
		res.CartSecret = s.secret(c.id)
	}
	return res, nil
}

const insertCart = `INSERT INTO cart AS c (id, market, account, currency, lines, scope, idempotency, fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (scope, idempotency) DO UPDATE SET scope = c.scope
RETURNING id, market, account, state, currency, lines, quoted_at, coalesce(order_id, ''), fingerprint`

// insertCart makes the cart, or reads the one that the key made before.
func (s *service) insertCart(ctx context.Context, c *cart, scope, key string, fingerprint []byte) ([]byte, error) {
	doc, err := json.Marshal(c.lines)
	if err != nil {
		return nil, err
	}
	if c.lines == nil {
		doc = []byte("[]")
	}
	var stored []byte
	err = scanCart(s.db.Row(ctx, insertCart, c.id, c.market, c.account, c.currency, string(doc), scope, key, fingerprint), c, &stored)
	return stored, store.Wrap(err)
}

const cartColumns = `id, market, account, state, currency, lines, quoted_at, coalesce(order_id, '')`

func scanCart(row interface{ Scan(...any) error }, c *cart, more ...any) error {
	var doc []byte
	var state int16
	if err := row.Scan(append([]any{&c.id, &c.market, &c.account, &state, &c.currency, &doc, &c.quotedAt, &c.orderID}, more...)...); err != nil {
		return err
	}
	c.state, c.lines = orderv1.Cart_State(state), nil
	return json.Unmarshal(doc, &c.lines)
}

// errNoCart is answered for a cart that is not there and for one that is
// somebody else's alike.
func errNoCart() error {
	return fault.New(connect.CodeNotFound, "CART_UNKNOWN", "there is no such cart, or it is not yours: check cart_id and, for a guest's, cart_secret")
}

// mayOpen tells whether the caller may open a cart, or what it became.
func (s *service) mayOpen(ctx context.Context, cartID, account, secret string) bool {
	if account != "" {
		p := call.From(ctx).Principal
		return p.Kind == call.Consumer && p.Account == account
	}
	return hmac.Equal([]byte(secret), []byte(s.secret(cartID)))
}

// secret of a guest's cart: derived, so that it need not be stored.
func (s *service) secret(cartID string) string {
	m := hmac.New(sha256.New, s.cartKey)
	m.Write([]byte(cartID))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// loadCartKey reads the key of guests' secrets, and makes it once.
func loadCartKey(ctx context.Context, db *store.DB) ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	err := db.Row(ctx, `INSERT INTO cart_key AS k (key) VALUES ($1) ON CONFLICT (one) DO UPDATE SET key = k.key RETURNING key`, key).Scan(&key)
	return key, err
}

func (s *service) cart(ctx context.Context, cartID, secret string) (*cart, error) {
	c := &cart{}
	err := scanCart(s.db.Row(ctx, `SELECT `+cartColumns+` FROM cart WHERE id = $1`, cartID), c)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !s.mayOpen(ctx, c.id, c.account, secret) {
		return nil, errNoCart()
	}
	return c, store.Wrap(err)
}

// GetCart answers a cart to its owner.
func (s *service) GetCart(ctx context.Context, req *orderv1.GetCartRequest) (*orderv1.GetCartResponse, error) {
	c, err := s.cart(ctx, req.GetCartId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	return &orderv1.GetCartResponse{Cart: c.proto()}, nil
}

// SetCartLines sets quantities and quotes all lines anew.
func (s *service) SetCartLines(ctx context.Context, req *orderv1.SetCartLinesRequest) (*orderv1.SetCartLinesResponse, error) {
	c, err := s.cart(ctx, req.GetCartId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	wants, err := merge(c.lines, true, req.GetLines())
	if err != nil {
		return nil, err
	}
	if err := s.requote(ctx, c, wants); err != nil {
		return nil, err
	}
	return &orderv1.SetCartLinesResponse{Cart: c.proto()}, nil
}

// requote gives an open cart new lines at the prices of now. A cart that
// changed meanwhile is left alone: aborted.
func (s *service) requote(ctx context.Context, c *cart, wants []want) error {
	currency, lines, err := s.quote(ctx, c.market, wants)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(append([]line{}, lines...))
	if err != nil {
		return err
	}
	before := c.quotedAt
	err = scanCart(s.db.Row(ctx, `UPDATE cart SET currency = $3, lines = $4, quoted_at = now()
		WHERE id = $1 AND state = 1 AND quoted_at = $2 RETURNING `+cartColumns, c.id, before, currency, string(doc)), c)
	if errors.Is(err, sql.ErrNoRows) {
		return fault.Retry(fault.New(connect.CodeAborted, "CART_BUSY", "the cart changed or is being checked out; read it and try again"), 100*time.Millisecond)
	}
	return store.Wrap(err)
}

package e2e_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	createCart  = "/entrepot.order.v1.CartService/CreateCart"
	checkout    = "/entrepot.order.v1.OrderService/Checkout"
	getOrder    = "/entrepot.order.v1.OrderService/GetOrder"
	sumOrders   = "/entrepot.order.v1.OrderService/SumOrders"
	setPrices   = "/entrepot.catalog.v1.CatalogService/SetPrices"
	putProducts = "/entrepot.catalog.v1.CatalogService/PutProducts"
	receive     = "/entrepot.warehouse.v1.StockService/ReceiveStock"
	adjust      = "/entrepot.warehouse.v1.StockService/AdjustStock"
	register    = "/entrepot.identity.v1.IdentityService/RegisterConsumer"

	nobodysOrder = "ord_00000000000000000000000000"
	nobodysCart  = "crt_00000000000000000000000000"
)

// wrong is a request that is refused, and how.
type wrong struct {
	what string
	request
	// code is the Connect code; reason the stable one, where the refusal has
	// it; about is what the message names.
	code, reason, about string
}

// json is a POST of a JSON text with further headers in pairs.
func jsonTo(path, body string, headers ...string) request {
	q := request{path: path, body: []byte(body), header: map[string]string{"Content-Type": "application/json"}}
	for i := 0; i+1 < len(headers); i += 2 {
		q.header[headers[i]] = headers[i+1]
	}
	return q
}

// hold sends wrong requests: each gets a clear error, the shop goes on
// serving, and no row anywhere is changed.
func hold(t *testing.T, cases []wrong) {
	t.Helper()
	db := open.superuser(t)
	open.books(t)
	before := open.calm(t, db)
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			a := open.do(t, c.request)
			a.clear(t, c.code)
			if c.reason != "" {
				require.Equal(t, c.reason, a.reason, "%s", a.body)
			}
			require.Contains(t, a.message, c.about)
			open.serves(t)
			require.Equal(t, before, fingerprint(t, db), "nothing was written")
		})
	}
}

// What cannot be read is refused before anybody acts on it.
func TestWhatCannotBeReadIsRefused(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	hold(t, []wrong{
		{what: "JSON that breaks off", request: jsonTo(search, `{"query": "lan`), code: "invalid_argument"},
		{what: "JSON of another shape", request: jsonTo(search, `["query"]`), code: "invalid_argument"},
		{what: "a number where a text belongs", request: jsonTo(search, `{"query": 7}`), code: "invalid_argument"},
		{what: "a text where a number belongs", request: jsonTo(search, `{"pageSize": "many"}`), code: "invalid_argument"},
		{what: "JSON nested without end", request: jsonTo(search, strings.Repeat(`{"listings":[`, 20000)), code: "invalid_argument"},
		{what: "no protobuf", request: request{path: search, header: map[string]string{"Content-Type": "application/proto"}, body: []byte("\xff\xff\xff\xff")}, code: "invalid_argument"},
		{what: "protobuf that promises more than it holds", request: request{path: search, header: map[string]string{"Content-Type": "application/proto"}, body: []byte("\x0a\xff\xff\xff\xff\x07x")}, code: "invalid_argument"},
		{what: "text that is no UTF-8", request: request{path: search, header: map[string]string{"Content-Type": "application/proto"}, body: []byte("\x0a\x02\xff\xfe")}, code: "invalid_argument"},
		{what: "a text that no database holds", request: jsonTo(search, `{"query": "a\u0000b"}`), code: "invalid_argument", about: "query"},
		{what: "the same for the kernel", request: jsonTo(register, `{"email": "a@b.example", "password": "correct horse battery", "name": "a\u0000b", "market": "GB"}`), code: "invalid_argument", about: "name"},
		{what: "a body beyond every bound", request: jsonTo(search, `{"query": "`+long+`"}`), code: "resource_exhausted", reason: "BODY_TOO_LARGE"},
		{what: "a body beyond every bound for a module that writes", request: jsonTo(putProducts, `{"products": "`+long+`"}`, "Authorization", bearer(t)), code: "resource_exhausted", reason: "BODY_TOO_LARGE"},
		{what: "a query that does not parse", request: request{method: http.MethodGet, path: search + "?connect=v1&encoding=json&message={"}, code: "invalid_argument"},
		{what: "a method that nobody serves", request: jsonTo("/entrepot.catalog.v1.StorefrontService/Haggle", `{}`), code: "unimplemented", reason: "METHOD_UNKNOWN"},
		{what: "a service that nobody serves", request: jsonTo("/entrepot.nowhere.v1.Service/Get", `{}`), code: "unimplemented", reason: "METHOD_UNKNOWN"},
	})
}

// Requests that are no calls at all are told so in HTTP's own words.
func TestWhatIsNoCallIsToldSo(t *testing.T) {
	for _, c := range []struct {
		what   string
		status int
		request
	}{
		{"a content type that no protocol has", http.StatusUnsupportedMediaType, request{path: search, header: map[string]string{"Content-Type": "text/xml"}, body: []byte("<query/>")}},
		{"no content type", http.StatusUnsupportedMediaType, request{path: search, body: []byte("{}")}},
		{"GET of what has effects", http.StatusMethodNotAllowed, request{method: http.MethodGet, path: createCart + "?connect=v1&encoding=json&message={}"}},
		{"PUT", http.StatusMethodNotAllowed, request{method: http.MethodPut, path: search, header: map[string]string{"Content-Type": "application/json"}, body: []byte("{}")}},
		{"a path out of the folder", http.StatusNotFound, request{method: http.MethodGet, path: "/../../etc/passwd"}},
		{"a webhook of nobody", http.StatusNotFound, request{path: "/webhooks/nobody", body: []byte("{}")}},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := open.do(t, c.request)
			require.Equal(t, c.status, a.status, "%s", a.body)
			require.NotRegexp(t, inside, string(a.body))
			open.serves(t)
		})
	}
}

// A small request that unpacks to a large one is not unpacked.
func TestABodyThatUnpacksToAHugeOneIsRefused(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(bytes.Repeat([]byte(" "), 128<<20))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.Less(t, packed.Len(), 1<<20)
	before := resident(t, open.PID())
	a := open.do(t, jsonTo(search, packed.String(), "Content-Encoding", "gzip"))
	require.Contains(t, []string{"unimplemented", "resource_exhausted"}, a.code, "%s", a.body)
	require.Less(t, resident(t, open.PID())-before, int64(64<<20), "the kernel did not unpack it")
	open.serves(t)
}

// Amounts and quantities are what the contracts say, in the currency of the
// market they are for.
func TestAmountsAndQuantitiesOutOfBoundsAreRefused(t *testing.T) {
	sku := open.article(t, 5)
	dear := open.article(t, 5)
	merchant := bearer(t)
	price := func(sku, market, currency, minor string) string {
		return fmt.Sprintf(`{"prices": [{"sku": %q, "market": %q, "amount": {"currencyCode": %q, "minorUnits": %s}}]}`, sku, market, currency, minor)
	}
	line := func(quantity string) string {
		return fmt.Sprintf(`{"lines": [{"sku": %q, "quantity": %s}]}`, sku, quantity)
	}
	of := func(what, path, body, code, about string) wrong {
		key := strings.Map(func(r rune) rune { return max(r, '-') }, what)
		return wrong{what: what, request: jsonTo(path, body, "Authorization", merchant, "Idempotency-Key", key), code: code, about: about}
	}
	buys := func(what, body, code, about string) wrong {
		w := of(what, createCart, body, code, about)
		delete(w.header, "Authorization")
		return w
	}
	a := open.do(t, jsonTo(setPrices, price(dear, "GB", "GBP", "9000000000000"), "Authorization", merchant))
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	hold(t, []wrong{
		of("a price in another market's currency", setPrices, price(sku, "GB", "EUR", "100"), "invalid_argument", "prices in GB are in GBP"),
		of("a price in no currency", setPrices, price(sku, "GB", "gbp", "100"), "invalid_argument", "currency_code"),
		of("a negative price", setPrices, price(sku, "GB", "GBP", "-1"), "invalid_argument", "negative"),
		of("a price beyond what money holds", setPrices, price(sku, "GB", "GBP", "9000000000001"), "invalid_argument", "minor_units"),
		of("a price beyond 64 bits", setPrices, price(sku, "GB", "GBP", `"9223372036854775808"`), "invalid_argument", ""),
		of("a price with a fraction", setPrices, price(sku, "GB", "GBP", "1.5"), "invalid_argument", ""),
		of("a price in a market that is none", setPrices, price(sku, "FR", "EUR", "100"), "invalid_argument", "FR"),
		of("a price of nobody's sku", setPrices, price("sku_none", "GB", "GBP", "100"), "not_found", ""),
		of("a negative receipt", receive, fmt.Sprintf(`{"receiptId": "r1", "lines": [{"sku": %q, "quantity": -5}]}`, sku), "invalid_argument", "quantity"),
		of("a receipt beyond every bound", receive, fmt.Sprintf(`{"receiptId": "r2", "lines": [{"sku": %q, "quantity": 1000000001}]}`, sku), "invalid_argument", "quantity"),
		of("a receipt of nobody's sku", receive, `{"receiptId": "r3", "lines": [{"sku": "sku_none", "quantity": 1}]}`, "failed_precondition", ""),
		of("more taken away than there is", adjust, fmt.Sprintf(`{"sku": %q, "delta": -6, "cause": "counted"}`, sku), "failed_precondition", ""),
		buys("a negative quantity", line("-1"), "invalid_argument", "quantity"),
		buys("a quantity beyond every bound", line("100001"), "invalid_argument", "quantity"),
		buys("a quantity beyond 64 bits", line(`"9223372036854775808"`), "invalid_argument", ""),
		buys("a total beyond what money holds", fmt.Sprintf(`{"lines": [{"sku": %q, "quantity": 100000}]}`, dear), "out_of_range", "too large"),
		buys("a sku that is not sold here", `{"lines": [{"sku": "sku_none", "quantity": 1}]}`, "failed_precondition", ""),
	})
}

// Ids that stand for nothing, or for somebody else's, tell nothing.
func TestUnknownIdsAreNotFound(t *testing.T) {
	sku := open.article(t, 5)
	theirs, err := fill(t.Context(), open.Guest("GB"), sku, 1)
	require.NoError(t, err)
	address := `{"recipient": "A", "lines": ["1"], "locality": "L", "countryCode": "GB"}`
	finish := func(id, secret string) string {
		return fmt.Sprintf(`{"cartId": %q, "cartSecret": %q, "shipTo": %s, "email": "a@b.example", "paymentMethodToken": "tok_ok"}`, id, secret, address)
	}
	hold(t, []wrong{
		{what: "an order of nobody", request: jsonTo(getOrder, fmt.Sprintf(`{"orderId": %q}`, nobodysOrder)), code: "not_found"},
		{what: "no id at all", request: jsonTo(getOrder, `{"orderId": "ord_'; DROP TABLE orders; --"}`), code: "invalid_argument", about: "order_id"},
		{what: "a cart of nobody", request: jsonTo(checkout, finish(nobodysCart, "x")), code: "not_found", reason: "CART_UNKNOWN"},
		{what: "somebody else's cart", request: jsonTo(checkout, finish(theirs.id, "guessed")), code: "not_found", reason: "CART_UNKNOWN"},
		{what: "somebody else's cart without a secret", request: jsonTo(checkout, finish(theirs.id, "")), code: "not_found", reason: "CART_UNKNOWN"},
		{what: "a listing of nobody", request: jsonTo("/entrepot.catalog.v1.StorefrontService/GetListing", `{"sku": "sku_none"}`), code: "not_found", reason: "NOT_LISTED"},
		{what: "a page that was never handed out", request: jsonTo(search, `{"pageToken": "AAAA"}`), code: "invalid_argument", about: "page_token"},
		{what: "a cart without a key", request: jsonTo(createCart, `{}`), code: "invalid_argument", reason: "IDEMPOTENCY_KEY_REQUIRED"},
		{what: "an address without a person", request: jsonTo(checkout, fmt.Sprintf(`{"cartId": %q, "cartSecret": %q, "shipTo": {"countryCode": "GB"}, "email": "a@b.example", "paymentMethodToken": "tok_ok"}`, theirs.id, theirs.secret)), code: "invalid_argument", about: "recipient"},
		{what: "no mail address", request: jsonTo(checkout, fmt.Sprintf(`{"cartId": %q, "cartSecret": %q, "shipTo": %s, "email": "nobody", "paymentMethodToken": "tok_ok"}`, theirs.id, theirs.secret, address)), code: "invalid_argument", about: "email"},
		{what: "a password that is too short", request: jsonTo(register, `{"email": "a@b.example", "password": "short", "name": "A"}`), code: "invalid_argument", about: "password"},
	})
	db := open.superuser(t)
	before := fingerprint(t, db)
	again, err := theirs.checkout(t.Context())
	require.NoError(t, err, "the cart was not touched")
	require.NotEqual(t, before, fingerprint(t, db), "an order is seen in the database")
	require.EqualValues(t, 1, again.GetLines()[0].GetQuantity())
}

package e2e_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

// bearer is the header that the merchant's owner calls with.
func bearer(t *testing.T) string {
	t.Helper()
	return "Bearer " + login(t, open.owner.Mail)
}

// login gives an access token of somebody whom the example registered.
func login(t *testing.T, mail string) string {
	t.Helper()
	res, err := identityv1connect.NewIdentityServiceClient(open.Guest("GB").Client()).Login(t.Context(),
		&identityv1.LoginRequest{Email: mail, Password: "correct horse battery staple"})
	require.NoError(t, err)
	return res.GetTokens().GetAccessToken()
}

// Nothing a client sends is believed but its token and its wish for a market.
func TestForgedHeadersHaveNoEffect(t *testing.T) {
	sku := open.article(t, 5)
	operator := "operator;acc_00000000000000000000000000;;;;*"
	hold(t, []wrong{
		{what: "the principal of an operator", request: jsonTo(sumOrders, `{}`, call.HeaderPrincipal, operator), code: "unauthenticated", reason: "LOGIN_REQUIRED"},
		{what: "the principal of a plugin", request: jsonTo("/entrepot.catalog.v1.QuoteService/QuotePrices", fmt.Sprintf(`{"market": "GB", "skus": [%q]}`, sku),
			call.HeaderPrincipal, "plugin;;;;order;", call.HeaderCaller, "order"), code: "permission_denied", reason: "ACCESS_DENIED"},
		{what: "a saga's step", request: jsonTo("/entrepot.order.v1.OrderStepService/PlaceOrder", fmt.Sprintf(`{"orderId": %q}`, nobodysOrder),
			call.HeaderStep, "018f0000-0000-7000-8000-000000000000/4/do/1/last"), code: "permission_denied", reason: "ACCESS_DENIED"},
		{what: "an unknown market", request: jsonTo(search, `{}`, call.HeaderMarket, "FR"), code: "invalid_argument", reason: "MARKET_UNKNOWN", about: "GB, DE, JP"},
		{what: "a market that is none", request: jsonTo(search, `{}`, call.HeaderMarket, "GB'; --"), code: "invalid_argument", reason: "MARKET_UNKNOWN"},
		{what: "a key without end", request: jsonTo(createCart, `{}`, call.HeaderIdempotencyKey, strings.Repeat("k", 201)), code: "invalid_argument", reason: "HEADER_INVALID"},
	})
	// Where the call itself is allowed, the forged headers change nothing.
	honest := open.do(t, jsonTo(search, `{"query": "lantern"}`))
	forged := open.do(t, jsonTo(search, `{"query": "lantern"}`, call.HeaderPrincipal, operator, call.HeaderCaller, "order", call.HeaderInstance, "sandbox-de",
		call.HeaderStep, "018f0000-0000-7000-8000-000000000000/1/do/1", call.HeaderRequestID, "mine"))
	require.Equal(t, http.StatusOK, forged.status, "%s", forged.body)
	require.JSONEq(t, string(honest.body), string(forged.body))
	require.NotEqual(t, "mine", forged.header.Get("X-Request-Id"))
	for name := range forged.header {
		require.False(t, strings.HasPrefix(name, call.Prefix), "%s is for the inside", name)
	}
}

// What plugins say to each other, and the kernel to them, is not for outside;
// and nobody does what is another's to do.
func TestEveryMethodIsForWhomItSays(t *testing.T) {
	buyer, err := open.Consumer(t.Context(), 9001, "GB")
	require.NoError(t, err)
	consumer, merchant := "Bearer "+login(t, buyer.Mail), bearer(t)
	var cases []wrong
	for _, path := range []string{
		"/entrepot.catalog.v1.QuoteService/QuotePrices",
		"/entrepot.warehouse.v1.StockService/ReserveStock",
		"/entrepot.warehouse.v1.StockService/ReleaseReservation",
		"/entrepot.payment.v1.PaymentService/AuthorizePayment",
		"/entrepot.payment.v1.PaymentService/ReversePayment",
		"/entrepot.payment.provider.v1.PaymentProviderService/Capture",
		"/entrepot.order.v1.OrderStepService/RejectOrder",
	} {
		cases = append(cases, wrong{what: "a guest at " + path, request: jsonTo(path, `{}`), code: "permission_denied", reason: "ACCESS_DENIED"},
			wrong{what: "a merchant at " + path, request: jsonTo(path, `{}`, "Authorization", merchant), code: "permission_denied", reason: "ACCESS_DENIED"})
	}
	for _, path := range []string{
		"/entrepot.plugin.v1.LifecycleService/Configure", "/entrepot.plugin.v1.WebhookService/HandleWebhook", "/entrepot.plugin.v1.EventService/Deliver",
		"/entrepot.kernel.v1.VaultService/Reveal", "/entrepot.kernel.v1.BusService/Publish", "/plugin.GRPCController/Shutdown",
	} {
		cases = append(cases, wrong{what: "a guest at " + path, request: jsonTo(path, `{}`), code: "unimplemented", reason: "METHOD_UNKNOWN"})
	}
	for _, path := range []string{putProducts, setPrices, receive, adjust, "/entrepot.order.v1.ProcessingService/AcceptOrders", "/entrepot.identity.v1.MemberService/InviteMember"} {
		cases = append(cases, wrong{what: "a consumer at " + path, request: jsonTo(path, `{}`, "Authorization", consumer), code: "permission_denied", reason: "ACCESS_DENIED"},
			wrong{what: "a guest at " + path, request: jsonTo(path, `{}`), code: "unauthenticated", reason: "LOGIN_REQUIRED"})
	}
	for _, path := range []string{sumOrders, "/entrepot.operator.v1.OperatorService/RestartPlugin", "/entrepot.operator.v1.BusService/Replay",
		"/entrepot.payment.v1.PaymentService/SumPayments", "/entrepot.identity.v1.StaffService/CreateStaff"} {
		cases = append(cases, wrong{what: "a merchant at " + path, request: jsonTo(path, `{}`, "Authorization", merchant), code: "permission_denied", reason: "ACCESS_DENIED"})
	}
	cases = append(cases, wrong{what: "a merchant who buys", request: jsonTo(createCart, `{}`, "Authorization", merchant, "Idempotency-Key", "m"), code: "permission_denied", reason: "NOT_A_BUYER"})
	hold(t, cases)
}

// A token is the kernel's own, whole, and of this hour; every other is as bad
// as the next, whatever it claims.
func TestTokensThatAreNotGoodAreRefused(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(open.Dir, "data", "keys", "identity.json"))
	require.NoError(t, err)
	var keys struct {
		Signing []struct {
			ID   string `json:"kid"`
			Seed []byte `json:"seed"`
		}
	}
	require.NoError(t, json.Unmarshal(raw, &keys))
	own := ed25519.NewKeyFromSeed(keys.Signing[0].Seed)
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	sign := func(method jwt.SigningMethod, key any, age time.Duration, change func(jwt.MapClaims)) string {
		at := time.Now().Add(-age)
		claims := jwt.MapClaims{"iss": "entrepot", "sub": "acc_00000000000000000000000000", "knd": "operator", "prm": []string{"*"},
			"iat": at.Unix(), "exp": at.Add(15 * time.Minute).Unix()}
		if change != nil {
			change(claims)
		}
		token := jwt.NewWithClaims(method, claims)
		token.Header["kid"] = keys.Signing[0].ID
		signed, err := token.SignedString(key)
		require.NoError(t, err)
		return signed
	}
	good := sign(jwt.SigningMethodEdDSA, own, 0, nil)
	require.Equal(t, http.StatusOK, open.do(t, jsonTo(sumOrders, `{}`, "Authorization", "Bearer "+good)).status, "the test signs as the kernel does")
	parts := strings.Split(good, ".")
	var cases []wrong
	for what, header := range map[string]string{
		"expired":                     "Bearer " + sign(jwt.SigningMethodEdDSA, own, time.Hour, nil),
		"of tomorrow":                 "Bearer " + sign(jwt.SigningMethodEdDSA, own, -24*time.Hour, nil),
		"without an end":              "Bearer " + sign(jwt.SigningMethodEdDSA, own, 0, func(c jwt.MapClaims) { delete(c, "exp") }),
		"of another issuer":           "Bearer " + sign(jwt.SigningMethodEdDSA, own, 0, func(c jwt.MapClaims) { c["iss"] = "mallory" }),
		"of a plugin":                 "Bearer " + sign(jwt.SigningMethodEdDSA, own, 0, func(c jwt.MapClaims) { c["knd"] = "plugin" }),
		"of another key":              "Bearer " + sign(jwt.SigningMethodEdDSA, other, 0, nil),
		"signed by nobody":            "Bearer " + sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, 0, nil),
		"signed with the public half": "Bearer " + sign(jwt.SigningMethodHS256, []byte(own.Public().(ed25519.PublicKey)), 0, nil),
		"with another's claims":       "Bearer " + parts[0] + "." + strings.Split(bearer(t), ".")[1] + "." + parts[2],
		"cut off":                     "Bearer " + good[:len(good)-4],
		"garbage":                     "Bearer " + "garbage",
		"without end":                 "Bearer " + strings.Repeat("x", 20<<10),
		"of another scheme":           "Basic b3BlcmF0b3I6",
		"nothing":                     "Bearer ",
	} {
		cases = append(cases, wrong{what: what, request: jsonTo(sumOrders, `{}`, "Authorization", header), code: "unauthenticated", reason: "TOKEN_INVALID"},
			wrong{what: what + " at a public method", request: jsonTo(search, `{}`, "Authorization", header), code: "unauthenticated", reason: "TOKEN_INVALID"})
	}
	hold(t, cases)
}

// A client that sends its body a byte a minute holds a connection, not the
// shop.
func TestSlowClientsHoldNobodyElseUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var d net.Dialer
	for range 200 {
		conn, err := d.DialContext(ctx, "tcp", open.Listen)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", search)
		require.NoError(t, err)
	}
	begin := time.Now()
	for range 20 {
		open.serves(t)
	}
	require.Less(t, time.Since(begin), 5*time.Second)
}

// resident is the memory a process holds, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if os.IsNotExist(err) {
		t.Skip("this system does not tell what a process holds")
	}
	require.NoError(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

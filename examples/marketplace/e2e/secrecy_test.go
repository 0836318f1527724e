package e2e_test

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
)

// Everything that tells who somebody is: words that stand nowhere else.
var person = struct {
	name, street, town, postal, phone, recipientMail, orderMail, accountMail, password string
}{
	"Zebedee Quillfeather", "17 Umberslade Passage", "Whixall-under-Marsh", "QX9 7ZV", "+447700900417", "parcels@quillfeather.example",
	"orders@quillfeather.example", "zebedee@quillfeather.example", "a passphrase of Quillfeather",
}

// A person's name, address, mail and phone are in the vault, encrypted, and in
// the mail that goes to them; in no table, no event, no log, no file beside.
func TestNoPersonalDataStandsAnywhereInPlain(t *testing.T) {
	ctx := t.Context()
	identity := identityv1connect.NewIdentityServiceClient(open.Guest("GB").Client())
	_, err := identity.RegisterConsumer(ctx, &identityv1.RegisterConsumerRequest{Email: person.accountMail, Password: person.password, Name: person.name, Market: "GB"})
	require.NoError(t, err)
	_, err = identity.Login(ctx, &identityv1.LoginRequest{Email: person.accountMail, Password: person.password})
	require.Error(t, err, "not confirmed yet, and that is logged")

	address := &typev1.Address{Recipient: person.name, Lines: []string{person.street}, Locality: person.town, PostalCode: person.postal, CountryCode: "GB",
		Phone: person.phone, Email: person.recipientMail}
	sku := open.article(t, 10)
	buyer, err := open.Consumer(ctx, 9002, "GB")
	require.NoError(t, err)
	consumer, err := fill(ctx, buyer.Caller, sku, 1)
	require.NoError(t, err)
	guest, err := fill(ctx, open.Guest("GB"), sku, 1)
	require.NoError(t, err)
	declined, err := fill(ctx, open.Guest("GB"), sku, 1)
	require.NoError(t, err)
	for _, c := range []struct {
		cart
		token string
	}{{consumer, "tok_ok"}, {guest, "tok_ok"}, {declined, "tok_declined"}} {
		orders := orderv1connect.NewOrderServiceClient(c.who.Client())
		res, err := orders.Checkout(ctx, &orderv1.CheckoutRequest{CartId: c.id, CartSecret: c.secret, ShipTo: address, Email: person.orderMail, PaymentMethodToken: c.token})
		if c.token == "tok_declined" {
			require.Error(t, err)
			require.NotContains(t, err.Error(), "Quillfeather")
			continue
		}
		require.NoError(t, err)
		own, err := orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: res.GetOrder().GetOrderId(), CartSecret: c.secret})
		require.NoError(t, err)
		require.Equal(t, person.street, own.GetOrder().GetShipTo().GetLines()[0], "its owner sees it")
	}
	// What is not understood is where texts slip into logs.
	open.do(t, jsonTo(checkout, `{"cartId": "crt_none", "email": "`+person.orderMail+`", "shipTo": {"recipient": "`+person.name+`"}}`))
	open.do(t, jsonTo(checkout, `{"email": "`+person.orderMail+`", `))
	open.books(t)

	needles := []string{"Quillfeather", person.street, "Umberslade", person.town, person.postal, person.phone, person.recipientMail, person.orderMail, person.accountMail}
	dump := open.dump(t)
	require.Contains(t, dump, sku, "the dump shows what is there")
	for _, n := range needles {
		require.NotContains(t, dump, n)
		require.NotContains(t, dump, hex.EncodeToString([]byte(n)), "%s, as bytes", n)
	}
	hits := open.grep(t, append(needles, sku))
	require.NotEmpty(t, hits[sku], "the files show what is there")
	for _, n := range needles {
		require.Empty(t, hits[n], n)
	}
}

// dump is the text of every row of every table that is not PostgreSQL's own.
func (w *world) dump(t *testing.T) string {
	t.Helper()
	conn := w.superuser(t)
	var all strings.Builder
	tables := column[string](t, conn, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`)
	require.Greater(t, len(tables), 30)
	for _, table := range tables {
		for _, row := range column[string](t, conn, "SELECT t::text FROM "+table+" t") {
			all.WriteString(row)
			all.WriteByte('\n')
		}
	}
	return all.String()
}

// grep names the files that hold each of some texts, of all that the
// deployment wrote: its logs, the database's files and their log of changes,
// the payment companies' journals. Mails are excepted, and the plugins' own
// binaries.
func (w *world) grep(t *testing.T, needles []string) map[string][]string {
	t.Helper()
	_, err := w.superuser(t).Exec(t.Context(), "CHECKPOINT")
	require.NoError(t, err)
	hits := map[string][]string{}
	data := filepath.Join(w.Dir, "data")
	require.NoError(t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil // it was there a moment ago
		case err != nil:
			return err
		case path == filepath.Join(data, "mail"), path == filepath.Join(data, "store"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, n := range needles {
			if bytes.Contains(b, []byte(n)) {
				hits[n] = append(hits[n], path)
			}
		}
		return nil
	}))
	return hits
}

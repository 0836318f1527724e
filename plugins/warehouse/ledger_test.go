package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// enter tries an entry as the module's own role.
const enter = `SELECT FROM post($5, $2, $3, ARRAY[$1::text], ARRAY['main'], ARRAY[$4::bigint], ARRAY[''], '', '')`

// Every pair of dispositions under every reason, by raw SQL as the module's
// own role, with goods lying everywhere: the database lets through what the
// table of transitions opens, and nothing else (S5).
func TestTheDatabaseItselfRefusesEveryWayThatNoReasonOpens(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 100})
	_, err := h.Admin.Exec(t.Context(), `UPDATE p_warehouse.stock_balance
		SET external = -400, sellable = 100, reserved = 100, quarantine = 75, damaged = 75, destroyed = 50`)
	require.NoError(t, err)

	open := map[string]bool{
		"receipt external sellable": true, "reservation sellable reserved": true, "release reserved sellable": true,
		"expiry reserved sellable": true, "adjustment external sellable": true, "adjustment sellable external": true,
	}
	for _, reason := range []string{"receipt", "reservation", "release", "expiry", "adjustment", "inspection", "return", ""} {
		for from := range dispositions {
			for to := range dispositions {
				_, err := h.DB.Do(t.Context(), enter, "sku_a", from, to, 1, reason)
				if way := fmt.Sprintf("%s %s %s", reason, from, to); open[way] {
					require.NoError(t, err, way)
				} else {
					require.Equal(t, "WH002", store.SQLState(err), way)
				}
			}
		}
	}
}

// However ways are chained, from what came back or is spoilt none leads to
// sellable in this release.
func TestNoChainOfWaysLeadsFromQuarantineToSellable(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, from := range []string{"quarantine", "damaged", "destroyed"} {
		var reaches bool
		require.NoError(t, h.Admin.QueryRow(t.Context(), `WITH RECURSIVE way(d) AS (SELECT $1::text
			UNION SELECT s.to_disposition FROM way JOIN p_warehouse.stock_transition s ON s.from_disposition = way.d)
			SELECT EXISTS (SELECT FROM way WHERE d = 'sellable')`, from).Scan(&reaches))
		require.False(t, reaches, from)
	}
}

func TestTheModulesOwnRoleCannotBendTheLedger(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10})
	cases := []struct{ name, state, sql string }{
		{"more than there is", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a}', '{main}', '{11}', '{x}', '', '')`},
		{"more than there is, in parts", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a,sku_a}', '{main,main}', '{6,5}', '{x,y}', '', '')`},
		{"of what never was", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a,sku_b}', '{main,main}', '{1,1}', '{x,x}', '', '')`},
		{"nobody's sku", "WH003", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_none}', '{main}', '{1}', '{x}', '', '')`},
		{"nothing", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{0}', '{x}', '', '')`},
		{"less than nothing", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{-5}', '{x}', '', '')`},
		{"less than nothing, hidden in a sum", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a,sku_a}', '{main,main}', '{-5,9}', '{x,x}', '', '')`},
		{"lists of unequal length", "23502", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{1}', '{}', '', '')`},
		{"an entry past the function", "42501", `INSERT INTO stock_move (sku, site, merchant, from_disposition, to_disposition, quantity, reason, reference, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version) VALUES ('sku_a', 'main', 'mrc_one', 'external', 'sellable', 1, 'receipt', '', '', '', 0, 0, 0, 0, 0, 9)`},
		{"changing an entry", "42501", `UPDATE stock_move SET quantity = 1`},
		{"deleting an entry", "42501", `DELETE FROM stock_move`},
		{"emptying the ledger", "42501", `TRUNCATE stock_move`},
		{"changing a balance", "42501", `UPDATE stock_balance SET sellable = sellable + 1, external = external - 1`},
		{"making a balance", "42501", `INSERT INTO stock_balance (sku, site, merchant) VALUES ('sku_b', 'main', 'mrc_one')`},
		{"opening a way", "42501", `INSERT INTO stock_transition VALUES ('x', 'quarantine', 'sellable')`},
		{"giving goods away", "42501", `UPDATE stock_item SET merchant = 'mrc_two'`},
		{"prolonging a reservation", "42501", `UPDATE reservation SET expires_at = NULL`},
		{"another function", "42501", `CREATE OR REPLACE FUNCTION p_warehouse.lock_stock(p_skus text[]) RETURNS TABLE (sku text, site text, sellable bigint) LANGUAGE sql AS 'SELECT 1, 1, 1'`},
		{"a function of its own", "42501", `CREATE FUNCTION p_warehouse.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'`},
		{"a table in front of another", "42501", `CREATE TEMP TABLE stock_transition (x int)`},
	}
	for _, c := range cases {
		_, err := h.DB.Do(t.Context(), c.sql)
		require.Equal(t, c.state, store.SQLState(err), "%s: %v", c.name, err)
	}
	h.consistent(t)
}

// S1, S2, S3, S7: whatever is done in whatever order, a model of what must
// stand there agrees with the balances, and the ledger replays to them.
func TestWhateverIsDoneTheLedgerAgreesWithAModel(t *testing.T) {
	t.Parallel()
	h := open(t)
	skus, sites := []string{"sku_a", "sku_b", "sku_c"}, []string{"main", "east"}
	// The model lives through all runs, as the database does.
	sellable, reserved := map[string]int64{}, map[string]int64{}
	held := map[string]map[string]int64{} // by reservation, by sku
	lapses := map[string]bool{}
	key := 0
	rapid.Check(t, func(rt *rapid.T) {
		rt.Repeat(map[string]func(*rapid.T){
			"receive": func(rt *rapid.T) {
				sku, n := rapid.SampledFrom(skus).Draw(rt, "sku"), rapid.Int64Range(1, 20).Draw(rt, "quantity")
				_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{
					ReceiptId: id.New("grn"), Site: rapid.SampledFrom(sites).Draw(rt, "site"), Lines: []*warehousev1.ReceiptLine{{Sku: sku, Quantity: n}},
				})
				require.NoError(rt, err)
				sellable[sku] += n
			},
			"adjust": func(rt *rapid.T) {
				sku, site := rapid.SampledFrom(skus).Draw(rt, "sku"), rapid.SampledFrom(sites).Draw(rt, "site")
				n := rapid.Int64Range(-10, 10).Filter(func(n int64) bool { return n != 0 }).Draw(rt, "delta")
				before := h.level(t, sku, site).GetSellable()
				key++
				_, err := h.keyed(fmt.Sprint(key)).AdjustStock(t.Context(), &warehousev1.AdjustStockRequest{Sku: sku, Site: site, Delta: n, Cause: "stocktake"})
				require.Equal(rt, before+n < 0, err != nil, "%v", err)
				if err == nil {
					sellable[sku] += n
				}
			},
			"reserve": func(rt *rapid.T) {
				req, want, enough := reservationOf(), map[string]int64{}, true
				for _, sku := range rapid.SliceOfNDistinct(rapid.SampledFrom(skus), 1, 3, rapid.ID[string]).Draw(rt, "skus") {
					want[sku] = rapid.Int64Range(1, 15).Draw(rt, "quantity")
					req.Lines = append(req.Lines, line(sku, want[sku]))
					enough = enough && sellable[sku] >= want[sku]
				}
				if rapid.Bool().Draw(rt, "lapses") {
					req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Minute))
				}
				_, err := h.orders.ReserveStock(t.Context(), req)
				require.Equal(rt, enough, err == nil, "%v", err)
				if err != nil {
					require.Equal(rt, "OUT_OF_STOCK", fault.Reason(err))
					return
				}
				held[req.GetReservationId()], lapses[req.GetReservationId()] = want, req.GetExpiresAt() != nil
				for sku, n := range want {
					sellable[sku] -= n
					reserved[sku] += n
				}
			},
			"release": func(rt *rapid.T) {
				for rsv, lines := range held {
					_, err := h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: rsv})
					require.NoError(rt, err)
					giveUp(held, rsv, lines, sellable, reserved)
					return
				}
			},
			"expire": func(*rapid.T) {
				h.tick(t)
				for rsv, lines := range held {
					if lapses[rsv] {
						giveUp(held, rsv, lines, sellable, reserved)
					}
				}
			},
			"": func(rt *rapid.T) {
				res, err := h.staff.GetStock(t.Context(), &warehousev1.GetStockRequest{Skus: skus})
				require.NoError(rt, err)
				s, r := map[string]int64{}, map[string]int64{}
				for _, l := range res.GetLevels() {
					s[l.GetSku()] += l.GetSellable()
					r[l.GetSku()] += l.GetReserved()
				}
				for _, sku := range skus {
					require.Equal(rt, sellable[sku], s[sku], "sellable %s", sku)
					require.Equal(rt, reserved[sku], r[sku], "reserved %s", sku)
				}
			},
		})
		h.consistent(rt)
	})
}

func giveUp(held map[string]map[string]int64, rsv string, lines, sellable, reserved map[string]int64) {
	for sku, n := range lines {
		sellable[sku] += n
		reserved[sku] -= n
	}
	delete(held, rsv)
}

// A ledger that was tampered with as its owner is found out.
func TestATamperedBalanceIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, tamper := range map[string]string{
		"a balance":       `UPDATE p_warehouse.stock_balance SET sellable = sellable + 1, external = external - 1`,
		"a removed entry": `DELETE FROM p_warehouse.stock_move WHERE id = 1`,
		"an added entry": `INSERT INTO p_warehouse.stock_move
			(sku, site, merchant, from_disposition, to_disposition, quantity, reason, reference, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version)
			VALUES ('sku_a', 'east', 'mrc_one', 'external', 'sellable', 1, 'receipt', '', '', '', 0, 0, 0, 0, 0, 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			h.stock(t, "", map[string]int64{"sku_a": 10})
			h.stock(t, "", map[string]int64{"sku_a": 10})
			h.consistent(t)
			_, err := h.Admin.Exec(t.Context(), tamper)
			require.NoError(t, err)
			sum, err := h.staff.SumStock(t.Context(), &warehousev1.SumStockRequest{})
			require.NoError(t, err)
			require.False(t, sum.GetConsistent())
		})
	}
}

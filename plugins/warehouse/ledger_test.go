package main

import (
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// enter has its caller try an entry of one piece of sku_a under every reason
// on every way, and tells the SQLSTATE of each refusal.
const enter = `CREATE FUNCTION p_warehouse.enter(p_reasons text[], p_dispositions text[]) RETURNS TABLE (way text, state text) LANGUAGE plpgsql AS $$
DECLARE r text; f text; t text;
BEGIN
  FOREACH r IN ARRAY p_reasons LOOP FOREACH f IN ARRAY p_dispositions LOOP FOREACH t IN ARRAY p_dispositions LOOP
    way := concat_ws(' ', r, f, t); state := '';
    BEGIN
      PERFORM FROM p_warehouse.post(r, f, t, '{sku_a}', '{main}', '{""}', '{f}', '{}', '{1}', '{""}', '', '', '');
    EXCEPTION WHEN OTHERS THEN state := SQLSTATE;
    END;
    RETURN NEXT;
  END LOOP; END LOOP; END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION p_warehouse.enter(text[], text[]) TO p_warehouse`

// ways are those that the ledger opens, by reason. Those of admission want the pass
// of an inspection.
var ways = map[string][][2]string{
	"notice":       {{"external", "incoming"}},
	"short":        {{"incoming", "external"}},
	"receipt":      {{"external", "sellable receiving damaged"}, {"incoming", "receiving damaged"}},
	"admission":    {{"external inspecting suspect", "receiving"}},
	"put-away":     {{"receiving", "sellable"}},
	"reservation":  {{"sellable", "reserved"}},
	"release":      {{"reserved", "sellable"}},
	"expiry":       {{"reserved", "sellable"}},
	"adjustment":   {{"external", "sellable"}, {"sellable", "external"}},
	"pick":         {{"reserved", "picked"}},
	"pack":         {{"picked", "packed"}},
	"staging":      {{"packed", "outbound"}},
	"hand-over":    {{"outbound", "in_transit"}},
	"cancellation": {{"picked packed outbound", "reserved"}},
	"delivery":     {{"in_transit", "external"}},
	"loss":         {{"in_transit", "external"}},
	"return":       {{"external in_transit", "quarantine"}},
	"grading":      {{"quarantine", "inspecting suspect damaged defective"}},
	"decision":     {{"damaged defective", "repair external disposed"}, {"repair", "inspecting external disposed"}},
	"refusal": {{"inspecting suspect", "damaged repair external destroyed"},
		{"quarantine damaged defective repair expired recalled", "destroyed"}},
	"floor": {{"sellable receiving", "quarantine inspecting suspect damaged defective expired recalled"},
		{"quarantine damaged defective expired recalled", "inspecting suspect"}, {"quarantine damaged defective", "expired recalled"},
		{"expired recalled", "external disposed"}},
}

// Every pair of dispositions under every reason, by raw SQL as the module's
// own role, with goods lying everywhere: the database lets through what the
// table of transitions opens, and nothing else (S5).
func TestTheDatabaseItselfRefusesEveryWayThatNoReasonOpens(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 100})
	columns := "external = -18000"
	for d := range dispositions {
		if d != "external" {
			columns += ", " + d + " = 1000"
		}
	}
	_, err := h.Admin.Exec(t.Context(), `UPDATE p_warehouse.stock_balance SET `+columns)
	require.NoError(t, err)

	open := map[string]string{}
	for reason, list := range ways {
		for _, w := range list {
			for from := range strings.FieldsSeq(w[0]) {
				for to := range strings.FieldsSeq(w[1]) {
					open[reason+" "+from+" "+to] = map[bool]string{true: "WH005"}[reason == "admission"]
				}
			}
		}
	}
	_, err = h.Admin.Exec(t.Context(), enter)
	require.NoError(t, err)
	rows, err := h.DB.Rows(t.Context(), `SELECT e.way, e.state FROM enter($1, $2) e`,
		append(slices.Collect(maps.Keys(ways)), "inspection", ""), slices.Collect(maps.Keys(dispositions)))
	tried := 0
	require.NoError(t, scan(rows, err, func(rows *sql.Rows) error {
		var way, state string
		if err := rows.Scan(&way, &state); err != nil {
			return err
		}
		tried++
		if want, is := open[way]; is {
			require.Equal(t, want, state, way)
		} else {
			require.Equal(t, "WH002", state, way)
		}
		return nil
	}))
	require.Equal(t, (len(ways)+2)*19*19, tried)
}

// However ways are chained inside the house, from what came back, is in doubt
// or is spoilt none leads to where goods are sold from without a pass; out of
// destroyed and disposed none leads at all.
func TestNoChainOfWaysLeadsFromReturnedToSellableWithoutAPass(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, from := range []string{"quarantine", "inspecting", "suspect", "damaged", "defective", "repair", "expired", "recalled", "destroyed", "disposed"} {
		var reached []string
		require.NoError(t, h.Admin.QueryRow(t.Context(), `WITH RECURSIVE way(d) AS (SELECT $1::text
			UNION SELECT s.to_disposition FROM way JOIN p_warehouse.stock_transition s ON s.from_disposition = way.d
			 WHERE NOT s.pass AND s.to_disposition <> 'external') SELECT array_agg(d) FROM way`, from).Scan(&reached))
		for _, d := range []string{"incoming", "receiving", "sellable", "reserved", "picked", "packed", "outbound", "in_transit"} {
			require.NotContains(t, reached, d, from)
		}
		if from == "destroyed" || from == "disposed" {
			require.Equal(t, []string{from}, reached)
		}
	}
	// Not even a later migration can open one by a row.
	for _, row := range []string{
		"('x', 'quarantine', 'sellable', true)", "('x', 'damaged', 'receiving', false)", "('x', 'repair', 'incoming', false)",
		"('x', 'inspecting', 'outbound', true)", "('x', 'destroyed', 'external', false)", "('x', 'disposed', 'receiving', true)",
	} {
		_, err := h.Admin.Exec(t.Context(), "INSERT INTO p_warehouse.stock_transition VALUES "+row)
		require.Equal(t, "23514", store.SQLState(err), row)
	}
}

func TestTheModulesOwnRoleCannotBendTheLedger(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10})
	cases := []struct{ name, state, sql string }{
		{"more than there is", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a}', '{main}', '{""}', '{f}', '{}', '{11}', '{x}', '', '', '')`},
		{"more than there is, in parts", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a,sku_a}', '{main,main}', '{"",""}', '{f,f}', '{}', '{6,5}', '{x,y}', '', '', '')`},
		{"of what never was", "WH001", `SELECT FROM post('reservation', 'sellable', 'reserved', '{sku_a,sku_b}', '{main,main}', '{"",""}', '{f,f}', '{}', '{1,1}', '{x,x}', '', '', '')`},
		{"nobody's sku", "WH003", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_none}', '{main}', '{""}', '{f}', '{}', '{1}', '{x}', '', '', '')`},
		{"nothing", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{""}', '{f}', '{}', '{0}', '{x}', '', '', '')`},
		{"less than nothing", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{""}', '{f}', '{}', '{-5}', '{x}', '', '', '')`},
		{"less than nothing, hidden in a sum", "23514", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a,sku_a}', '{main,main}', '{"",""}', '{f,f}', '{}', '{-5,9}', '{x,x}', '', '', '')`},
		{"lists of unequal length", "23502", `SELECT FROM post('receipt', 'external', 'sellable', '{sku_a}', '{main}', '{""}', '{f}', '{}', '{1}', '{}', '', '', '')`},
		{"an entry past the function", "42501", `INSERT INTO stock_move (sku, site, lot, authenticated, unit, merchant, from_disposition, to_disposition, quantity, reason, reference, case_id, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version) VALUES ('sku_a', 'main', '', false, '', 'mrc_one', 'external', 'sellable', 1, 'receipt', '', '', '', '', 0, 0, 0, 0, 0, 9)`},
		{"changing an entry", "42501", `UPDATE stock_move SET quantity = 1`},
		{"deleting an entry", "42501", `DELETE FROM stock_move`},
		{"emptying the ledger", "42501", `TRUNCATE stock_move`},
		{"changing a balance", "42501", `UPDATE stock_balance SET sellable = sellable + 1, external = external - 1`},
		{"making a balance", "42501", `INSERT INTO stock_balance (sku, site, lot, authenticated, merchant) VALUES ('sku_b', 'main', '', false, 'mrc_one')`},
		{"opening a way", "42501", `INSERT INTO stock_transition VALUES ('x', 'quarantine', 'sellable')`},
		{"giving goods away", "42501", `UPDATE stock_item SET merchant = 'mrc_two'`},
		{"prolonging a reservation", "42501", `UPDATE reservation SET expires_at = NULL`},
		{"another function", "42501", `CREATE OR REPLACE FUNCTION p_warehouse.record_pass(p_position bigint) RETURNS void LANGUAGE sql AS 'SELECT 1'`},
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
		acts := map[string]func(*rapid.T){
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
		}
		for range rapid.IntRange(5, 20).Draw(rt, "acts") {
			acts[rapid.SampledFrom(slices.Sorted(maps.Keys(acts))).Draw(rt, "act")](rt)
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
		}
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
			(sku, site, lot, authenticated, unit, merchant, from_disposition, to_disposition, quantity, reason, reference, case_id, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version)
			VALUES ('sku_a', 'east', '', false, '', 'mrc_one', 'external', 'sellable', 1, 'receipt', '', '', '', '', 0, 0, 0, 0, 0, 1)`,
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

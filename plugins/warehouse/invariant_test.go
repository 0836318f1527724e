package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// yard does everything that goods can meet, with serials and without, without
// asking first whether it can be done: the warehouse knows, and refuses. It is
// safe for concurrent use but for its draw.
type yard struct {
	*house
	in, floor, office desk
	goods             warehousev1connect.GoodsStepServiceClient

	events sync.Mutex // deliveries of one subscription come one by one
	mu     sync.Mutex
	known  []string // reservations, returns, cases, gradings that there may be
	cases  []waiting
	rmas   []string
	grades []string
	// repairs are gradings whose goods were sent to repair.
	repairs []string
}

// waiting is an inspection that was asked for.
type waiting struct {
	id       string
	quantity int64
	units    []string
	returned bool
}

func openYard(t *testing.T) *yard {
	h := open(t)
	return &yard{house: h, in: h.desk(member("mrc_one")), floor: h.desk(worker("acc_1")), office: h.desk(worker("acc_2")), goods: h.goods()}
}

var yardUnits = []string{"unt_1", "unt_2", "unt_3", "unt_4"}

const yardSKU = "sku_a"

// draw is a source of choices: rapid's, or a goroutine's own.
type draw func(n int) int

// step does one thing, chosen by draw, and answers its error, which says what
// was done.
func (y *yard) step(ctx context.Context, pick draw) error {
	all := []struct {
		name string
		do   func(context.Context, draw) error
	}{
		{"receive", y.receive}, {"admit", y.admitConsignment}, {"put away", y.putAwaySome}, {"reserve", y.reserveSome}, {"release", y.releaseSome},
		{"sell", y.sellSome}, {"authorise", y.authorise}, {"register", y.register}, {"grade", y.grade}, {"doubt", y.doubt},
		{"verdict", y.verdict}, {"decide", y.decide}, {"recount", y.recount}, {"expire", y.expire},
	}
	one := all[pick(len(all))]
	if err := one.do(ctx, pick); err != nil {
		return fmt.Errorf("%s: %w", one.name, err)
	}
	return nil
}

// some is a serial or a quantity.
func some(pick draw) (quantity int64, units []string) {
	if pick(2) == 0 {
		return 1, []string{yardUnits[pick(len(yardUnits))]}
	}
	return int64(1 + pick(4)), nil
}

func (y *yard) keep(list *[]string, s string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	*list = append(*list, s)
}

func (y *yard) one(list *[]string, pick draw) string {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(*list) == 0 {
		return "ret_none"
	}
	return recent(*list, pick)
}

// recent is one of the last few: what is older has mostly been decided.
func recent[T any](list []T, pick draw) T { return list[len(list)-1-pick(min(len(list), 6))] }

func (y *yard) receive(ctx context.Context, pick draw) error {
	_, err := y.in.stock.ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{ReceiptId: id.New("grn"), Lines: []*warehousev1.ReceiptLine{{Sku: yardSKU, Quantity: int64(1 + pick(5))}}})
	return err
}

func (y *yard) hear(ctx context.Context, caseID string, quantity int64, units []string) error {
	e := &inspectionv1.GoodsPassed{Passage: fmt.Sprintf("%s/%s///%d", caseID, yardSKU, quantity)}
	if len(units) > 0 {
		e.Passage = fmt.Sprintf("%s/%s//%s/1", caseID, yardSKU, units[0])
	}
	y.events.Lock()
	defer y.events.Unlock()
	return y.Deliver(ctx, "inspection", e)
}

func (y *yard) admitConsignment(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	caseID := id.New("cas")
	if pick(4) > 0 {
		if err := y.hear(ctx, caseID, quantity, units); err != nil {
			return err
		}
	}
	_, err := y.goods.AdmitGoods(ctx, &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: yardSKU, Quantity: quantity, UnitIds: units})
	return err
}

func (y *yard) putAwaySome(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	_, err := y.floor.purchasing.PutAway(ctx, &warehousev1.PutAwayRequest{PutAwayId: id.New("pa"), Lines: []*warehousev1.PutAwayLine{
		{Sku: yardSKU, Authenticated: len(units) > 0, Quantity: quantity, UnitIds: units, Location: "A-1"},
	}})
	return err
}

func (y *yard) reserveSome(ctx context.Context, pick draw) error {
	req := reservationOf(&warehousev1.ReservationLine{Sku: yardSKU, Quantity: int64(1 + pick(3)), Authenticated: pick(2) == 0})
	if pick(4) == 0 {
		req.ExpiresAt = timestamppb.New(time.Now().Add(-time.Minute))
	}
	y.keep(&y.known, req.GetReservationId())
	_, err := y.orders.ReserveStock(ctx, req)
	return err
}

func (y *yard) releaseSome(ctx context.Context, pick draw) error {
	rsv := y.one(&y.known, pick)
	if rsv == "ret_none" {
		rsv = id.New("rsv")
	}
	_, err := y.orders.ReleaseReservation(ctx, &warehousev1.ReleaseReservationRequest{ReservationId: rsv})
	return err
}

// sellSome takes a serial or a quantity from the shelf to the consumer. Where
// goods with serials were promised for a line that did not ask for them, it
// leaves the promise to be released or to lapse: nobody takes from the floor
// what another was promised.
func (y *yard) sellSome(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	req := reservationOf(&warehousev1.ReservationLine{Sku: yardSKU, Quantity: quantity, Authenticated: len(units) > 0})
	res, err := y.orders.ReserveStock(ctx, req)
	if err != nil {
		return err
	}
	if lines := res.GetReservation().GetLines(); len(lines) != 1 || lines[0].GetAuthenticated() != (len(units) > 0) {
		y.keep(&y.known, req.GetReservationId())
		return nil
	}
	return y.DB.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, w := range [][3]string{{"pick", "reserved", "picked"}, {"pack", "picked", "packed"}, {"staging", "packed", "outbound"},
			{"hand-over", "outbound", "in_transit"}, {"delivery", "in_transit", "external"}} {
			if _, err := post(ctx, tx, way{reason: w[0], from: w[1], to: w[2]},
				goods{key: key{yardSKU, "main", "", len(units) > 0}, quantity: quantity, units: units, reference: req.GetReservationId()}); err != nil {
				return err
			}
		}
		unit := append(units, "")[0]
		_, err := tx.Do(ctx, `INSERT INTO shipped AS s (reference, sku, lot, unit, quantity) VALUES ('ord_1', $1, '', $2, $3)
			ON CONFLICT (reference, sku, lot, unit) DO UPDATE SET quantity = s.quantity + EXCLUDED.quantity WHERE s.unit = ''`, yardSKU, unit, quantity)
		return err
	})
}

func (y *yard) authorise(ctx context.Context, pick draw) error {
	req := authorisation("ord_1", back(yardSKU, int64(1+pick(3))))
	_, err := y.floor.returns.AuthoriseReturn(ctx, req)
	if err == nil {
		y.keep(&y.rmas, req.GetReturnId())
	}
	return err
}

func (y *yard) register(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	_, err := y.floor.returns.RegisterReturn(ctx, &warehousev1.RegisterReturnRequest{
		RegistrationId: id.New("reg"), ReturnId: y.one(&y.rmas, pick), Lines: []*warehousev1.ReturnLine{back(yardSKU, quantity, units...)},
	})
	return err
}

func (y *yard) await(caseID string, quantity int64, units []string, returned bool) {
	if caseID == "" {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.cases = append(y.cases, waiting{caseID, quantity, units, returned})
}

func (y *yard) grade(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	grade := warehousev1.Grade(1 + pick(6))
	req := &warehousev1.GradeReturnRequest{
		GradingId: id.New("grd"), ReturnId: y.one(&y.rmas, pick), Sku: yardSKU, Quantity: quantity, UnitIds: units, Grade: grade,
		Answers: checklist(grade == warehousev1.Grade_GRADE_AS_NEW),
	}
	res, err := y.floor.returns.GradeReturn(ctx, req)
	if err == nil {
		y.await(res.GetCaseId(), quantity, units, true)
		y.keep(&y.grades, req.GetGradingId())
	}
	return err
}

func (y *yard) doubt(ctx context.Context, pick draw) error {
	quantity, units := some(pick)
	to := []warehousev1.Disposition{inspecting, warehousev1.Disposition_DISPOSITION_SUSPECT, warehousev1.Disposition_DISPOSITION_DAMAGED}[pick(3)]
	req := &warehousev1.MoveStockRequest{
		MoveId: id.New("mov"), Sku: yardSKU, Authenticated: len(units) > 0, Quantity: quantity, UnitIds: units, Cause: "looks odd",
		From: warehousev1.Disposition_DISPOSITION_SELLABLE, To: to,
	}
	_, err := y.floor.inventory.MoveStock(ctx, req)
	if err == nil && to != warehousev1.Disposition_DISPOSITION_DAMAGED {
		y.await(id.Derive("cas", "move/"+req.GetMoveId()), quantity, units, false)
	}
	return err
}

// verdict ends an inspection one way or the other; sometimes its word is lost,
// sometimes it is said of more goods than were asked about.
func (y *yard) verdict(ctx context.Context, pick draw) error {
	y.mu.Lock()
	if len(y.cases) == 0 {
		y.mu.Unlock()
		return nil
	}
	c := recent(y.cases, pick)
	y.mu.Unlock()
	if pick(2) == 0 {
		to := []warehousev1.Disposition{outside, warehousev1.Disposition_DISPOSITION_DAMAGED, warehousev1.Disposition_DISPOSITION_DESTROYED, warehousev1.Disposition_DISPOSITION_REPAIR}[pick(4)]
		_, err := y.goods.RefuseGoods(ctx, &warehousev1.RefuseGoodsRequest{CaseId: c.id, To: to, Sku: yardSKU, Quantity: c.quantity, UnitIds: c.units})
		return err
	}
	if pick(4) > 0 {
		if err := y.hear(ctx, c.id, c.quantity, c.units); err != nil {
			return err
		}
	}
	_, err := y.goods.AdmitGoods(ctx, &warehousev1.AdmitGoodsRequest{
		CaseId: c.id, From: []warehousev1.Disposition{inspecting, inspecting, outside}[pick(3)], Sku: yardSKU, Quantity: c.quantity + int64(pick(5)/4), UnitIds: c.units,
	})
	return err
}

func (y *yard) decide(ctx context.Context, pick draw) error {
	req := &warehousev1.DecideReturnRequest{
		DecisionId: id.New("dec"), GradingId: y.one(&y.grades, pick), Decision: warehousev1.DecideReturnRequest_Decision(1 + pick(4)), Reason: "as agreed",
	}
	if pick(3) == 0 {
		req.GradingId = y.one(&y.repairs, pick)
	}
	res, err := y.office.returns.DecideReturn(ctx, req)
	if err == nil && req.GetDecision() == warehousev1.DecideReturnRequest_DECISION_REPAIR {
		y.keep(&y.repairs, req.GetGradingId()) // and it is decided on again
	}
	for _, g := range res.GetReturn().GetGradings() {
		y.await(g.GetCaseId(), g.GetQuantity(), g.GetUnitIds(), true)
	}
	return err
}

// recount counts the shelf: a few more or less of the goods without serials, and
// of the serials mostly those that stand there.
func (y *yard) recount(ctx context.Context, pick draw) error {
	count := id.New("cnt")
	if _, err := y.floor.inventory.OpenCount(ctx, &warehousev1.OpenCountRequest{CountId: count, Skus: []string{yardSKU}}); err != nil {
		return err
	}
	res, err := y.floor.inventory.GetUnitStock(ctx, &warehousev1.GetUnitStockRequest{UnitIds: yardUnits})
	if err != nil {
		return err
	}
	scan := &warehousev1.CountLine{Sku: yardSKU, Authenticated: true}
	for _, u := range res.GetUnits() {
		if u.GetDisposition() == sellable && pick(6) > 0 || pick(30) == 0 {
			scan.UnitIds, scan.Counted = append(scan.UnitIds, u.GetUnitId()), scan.GetCounted()+1
		}
	}
	levels, err := y.floor.stock.GetStock(ctx, &warehousev1.GetStockRequest{Skus: []string{yardSKU}})
	if err != nil {
		return err
	}
	plain := &warehousev1.CountLine{Sku: yardSKU, Counted: int64(pick(5)) - 2}
	for _, l := range levels.GetLevels() {
		if !l.GetAuthenticated() {
			plain.Counted += l.GetSellable() + l.GetReserved()
		}
	}
	plain.Counted = max(plain.GetCounted(), 0)
	lines := []*warehousev1.CountLine{plain, scan}
	if _, err := y.floor.inventory.SubmitCount(ctx, &warehousev1.SubmitCountRequest{CountId: count, Lines: lines}); err != nil {
		return err
	}
	_, err = y.office.inventory.ApproveCount(ctx, &warehousev1.ApproveCountRequest{CountId: count, Cause: "stocktake"})
	return err
}

func (y *yard) expire(ctx context.Context, _ draw) error {
	y.events.Lock()
	defer y.events.Unlock()
	return y.Deliver(ctx, "schedules", &pluginv1.Tick{Schedule: "warehouse/expiry"})
}

// authored is what a refusal may be: the warehouse's own, told to the caller.
func authored(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeUnavailable:
		return true
	}
	return err == nil
}

// unsound are serials that stand where goods are sold from, ever came there, or
// went to a consumer without a pass of their own of that time: whoever is paid
// for them was paid after the verdict; goods without serials that came into
// receiving by an inspection beyond what it let through; reservations that gave
// more than they held; and returns whose lines are out of bounds (S3, S5, S6).
const unsound = `SELECT 'a serial on the shelf without a pass: ' || u.unit FROM p_warehouse.stock_unit u
  LEFT JOIN p_warehouse.pass p ON p.case_id = u.case_id AND p.unit = u.unit AND p.used = 1
 WHERE u.disposition IN ('receiving', 'sellable', 'picked', 'packed', 'outbound', 'in_transit') AND p.case_id IS NULL
UNION ALL SELECT 'a serial came in by no pass: ' || m.unit FROM p_warehouse.stock_move m
 WHERE m.unit <> '' AND m.to_disposition IN ('receiving', 'sellable') AND m.from_disposition NOT IN ('receiving', 'reserved')
   AND NOT EXISTS (SELECT FROM p_warehouse.pass p WHERE p.case_id = m.case_id AND p.unit = m.unit)
UNION ALL SELECT 'authenticated goods left without their serials: ' || m.id FROM p_warehouse.stock_move m
 WHERE m.authenticated AND m.unit = '' AND m.reason IN ('pick', 'pack', 'staging', 'hand-over', 'delivery')
UNION ALL SELECT 'a serial was delivered before its verdict: ' || m.unit FROM p_warehouse.stock_move m
 WHERE m.unit <> '' AND m.reason IN ('pick', 'hand-over', 'delivery') AND NOT EXISTS (SELECT FROM p_warehouse.stock_move a
   JOIN p_warehouse.pass p ON p.case_id = a.case_id AND p.unit = a.unit AND p.used = 1 WHERE a.unit = m.unit AND a.reason = 'admission' AND a.id < m.id
   AND NOT EXISTS (SELECT FROM p_warehouse.stock_move r WHERE r.unit = m.unit AND r.id > a.id AND r.id < m.id AND r.reason IN ('return', 'floor', 'adjustment')))
UNION ALL SELECT 'a reservation gave more than it held: ' || m.reference FROM p_warehouse.stock_move m
 WHERE 'reserved' IN (m.from_disposition, m.to_disposition) GROUP BY m.reference, m.sku, m.site, m.lot, m.authenticated
HAVING sum(CASE m.to_disposition WHEN 'reserved' THEN m.quantity ELSE -m.quantity END) < 0
UNION ALL SELECT 'a pass was spent twice: ' || m.case_id FROM p_warehouse.stock_move m WHERE m.case_id <> '' AND m.unit <> ''
 GROUP BY m.case_id, m.unit HAVING count(*) > 1
UNION ALL SELECT 'more came in than passed: ' || m.case_id FROM p_warehouse.stock_move m LEFT JOIN p_warehouse.pass p
   ON p.case_id = m.case_id AND p.sku = m.sku AND p.lot = m.lot AND p.unit = m.unit
 WHERE m.case_id <> '' GROUP BY m.case_id, m.sku, m.lot, m.unit, p.used HAVING sum(m.quantity) IS DISTINCT FROM p.used
UNION ALL SELECT 'returned goods took another way: ' || m.id FROM p_warehouse.stock_move m
 WHERE m.from_disposition IN ('quarantine', 'inspecting', 'suspect', 'damaged', 'defective', 'repair', 'expired', 'recalled')
   AND m.to_disposition IN ('incoming', 'receiving', 'sellable', 'reserved', 'picked', 'packed', 'outbound', 'in_transit') AND m.case_id = ''
UNION ALL SELECT 'a serial after its end: ' || m.unit FROM p_warehouse.stock_move m JOIN p_warehouse.stock_move e
   ON e.unit = m.unit AND e.id < m.id AND e.to_disposition IN ('destroyed', 'disposed') WHERE m.unit <> ''
UNION ALL SELECT 'more was allowed than shipped: ' || s.reference FROM p_warehouse.shipped s
 GROUP BY s.reference, s.sku HAVING sum(s.quantity) < (SELECT coalesce(sum(l.quantity), 0) FROM p_warehouse.return_line l
   JOIN p_warehouse.rma r ON r.id = l.return_id AND r.state <> 5 WHERE r.reference = s.reference AND l.sku = s.sku)
UNION ALL SELECT 'a return counts otherwise than its gradings: ' || l.return_id FROM p_warehouse.return_line l
  LEFT JOIN p_warehouse.return_grading g ON g.return_id = l.return_id AND g.sku = l.sku GROUP BY l.return_id, l.sku
 HAVING (l.graded, l.restocked, l.destroyed, l.sent_back) IS DISTINCT FROM (coalesce(sum(g.quantity), 0),
   coalesce(sum(g.quantity) FILTER (WHERE g.disposition = 'receiving'), 0),
   coalesce(sum(g.quantity) FILTER (WHERE g.disposition IN ('destroyed', 'disposed')), 0),
   coalesce(sum(g.quantity) FILTER (WHERE g.disposition = 'external'), 0))`

func (y *yard) sound(t require.TestingT) {
	// Nothing but what is sellable is available, whatever else stands here.
	units := y.consistent(t).GetUnits()
	require.Equal(t, units["sellable"], y.available(t, yardSKU, "GB").GetAvailable())
	rows, err := y.Admin.Query(context.Background(), unsound)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var what string
		require.NoError(t, rows.Scan(&what))
		require.Fail(t, what)
	}
	require.NoError(t, rows.Err())
}

// S1 to S7: whatever is tried, in whatever order, the books hold, and nothing
// that came back is sold but by an inspection that named it.
func TestWhateverIsTriedTheGoodsAreSound(t *testing.T) {
	t.Parallel()
	y := openYard(t)
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(10, 30).Draw(rt, "steps") {
			err := y.step(t.Context(), func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") })
			require.True(rt, authored(err), "%v", err)
		}
		y.sound(rt)
	})

	// What chance has left out is walked on for until every kind of way has
	// been travelled. Decisions are seldom met by chance: they have tests of their
	// own.
	ways := []string{
		"admission external", "admission inspecting", "admission suspect", "return external", "grading quarantine",
		"refusal inspecting", "refusal suspect", "floor sellable", "release reserved", "expiry reserved", "adjustment sellable", "put-away receiving",
	}
	r := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		if ways = y.untravelled(t, ways); len(ways) == 0 {
			break
		}
		for range 100 {
			require.True(t, authored(y.step(t.Context(), r.IntN)))
		}
	}
	require.Empty(t, ways, "every kind of way was travelled")
	y.sound(t)
}

// untravelled are those of the ways that no move has taken.
func (y *yard) untravelled(t *testing.T, ways []string) (left []string) {
	require.NoError(t, y.Admin.QueryRow(t.Context(), `SELECT coalesce(array_agg(w), '{}') FROM unnest($1::text[]) w
		WHERE NOT EXISTS (SELECT FROM p_warehouse.stock_move WHERE reason || ' ' || from_disposition = w)`, ways).Scan(&left))
	return left
}

// The same with everybody at once: nobody meets an error that is not a
// refusal, and the books hold.
func TestWhoeverTriesAtOnceTheGoodsAreSound(t *testing.T) {
	t.Parallel()
	y := openYard(t)
	parallel(12, func(n int) {
		r := rand.New(rand.NewPCG(11, uint64(n)))
		for i := range 60 {
			if err := y.step(t.Context(), r.IntN); !authored(err) {
				t.Errorf("walker %d, step %d: %s (%s)", n, i, err, cause(err))
			}
		}
	})
	y.sound(t)
	if n := y.deadlocks(t); n > 0 {
		t.Errorf("%d times somebody locked in another order:\n%s", n, y.serverSays(t, "deadlock detected"))
	}
}

// serverSays finds what the server's log says of something in this database,
// with the details that follow; clients are not told them.
func (h *house) serverSays(t testing.TB, words string) (said string) {
	t.Helper()
	err := h.Admin.QueryRow(t.Context(), `WITH line AS (SELECT * FROM regexp_split_to_table(pg_read_file(pg_current_logfile()), E'\n') WITH ORDINALITY l(text, n)),
		hit AS (SELECT n FROM line WHERE text LIKE '%@' || current_database() || ' %' AND text LIKE '%' || $1 || '%' ORDER BY n LIMIT 3)
		SELECT coalesce(string_agg(line.text, E'\n' ORDER BY line.n), 'nothing') FROM hit JOIN line ON line.n BETWEEN hit.n AND hit.n + 30`, words).Scan(&said)
	if err != nil {
		return "the server's log cannot be read: " + err.Error()
	}
	return said
}

// cause is everything that an error says, and what is under it: what a client
// is told of an unexpected one says nothing.
func cause(err error) string {
	var said []string
	for e := err; e != nil; e = errors.Unwrap(e) {
		said = append(said, fmt.Sprintf("%T: %v", e, e))
	}
	return strings.Join(append(said, "code "+connect.CodeOf(err).String(), "SQLSTATE "+store.SQLState(err)), "; ")
}

// deadlocks that PostgreSQL resolved. A server process reports what it counted
// when it ends.
func (h *house) deadlocks(t testing.TB) (n int64) {
	t.Helper()
	_, err := h.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_warehouse' AND datname = current_database()`)
	require.NoError(t, err)
	var commits int64
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT deadlocks, xact_commit FROM pg_stat_database WHERE datname = current_database()`).Scan(&n, &commits))
	require.Greater(t, commits, int64(200), "the counts are in")
	return n
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// word is an event at its place in the log, which it keeps however often it is
// delivered.
type word struct {
	subscription string
	position     int64
	event        proto.Message
}

// key is what the order of events is kept by.
func (w word) key(t testing.TB) string {
	e, err := store.Encode(w.event)
	require.NoError(t, err)
	return e.Topic + " " + e.Key
}

// lane is one that plugintest.Deliver does not use.
const lane = 7

// hear delivers words of one subscription as the bus does that has them in its
// log.
func (d *dock) hear(t testing.TB, words ...word) {
	t.Helper()
	req := &pluginv1.DeliverRequest{Name: words[0].subscription, Lanes: []*pluginv1.LaneMove{{Lane: lane}}}
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT s.id, c.pos, c.pos + 1 FROM bus.subscription s JOIN bus.cursor c ON c.sub = s.id AND c.lane = $2
		WHERE s.name = 'warehouse/' || $1`, words[0].subscription, lane).Scan(&req.Subscription, &req.GetLanes()[0].Expected, &req.GetLanes()[0].Next))
	for _, w := range words {
		e, err := store.Encode(w.event)
		require.NoError(t, err)
		_, err = d.Admin.Exec(t.Context(), `INSERT INTO bus.log (pos, event_id, source, topic, key, lane, at, payload)
			SELECT $1, gen_random_uuid(), split_part($2, '.', 2), $2, $3, $4, now(), $5 WHERE NOT EXISTS (SELECT FROM bus.log WHERE pos = $1)`,
			w.position, e.Topic, e.Key, lane, e.Payload)
		require.NoError(t, err)
		req.Events = append(req.Events, &pluginv1.Event{Position: w.position, EventId: fmt.Sprint(w.position), Topic: e.Topic, Key: e.Key, Payload: e.Payload})
	}
	_, err := pluginv1connect.NewEventServiceClient(d.Client(call.Info{})).Deliver(t.Context(), req)
	require.NoError(t, err)
}

// season is what happens outside in one round, chosen by r: orders that are
// handed over and end somehow, inspections that speak and change their mind,
// products that change. It makes the orders, and answers the words.
func (d *dock) season(t testing.TB, round int, r *rand.Rand) (words []word, cases []string) {
	t.Helper()
	say := func(subscription string, e proto.Message) {
		words = append(words, word{subscription, int64(100_000 + 1000*round + len(words)), e})
	}
	ways := [][]logisticsv1.Status{
		{logisticsv1.Status_STATUS_DELIVERED},
		{logisticsv1.Status_STATUS_LOST, logisticsv1.Status_STATUS_DELIVERED},
		{logisticsv1.Status_STATUS_RETURN_TO_SENDER, logisticsv1.Status_STATUS_RETURNED},
		{logisticsv1.Status_STATUS_RETURNED, logisticsv1.Status_STATUS_LOST},
	}
	for i := range 3 {
		var f string
		order := fmt.Sprintf("ord_%d_%d", round, i)
		if i == 0 {
			units := []string{fmt.Sprintf("unt_%d_1", round), fmt.Sprintf("unt_%d_2", round)}
			d.passed(t, units...)
			f = d.sendSerials(t, order, units...)
		} else {
			f = d.gone(t, order, line("sku_a", int64(1+r.IntN(4))), line("sku_b", 1))
		}
		if i == 1 && r.IntN(2) == 0 {
			_, err := d.desk(worker("acc_1")).returns.AuthoriseReturn(t.Context(), authorisation(order, back("sku_a", 1)))
			require.NoError(t, err)
		}
		for _, status := range append([]logisticsv1.Status{logisticsv1.Status_STATUS_IN_TRANSIT}, ways[r.IntN(len(ways))]...) {
			say("logistics", &logisticsv1.ShipmentMoved{
				ShipmentId: "shp_" + f, Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, Reference: f, Status: status,
			})
		}
	}
	say("logistics", &logisticsv1.ShipmentMoved{ShipmentId: "shp_x", Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, Reference: "ful_x", Status: logisticsv1.Status_STATUS_LOST})
	for i := range 12 {
		c := fmt.Sprintf("cas_%d_%d", round, i)
		cases = append(cases, c)
		for range 1 + r.IntN(4) {
			switch r.IntN(3) {
			case 0:
				say("inspection", &inspectionv1.VerdictConfirmed{CaseId: c, Verdict: inspectionv1.Verdict_VERDICT_COUNTERFEIT})
			case 1:
				say("inspection", &inspectionv1.VerdictConfirmed{CaseId: c, Verdict: inspectionv1.Verdict_VERDICT_GENUINE})
			default:
				say("inspection", &inspectionv1.GoodsPassed{Passage: c + "/sku_c///2"})
			}
		}
	}
	for i := range 3 {
		say("catalog", &catalogv1.ProductChanged{
			ProductId: "prd_1", MerchantId: []string{"mrc_one", "mrc_two"}[i/2], Skus: []string{fmt.Sprint("sku_", round)},
			Goods: []*catalogv1.GoodsFacts{{Sku: fmt.Sprint("sku_", round), WeightGrams: int32(100 + r.IntN(900))}},
		})
	}
	return words, cases
}

// disordered are words as the bus may deliver them at worst: each twice, one
// after the other or all of its key again, those of a key in their order, and
// the keys mixed.
func disordered(t testing.TB, words []word, r *rand.Rand) (out []word) {
	var keys []string
	byKey := make(map[string][]word)
	for _, w := range words {
		k := w.key(t)
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = append(byKey[k], w)
	}
	for _, k := range keys {
		if once := byKey[k]; r.IntN(2) == 0 {
			byKey[k] = append(slices.Clone(once), once...)
			continue
		}
		var twice []word
		for _, w := range byKey[k] {
			twice = append(twice, w, w)
		}
		byKey[k] = twice
	}
	for len(keys) > 0 {
		i := r.IntN(len(keys))
		k := keys[i]
		out = append(out, byKey[k][0])
		if byKey[k] = byKey[k][1:]; len(byKey[k]) == 0 {
			keys = slices.Delete(keys, i, i+1)
		}
	}
	return out
}

// books are everything that the warehouse knows, but for ids and times.
func (d *dock) books(t testing.TB) []string {
	t.Helper()
	rows, err := d.Admin.Query(context.Background(), `
		SELECT 'balance ' || (to_jsonb(b) - 'version')::text FROM p_warehouse.stock_balance b
		UNION ALL SELECT 'unit ' || to_jsonb(u)::text FROM p_warehouse.stock_unit u
		UNION ALL SELECT 'pass ' || to_jsonb(p)::text FROM p_warehouse.pass p WHERE p.position >= 100000
		UNION ALL SELECT 'item ' || to_jsonb(i)::text FROM p_warehouse.stock_item i
		UNION ALL SELECT 'fact ' || to_jsonb(g)::text FROM p_warehouse.goods_fact g
		UNION ALL SELECT concat_ws(' ', 'fulfilment', f.reference, f.state, f.ended) FROM p_warehouse.fulfilment f
		UNION ALL SELECT concat_ws(' ', 'return', r.reference, r.state, r.reason, (to_jsonb(l) - 'return_id')::text) FROM p_warehouse.rma r
		  JOIN p_warehouse.return_line l ON l.return_id = r.id
		UNION ALL SELECT 'piece ' || (to_jsonb(p) - 'return_id')::text FROM p_warehouse.return_piece p
		UNION ALL SELECT 'shipped ' || to_jsonb(s)::text FROM p_warehouse.shipped s
		UNION ALL SELECT concat_ws(' ', 'moves', m.reason, m.from_disposition, m.to_disposition, m.sku, m.unit, count(*), sum(m.quantity))
		  FROM p_warehouse.stock_move m GROUP BY m.reason, m.from_disposition, m.to_disposition, m.sku, m.unit
		UNION ALL SELECT concat_ws(' ', 'told', topic, count(*)) FROM bus.outbox GROUP BY topic
		ORDER BY 1`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

// No event is needed twice, and none does harm that comes twice, or before
// those of other keys: the books are those of the plain order.
func TestEventsThatComeTwiceAndInDisorderMakeTheSameBooks(t *testing.T) {
	t.Parallel()
	plain, wild := openDock(t), openDock(t)
	for _, d := range []*dock{plain, wild} {
		d.stock(t, "", map[string]int64{"sku_a": 500, "sku_b": 500})
	}
	for round := range 6 {
		seed := func() *rand.Rand { return rand.New(rand.NewPCG(13, uint64(round))) }
		words, cases := plain.season(t, round, seed())
		for _, w := range words {
			plain.hear(t, w)
		}
		theirs, _ := wild.season(t, round, seed())
		r := rand.New(rand.NewPCG(17, uint64(round)))
		mixed := disordered(t, theirs, r)
		require.Len(t, mixed, 2*len(words))
		for len(mixed) > 0 {
			n := 1
			for most := 1 + r.IntN(5); n < len(mixed) && n < most && mixed[n].subscription == mixed[0].subscription; {
				n++
			}
			wild.hear(t, mixed[:n]...)
			mixed = mixed[n:]
		}
		for _, schedule := range []string{"warehouse/expiry", "warehouse/revival", "warehouse/reorder"} {
			tick := &pluginv1.Tick{Schedule: schedule}
			require.NoError(t, plain.Deliver(t.Context(), "schedules", tick))
			require.NoError(t, wild.Deliver(t.Context(), "schedules", tick, tick))
			require.NoError(t, wild.Deliver(t.Context(), "schedules", tick))
		}
		for _, c := range cases {
			admit := func(d *dock) string {
				_, err := d.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: c, From: outside, Sku: "sku_c", Quantity: 2})
				return fault.Reason(err)
			}
			require.Equal(t, admit(plain), admit(wild), "round %d: %s", round, c)
		}
		require.Equal(t, plain.books(t), wild.books(t), "round %d", round)
	}
	plain.consistent(t)
	wild.consistent(t)
}

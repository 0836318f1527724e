package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

func sub(name string, topics ...string) *pluginv1.Subscription {
	return &pluginv1.Subscription{Name: name, Topics: topics}
}

func TestRegisteringAgainChangesNothingAndUsesUpNoNumber(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	r := m.registration(sub("a", topic), sub("b", topic))
	r.Manifest.Schedules = []*pluginv1.Schedule{{Name: "daily", EverySeconds: 86400}}
	first := b.register(t, r)
	require.Len(t, first, 3)
	require.Contains(t, first, "schedules")
	for range 5 {
		require.Equal(t, first, b.register(t, r))
	}
	require.EqualValues(t, 3*64, h.number(`SELECT count(*) FROM bus.cursor WHERE pos = 0`))
	require.EqualValues(t, 4, b.register(t, m.registration(sub("a", topic), sub("c", topic)))["c"])
}

func TestWhatIsNotDeclaredAnyMoreRestsAndComesBackWhereItWas(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	with := m.registration(sub("all", topic))
	with.Manifest.Serves = []*pluginv1.ServedContract{{Contract: "entrepot.test.v1"}}
	b.register(t, with)
	m.publish("k", "a")
	h.handled(m, 1)

	without := m.registration()
	without.Manifest.Publishes = nil
	require.Empty(t, b.register(t, without))
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.subscription WHERE state = 'off'`))
	require.Zero(t, h.number(`SELECT (SELECT count(*) FROM bus.pubgrant) + (SELECT count(*) FROM bus.serves)`), "grants go at once")

	b.register(t, with)
	m.publish("k", "b")
	h.handled(m, 2)
	require.Equal(t, []string{"a", "b"}, h.effects(m))
}

func TestAPausedSubscriptionStaysPausedWhenItsPluginComesBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	b.register(t, m.registration(everything()))
	h.exec(`UPDATE bus.subscription SET state = 'paused'`)
	b.register(t, m.registration(everything()))
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.subscription WHERE state = 'paused'`))
}

func saga(version int32, steps ...*pluginv1.SagaStep) *pluginv1.SagaDefinition {
	return &pluginv1.SagaDefinition{Name: "checkout", Version: version, Steps: steps}
}

func sagaStep(name, method, undo string) *pluginv1.SagaStep {
	return &pluginv1.SagaStep{Name: name, Method: method, Compensation: undo, Kind: pluginv1.SagaStep_KIND_COMPENSATABLE}
}

func TestWhatCouldNeverWorkIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	const reserve = "/entrepot.stock.v1.StockService/Reserve"
	for name, c := range map[string]struct {
		change func(*Registration)
		says   string
	}{
		"another's manifest":            {func(r *Registration) { r.Manifest.Name = "other" }, `the manifest is of "other"`},
		"a provider with subscriptions": {func(r *Registration) { r.Role = "" }, "need a database"},
		"two subscriptions of one name": {func(r *Registration) {
			r.Manifest.Subscriptions = []*pluginv1.Subscription{sub("a", topic), sub("a", topic)}
		}, "stands twice"},
		"a subscription to nothing":   {func(r *Registration) { r.Manifest.Subscriptions = []*pluginv1.Subscription{sub("a")} }, "no topics"},
		"a schedule without a period": {func(r *Registration) { r.Manifest.Schedules = []*pluginv1.Schedule{{Name: "x"}} }, "no period"},
		"a step outside the scope":    {func(r *Registration) { r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", reserve, ""))} }, "calls do not list entrepot.stock.v1"},
		"a step that is no method":    {func(r *Registration) { r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", "Reserve", ""))} }, "is no method"},
		"a step that does nothing":    {func(r *Registration) { r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", "", ""))} }, "neither method nor compensation"},
		"two steps of one name": {func(r *Registration) {
			r.Manifest.Calls = []string{"entrepot.stock.v1"}
			r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", reserve, ""), sagaStep("r", reserve, ""))}
		}, "stands twice"},
		"a saga without steps": {func(r *Registration) { r.Sagas = []*pluginv1.SagaDefinition{saga(1)} }, "1 to 64 steps"},
		"a compensation of a pivot's": {func(r *Registration) {
			r.Manifest.Calls = []string{"entrepot.stock.v1"}
			s := sagaStep("r", reserve, reserve)
			s.Kind = pluginv1.SagaStep_KIND_PIVOT
			r.Sagas = []*pluginv1.SagaDefinition{saga(1, s)}
		}, "never compensated"},
		"a step without a kind": {func(r *Registration) {
			s := sagaStep("r", reserve, "")
			s.Kind = 0
			r.Sagas = []*pluginv1.SagaDefinition{saga(1, s)}
		}, "no kind"},
	} {
		r := m.registration(everything())
		c.change(&r)
		_, err := b.Register(t.Context(), r)
		require.ErrorContains(t, err, c.says, name)
	}
	require.Zero(t, h.number(`SELECT count(*) FROM bus.subscription`), "nothing was changed")
}

func TestASagaVersionInUseDoesNotChange(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	r := m.registration()
	r.Manifest.Calls = []string{"entrepot.stock.v1"}
	const reserve, release = "/entrepot.stock.v1.StockService/Reserve", "/entrepot.stock.v1.StockService/Release"
	r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", reserve, ""))}
	b.register(t, r)
	r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", reserve, release))}
	b.register(t, r)
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.saga_def WHERE undos = '{entrepot.stock.v1}' AND contracts = '{entrepot.stock.v1}'`), "no saga was started yet")
	_, err := m.pool.Exec(t.Context(), `SELECT bus.saga_start(gen_random_uuid(), 'order/checkout', 1, 'k', '', 'n')`)
	require.NoError(t, err)
	b.register(t, r)
	r.Sagas = []*pluginv1.SagaDefinition{saga(1, sagaStep("r", reserve, ""))}
	_, err = b.Register(t.Context(), r)
	require.ErrorContains(t, err, "give it version 2")
	r.Sagas = []*pluginv1.SagaDefinition{saga(2, sagaStep("r", reserve, ""))}
	b.register(t, r)
	require.EqualValues(t, 2, h.number(`SELECT count(*) FROM bus.saga_def`))
}

func TestTheContractOfAMethod(t *testing.T) {
	for method, want := range map[string]string{
		"/entrepot.stock.v1.StockService/Reserve": "entrepot.stock.v1",
		"entrepot.stock.v1.StockService/Reserve":  "",
		"/StockService/Reserve":                   "",
		"/entrepot.stock.v1.StockService/":        "",
		"/entrepot.stock.v1.StockService":         "",
		"/entrepot.stock.v1./Reserve":             "",
		"/a.b/c/d":                                "",
		"":                                        "",
	} {
		require.Equal(t, want, contractOf(method), method)
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// schedules is the subscription that a plugin with schedules has by itself.
const schedules = "schedules"

// registerLock makes the registrations of one plugin follow each other.
const registerLock = 7205

// Registration is what a plugin is to the bus.
type Registration struct {
	Plugin string
	// Role is the runtime role of a module's database; empty for providers,
	// which may publish by entrepot.kernel.v1.BusService only.
	Role     string
	Manifest *pluginv1.Manifest
	// Sagas that the plugin starts, as it described them.
	Sagas []*pluginv1.SagaDefinition
}

// Register makes the database agree with what a plugin declares: what its
// role may publish and serve, its subscriptions, schedules and sagas. It
// answers the numbers of its subscriptions by name, for Configure. What is
// not declared any more loses its grant, or rests (a subscription goes off, a
// schedule stops); nothing is deleted, so declaring it again goes on where it
// was. A new subscription begins with the oldest event that is kept; a topic
// added to a known one, with the events that come.
//
// From then on this node delivers to the plugin: until it is ready, deliveries
// fail and are tried again; Wake ends the pause. Registering again is the same
// as once. An error leaves everything as it was.
func (b *Bus) Register(ctx context.Context, r Registration) (map[string]int32, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("bus: plugin %s: %w", r.Plugin, err)
	}
	found := map[int16]settings{}
	ctx, cancel := context.WithTimeout(ctx, 4*statement)
	defer cancel()
	err := pgx.BeginFunc(ctx, b.c.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, hashtext($2))`, int32(registerLock), r.Plugin); err != nil {
			return err
		}
		if r.Role == "" {
			return nil
		}
		for _, part := range []func(context.Context, pgx.Tx) error{r.grants, r.clocks, r.sagas} {
			if err := part(ctx, tx); err != nil {
				return err
			}
		}
		return r.subscriptions(ctx, tx, found)
	})
	if err != nil {
		return nil, fmt.Errorf("bus: register plugin %s: %w", r.Plugin, err)
	}
	b.serve(r.Plugin, found)
	ids := make(map[string]int32, len(found))
	for id, c := range found {
		ids[c.name] = int32(id)
	}
	return ids, nil
}

// serve starts delivering to a plugin's subscriptions.
func (b *Bus) serve(plugin string, found map[int16]settings) {
	b.c.Node.add(plugin)
	b.mu.Lock()
	for id, s := range b.subs {
		if _, declared := found[id]; s.plugin == plugin && !declared {
			s.retire()
			delete(b.subs, id)
		}
	}
	for id := range found {
		if b.subs[id] == nil {
			b.subs[id] = newSubscription(b, id, plugin)
		}
	}
	b.apply(found)
	b.mu.Unlock()
	b.each(func(s *subscription) {
		if s.plugin == plugin {
			s.own()
			s.pump()
		}
	})
}

// declared are the subscriptions with the one that schedules bring.
func (r *Registration) declared() []*pluginv1.Subscription {
	all := r.Manifest.GetSubscriptions()
	if len(r.Manifest.GetSchedules()) > 0 {
		all = append(all[:len(all):len(all)], &pluginv1.Subscription{
			Name: schedules, Topics: []string{topicTick}, OnDead: pluginv1.Subscription_ON_DEAD_SKIP,
		})
	}
	return all
}

func (r *Registration) validate() error {
	if r.Plugin == "" || r.Manifest.GetName() != r.Plugin {
		return fmt.Errorf("the manifest is of %q", r.Manifest.GetName())
	}
	all := r.declared()
	if r.Role == "" && len(all)+len(r.Sagas) > 0 {
		return fmt.Errorf("a provider has no subscriptions, schedules and sagas: they need a database")
	}
	seen := map[string]bool{}
	for _, s := range all {
		switch {
		case s.GetName() == "" || seen[s.GetName()]:
			return fmt.Errorf("subscription %q is empty or stands twice; %q is the one of schedules", s.GetName(), schedules)
		case len(s.GetTopics()) == 0:
			return fmt.Errorf("subscription %q has no topics", s.GetName())
		}
		seen[s.GetName()] = true
	}
	clear(seen)
	for _, s := range r.Manifest.GetSchedules() {
		if s.GetName() == "" || seen[s.GetName()] || s.GetEverySeconds() <= 0 {
			return fmt.Errorf("schedule %q is empty, stands twice or has no period", s.GetName())
		}
		seen[s.GetName()] = true
	}
	return r.validateSagas()
}

func (r *Registration) grants(ctx context.Context, tx pgx.Tx) error {
	topics := append([]string{}, r.Manifest.GetPublishes()...)
	contracts := make([]string, 0, len(r.Manifest.GetServes()))
	for _, s := range r.Manifest.GetServes() {
		contracts = append(contracts, s.GetContract())
	}
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM bus.pubgrant WHERE role = $1 AND topic <> ALL ($2)`, r.Role, topics)
	batch.Queue(`INSERT INTO bus.pubgrant (role, topic, plugin) SELECT $1, t, $3 FROM unnest($2::text[]) t
		ON CONFLICT (role, topic) DO UPDATE SET plugin = excluded.plugin WHERE pubgrant.plugin <> excluded.plugin`, r.Role, topics, r.Plugin)
	batch.Queue(`DELETE FROM bus.serves WHERE role = $1 AND contract <> ALL ($2)`, r.Role, contracts)
	batch.Queue(`INSERT INTO bus.serves (role, contract) SELECT $1, c FROM unnest($2::text[]) c ON CONFLICT DO NOTHING`, r.Role, contracts)
	return tx.SendBatch(ctx, batch).Close()
}

func (r *Registration) clocks(ctx context.Context, tx pgx.Tx) error {
	names := []string{}
	for _, s := range r.Manifest.GetSchedules() {
		name := r.Plugin + "/" + s.GetName()
		names = append(names, name)
		_, err := tx.Exec(ctx, `INSERT INTO bus.schedule AS s (name, every_seconds) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE
			SET every_seconds = excluded.every_seconds, declared = true,
			    next_due = CASE WHEN s.declared THEN least(s.next_due, now() + excluded.every_seconds * interval '1 second') ELSE now() END`,
			name, s.GetEverySeconds())
		if err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `UPDATE bus.schedule SET declared = false WHERE declared AND starts_with(name, $1) AND name <> ALL ($2)`, r.Plugin+"/", names)
	return err
}

func (r *Registration) subscriptions(ctx context.Context, tx pgx.Tx, found map[int16]settings) error {
	names := []string{}
	for _, s := range r.declared() {
		name := r.Plugin + "/" + s.GetName()
		names = append(names, name)
		id, err := r.subscription(ctx, tx, name, s)
		if err != nil {
			return fmt.Errorf("subscription %s: %w", name, err)
		}
		rows, err := tx.Query(ctx, readSettings+` WHERE id = $1`, id)
		if err != nil {
			return err
		}
		found[id], err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (settings, error) {
			_, c, err := scanSettings(row)
			return c, err
		})
		if err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `UPDATE bus.subscription SET state = 'off', rev = rev + 1 WHERE plugin = $1 AND state <> 'off' AND name <> ALL ($2)`, r.Plugin, names)
	return err
}

// subscription updates or makes one. Not by ON CONFLICT: that would use up a
// number each time, and there are 32,767.
func (r *Registration) subscription(ctx context.Context, tx pgx.Tx, name string, s *pluginv1.Subscription) (id int16, err error) {
	attempts, onDead := int16(s.GetMaxAttempts()), "block_key"
	if attempts == 0 {
		attempts = 12
	}
	if s.GetOnDead() == pluginv1.Subscription_ON_DEAD_SKIP {
		onDead = "skip"
	}
	err = tx.QueryRow(ctx, `UPDATE bus.subscription SET role = $2, topics = $3, max_attempts = $4, on_dead = $5, gather_ms = $6, rev = rev + 1,
		  state = CASE state WHEN 'off' THEN 'on' ELSE state END WHERE name = $1 RETURNING id`, name, r.Role, s.GetTopics(), attempts, onDead, s.GetGatherMilliseconds()).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, err
	}
	err = tx.QueryRow(ctx, `INSERT INTO bus.subscription (name, plugin, role, topics, max_attempts, on_dead, gather_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`,
		name, r.Plugin, r.Role, s.GetTopics(), attempts, onDead, s.GetGatherMilliseconds()).Scan(&id)
	if err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO bus.cursor (sub, lane) SELECT $1, l FROM generate_series(0, $2) l`, id, busdb.Lanes-1)
	return id, err
}

package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// news is one thing that one recipient is to be told.
type news struct {
	// Source names what it follows from: it is filed once.
	Source string `json:"source"`
	Topic  string `json:"topic"`
	// One of these is whom it is for: whoever bought, an account, a merchant.
	Order    string `json:"order,omitempty"`
	Account  string `json:"account,omitempty"`
	Merchant string `json:"merchant,omitempty"`
	// EmailRef goes before every address that is known.
	EmailRef  string            `json:"email_ref,omitempty"`
	Market    string            `json:"market,omitempty"`
	Reference string            `json:"reference,omitempty"`
	Facts     facts             `json:"facts,omitempty"`
	Sealed    map[string]string `json:"sealed,omitempty"`
	// Words and Category are of topics that are not the module's.
	Words    []words                 `json:"words,omitempty"`
	Category notificationv1.Category `json:"category,omitempty"`
	At       time.Time               `json:"at"`
	// Endpoint is the only one that is told; empty: all that want the topic.
	Endpoint string `json:"endpoint,omitempty"`
}

func (n *news) id() string { return id.Derive("ntf", n.Source) }

func (n *news) topic() topic {
	if t, ok := topics[n.Topic]; ok {
		return t
	}
	return brought(n.Topic, n.Category, n.Merchant != "")
}

// buyer is whom an order's news go to.
type buyer struct {
	market, account, emailRef, addressRef string
	merchants                             []string
}

// person is an account as its preferences and its contact have it.
type person struct {
	account, merchant, language, emailRef string
	chosen                                map[choice]bool
}

// scan reads every row of an answer and closes it.
func scan(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// since is the horizon.
func (s *service) since(ctx context.Context, tx *store.Tx) (time.Time, error) {
	if at := s.horizon.Load(); at != nil {
		return *at, nil
	}
	var at time.Time
	if err := tx.Row(ctx, `SELECT at FROM horizon`).Scan(&at); err != nil {
		return at, err
	}
	s.horizon.Store(&at)
	return at, nil
}

// file decides who is told on which channels, and queues it: five statements
// for any number of news. What was filed before is passed over, what is older
// than the horizon is nobody's news, and what is about an order that is not
// known yet waits for it.
func (s *service) file(ctx context.Context, tx *store.Tx, all []*news) error {
	horizon, err := s.since(ctx, tx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(n *news) bool { return n.At.Before(horizon) })
	if len(all) == 0 {
		return nil
	}
	buyers, err := readBuyers(ctx, tx, all)
	if err != nil {
		return err
	}
	var wait, ready []*news
	for _, n := range all {
		if n.Order != "" && buyers[n.Order] == nil {
			wait = append(wait, n)
			continue
		}
		ready = append(ready, n)
	}
	if err := park(ctx, tx, wait); err != nil || len(ready) == 0 {
		return err
	}
	// One order of rows for all who file the same: no deadlocks.
	slices.SortFunc(ready, func(a, b *news) int { return cmp.Compare(a.Source, b.Source) })
	people, servers, err := readAudience(ctx, tx, ready, buyers)
	if err != nil {
		return err
	}
	if err := s.remember(ctx, tx, ready); err != nil {
		return err
	}
	var q queued
	for _, n := range ready {
		if err := q.add(n, buyers[n.Order], people, servers); err != nil {
			return err
		}
	}
	s.poke()
	return q.write(ctx, tx)
}

func readBuyers(ctx context.Context, tx *store.Tx, all []*news) (map[string]*buyer, error) {
	var orders []string
	for _, n := range all {
		if n.Order != "" && !slices.Contains(orders, n.Order) {
			orders = append(orders, n.Order)
		}
	}
	out := make(map[string]*buyer, len(orders))
	if len(orders) == 0 {
		return out, nil
	}
	rows, err := tx.Rows(ctx, `SELECT order_id, market, account, email_ref, address_ref, to_json(merchants) FROM buyer WHERE order_id = ANY ($1)`, orders)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var order string
		var merchants []byte
		b := &buyer{}
		if err := rows.Scan(&order, &b.market, &b.account, &b.emailRef, &b.addressRef, &merchants); err != nil {
			return err
		}
		out[order] = b
		return json.Unmarshal(merchants, &b.merchants)
	})
}

// park keeps news of orders that are not known yet.
func park(ctx context.Context, tx *store.Tx, all []*news) error {
	if len(all) == 0 {
		return nil
	}
	var sources, orders, docs []string
	for _, n := range all {
		doc, err := json.Marshal(n)
		if err != nil {
			return err
		}
		sources, orders, docs = append(sources, n.Source), append(orders, n.Order), append(docs, string(doc))
	}
	_, err := tx.Do(ctx, `INSERT INTO waiting (source, order_id, news) SELECT u.s, u.o, u.n::jsonb
		FROM unnest($1::text[], $2::text[], $3::text[]) u(s, o, n) ON CONFLICT DO NOTHING`, sources, orders, docs)
	return err
}

// unpark takes back what waited for orders that are known now; no orders: for
// any.
func unpark(ctx context.Context, tx *store.Tx, orders []string) ([]*news, error) {
	var out []*news
	rows, err := tx.Rows(ctx, `DELETE FROM waiting w WHERE w.source IN (SELECT x.source FROM waiting x
		WHERE x.order_id = ANY ($1) OR $1::text[] IS NULL AND EXISTS (SELECT FROM buyer b WHERE b.order_id = x.order_id)
		ORDER BY x.source LIMIT 1000 FOR UPDATE SKIP LOCKED) RETURNING w.news`, orders)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var doc []byte
		if err := rows.Scan(&doc); err != nil {
			return err
		}
		n := &news{}
		if err := json.Unmarshal(doc, n); err != nil {
			return err
		}
		out = append(out, n)
		return nil
	})
}

// server is a merchant's endpoint.
type server struct {
	id     string
	topics []string
}

// readAudience finds the accounts, the merchants' members and the endpoints
// that may be told.
func readAudience(ctx context.Context, tx *store.Tx, all []*news, buyers map[string]*buyer) (map[string]*person, map[string][]server, error) {
	var accounts, merchants []string
	for _, n := range all {
		account := n.Account
		if b := buyers[n.Order]; b != nil {
			account = b.account
		}
		if account != "" && !slices.Contains(accounts, account) {
			accounts = append(accounts, account)
		}
		if n.Merchant != "" && !slices.Contains(merchants, n.Merchant) {
			merchants = append(merchants, n.Merchant)
		}
	}
	people := make(map[string]*person)
	servers := make(map[string][]server)
	rows, err := tx.Rows(ctx, `SELECT a.id, a.merchant, a.language, CASE WHEN a.contact = 2 THEN a.email_ref ELSE '' END,
			coalesce(json_agg(json_build_array(p.topic, p.channel, p.enabled)) FILTER (WHERE p.topic IS NOT NULL), '[]')
		FROM account a LEFT JOIN preference p ON p.account = a.id WHERE a.id = ANY ($1) OR a.merchant = ANY ($2) GROUP BY a.id`, accounts, merchants)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		p := &person{chosen: make(map[choice]bool)}
		var chosen []byte
		if err := rows.Scan(&p.account, &p.merchant, &p.language, &p.emailRef, &chosen); err != nil {
			return err
		}
		people[p.account] = p
		return p.choose(chosen)
	}); err != nil || len(merchants) == 0 {
		return people, servers, err
	}
	rows, err = tx.Rows(ctx, `SELECT id, merchant, to_json(topics) FROM endpoint WHERE merchant = ANY ($1) AND state = 1 ORDER BY id`, merchants)
	return people, servers, scan(rows, err, func(rows *sql.Rows) error {
		var e server
		var merchant string
		var list []byte
		if err := rows.Scan(&e.id, &merchant, &list); err != nil {
			return err
		}
		err := json.Unmarshal(list, &e.topics)
		servers[merchant] = append(servers[merchant], e)
		return err
	})
}

// choose reads [[topic, channel, enabled], ...].
func (p *person) choose(doc []byte) error {
	var all [][3]any
	if err := json.Unmarshal(doc, &all); err != nil {
		return err
	}
	for _, c := range all {
		name, ok1 := c[0].(string)
		channel, ok2 := c[1].(float64)
		on, ok3 := c[2].(bool)
		if !ok1 || !ok2 || !ok3 {
			return errors.New("a preference is no preference")
		}
		p.chosen[choice{name, notificationv1.Channel(channel)}] = on
	}
	return nil
}

// remember writes down topics that came with words, so that they can be chosen.
func (s *service) remember(ctx context.Context, tx *store.Tx, all []*news) error {
	var names []string
	var categories []int16
	var merchants []bool
	for _, n := range all {
		if _, ours := topics[n.Topic]; ours || slices.Contains(names, n.Topic) {
			continue
		}
		t := n.topic()
		names, categories, merchants = append(names, t.name), append(categories, int16(t.category)), append(merchants, t.merchant)
	}
	if len(names) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO topic SELECT * FROM unnest($1::text[], $2::smallint[], $3::bool[]) ON CONFLICT (name) DO NOTHING`, names, categories, merchants)
	return err
}

// queued are notifications and deliveries as columns.
type queued struct {
	ids, sources, topics, orders, accounts, merchants, markets, languages, references, data, sealed, words []string
	categories                                                                                             []int16
	ats                                                                                                    []time.Time

	deliveries, of, recipients, owners, addresses, codes []string
	channels                                             []int16
}

// write queues it all: one statement.
func (q *queued) write(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Do(ctx, `WITH n AS (
  INSERT INTO notification (id, source, topic, category, order_id, account, merchant, market, language, reference, data, sealed, words, at)
  SELECT u.id, u.source, u.topic, u.category, u.order_id, u.account, u.merchant, u.market, u.language, u.reference, u.data::jsonb, u.sealed::jsonb, u.words::jsonb, u.at
    FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::smallint[]), unnest($5::text[]), unnest($6::text[]),
      unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]), unnest($11::text[]), unnest($12::text[]), unnest($13::text[]),
      unnest($14::timestamptz[])) u(id, source, topic, category, order_id, account, merchant, market, language, reference, data, sealed, words, at)
  ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO delivery (id, notification_id, channel, recipient, merchant, address_ref, state, code, ended_at)
SELECT d.id, d.of, d.channel, d.recipient, d.owner, d.address, CASE d.code WHEN '' THEN 1 ELSE 5 END, d.code, CASE d.code WHEN '' THEN NULL ELSE now() END
  FROM ROWS FROM (unnest($15::text[]), unnest($16::text[]), unnest($17::smallint[]), unnest($18::text[]), unnest($19::text[]), unnest($20::text[]),
    unnest($21::text[])) d(id, of, channel, recipient, owner, address, code)
  JOIN n ON n.id = d.of`,
		q.ids, q.sources, q.topics, q.categories, q.orders, q.accounts, q.merchants, q.markets, q.languages, q.references, q.data, q.sealed, q.words, q.ats,
		q.deliveries, q.of, q.channels, q.recipients, q.owners, q.addresses, q.codes)
	return err
}

// noAddress is the code of what is owed and cannot be sent.
const noAddress = "NO_ADDRESS"

// add decides on channels and recipients.
func (q *queued) add(n *news, b *buyer, people map[string]*person, servers map[string][]server) error {
	data, err := json.Marshal(n.Facts)
	if err != nil {
		return err
	}
	if n.Facts == nil {
		data = []byte("{}")
	}
	sealed, err := json.Marshal(n.Sealed)
	if err != nil {
		return err
	}
	said, err := json.Marshal(n.Words)
	if err != nil {
		return err
	}
	account, market, address, fallback := n.Account, n.Market, n.EmailRef, ""
	if b != nil {
		account, market, fallback = b.account, cmp.Or(market, b.market), b.addressRef
		address = cmp.Or(address, b.emailRef)
	}
	p := people[account]
	if p == nil {
		p = &person{account: account}
	}
	q.ids, q.sources, q.topics, q.categories = append(q.ids, n.id()), append(q.sources, n.Source), append(q.topics, n.Topic), append(q.categories, int16(n.topic().category))
	q.orders, q.accounts, q.merchants = append(q.orders, n.Order), append(q.accounts, account), append(q.merchants, n.Merchant)
	q.markets, q.languages, q.references = append(q.markets, market), append(q.languages, p.language), append(q.references, n.Reference)
	q.data, q.sealed, q.words, q.ats = append(q.data, string(data)), append(q.sealed, string(sealed)), append(q.words, string(said)), append(q.ats, n.At)

	t := n.topic()
	if n.Merchant != "" {
		q.addMerchant(n, t, people, servers[n.Merchant])
		return nil
	}
	if account != "" && t.goes(inbox, p.chosen) {
		q.deliver(n, inbox, account, "", "", "")
	}
	if !t.goes(mail, p.chosen) {
		return nil
	}
	// Of an order's mails the order's own address knows best; an address that
	// was given for the carrier is better than none.
	address = cmp.Or(address, p.emailRef, fallback)
	switch {
	case address != "":
		q.deliver(n, mail, cmp.Or(account, n.Order), "", address, "")
	case t.category == legal:
		q.deliver(n, mail, cmp.Or(account, n.Order), "", "", noAddress)
	}
	return nil
}

// mailedMembers bounds the members of a merchant who are mailed one thing.
const mailedMembers = 50

func (q *queued) addMerchant(n *news, t topic, people map[string]*person, servers []server) {
	if n.Endpoint == "" && t.goes(inbox, nil) {
		q.deliver(n, inbox, n.Merchant, "", "", "")
	}
	for _, e := range servers {
		if n.Endpoint == e.id || n.Endpoint == "" && (len(e.topics) == 0 || slices.Contains(e.topics, t.name)) {
			q.deliver(n, webhook, e.id, n.Merchant, "", "")
		}
	}
	var members []*person
	for _, p := range people {
		if p.merchant == n.Merchant && p.emailRef != "" && n.Endpoint == "" && t.goes(mail, p.chosen) {
			members = append(members, p)
		}
	}
	slices.SortFunc(members, func(a, b *person) int { return cmp.Compare(a.account, b.account) })
	for _, p := range members[:min(len(members), mailedMembers)] {
		q.deliver(n, mail, p.account, "", p.emailRef, "")
	}
}

func (q *queued) deliver(n *news, c notificationv1.Channel, recipient, owner, address, code string) {
	q.deliveries, q.of, q.channels = append(q.deliveries, id.New("dlv")), append(q.of, n.id()), append(q.channels, int16(c))
	q.recipients, q.owners, q.addresses, q.codes = append(q.recipients, recipient), append(q.owners, owner), append(q.addresses, address), append(q.codes, code)
}

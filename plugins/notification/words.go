package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// reader is a database or a transaction of it.
type reader interface {
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
	Row(ctx context.Context, statement string, args ...any) *sql.Row
}

var (
	_ reader = (*store.DB)(nil)
	_ reader = (*store.Tx)(nil)
)

// notice is a notification as it is about to be told.
type notice struct {
	id, topic, order, account, merchant, market, language, reference string
	category                                                         notificationv1.Category
	facts                                                            facts
	sealed                                                           map[string]string
	words                                                            []words
	at                                                               time.Time
}

const noticeColumns = `n.id, n.topic, n.category, n.order_id, n.account, n.merchant, n.market, n.language, n.reference, n.data, n.sealed, n.words, n.at`

// targets are where a row of noticeColumns goes; done reads what is JSON.
func (n *notice) targets() (to []any, done func() error) {
	var category int32
	var data, sealed, said []byte
	return []any{&n.id, &n.topic, &category, &n.order, &n.account, &n.merchant, &n.market, &n.language, &n.reference, &data, &sealed, &said, &n.at}, func() (err error) {
		n.category = notificationv1.Category(category)
		if n.facts, err = readFacts(data); err != nil {
			return err
		}
		if err := json.Unmarshal(sealed, &n.sealed); err != nil {
			return err
		}
		return json.Unmarshal(said, &n.words)
	}
}

// vocabulary are the words of some topics: the marketplace's own before the
// module's.
type vocabulary map[string]map[string]words

// readVocabulary reads what the marketplace has of some topics.
func readVocabulary(ctx context.Context, db reader, topics []string) (vocabulary, error) {
	out := make(vocabulary, len(topics))
	rows, err := db.Rows(ctx, `SELECT topic, language, subject, body, html FROM template WHERE topic = ANY ($1)`, topics)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var topic string
		var w words
		if err := rows.Scan(&topic, &w.Language, &w.Subject, &w.Text, &w.HTML); err != nil {
			return err
		}
		if out[topic] == nil {
			out[topic] = make(map[string]words)
		}
		out[topic][w.Language] = w
		return nil
	})
}

// say renders a notice in the best language that there are words in. Words of
// the marketplace that break on these facts give way to the module's: a
// mistake in a template keeps no confirmation back.
func (s *service) say(n *notice, v vocabulary, revealed map[string]string) (rendered, string, error) {
	f := make(facts, len(n.facts)+len(n.sealed))
	for k, x := range n.facts {
		f[k] = x
	}
	for name := range n.sealed {
		f[name] = revealed[name] // empty where it is not for this channel
	}
	var market []string
	if m := s.in.Markets[n.market]; m != nil {
		market = m.GetLanguages()
	}
	given := make(map[string]words, len(n.words))
	best := append([]string(nil), market...)
	for _, w := range n.words {
		given[w.Language] = w
		best = append(best, w.Language)
	}
	broken := fmt.Errorf("topic %s has no words", n.topic)
	for _, from := range []map[string]words{v[n.topic], house[n.topic], given} {
		for _, language := range languages(n.language, best) {
			w, ok := from[language]
			if !ok {
				continue
			}
			r, err := w.render(s.cfg.Marketplace, f)
			if err == nil {
				return r, language, nil
			}
			broken = fmt.Errorf("words of %s in %s: %w", n.topic, language, err)
		}
	}
	return rendered{}, "", broken
}

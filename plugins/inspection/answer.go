package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// maxAnswers is how many answers one transaction records: each may tell of a
// clone and a revoked certificate.
const maxAnswers = 200

// askAll asks authenticators, some at once, and records what they answered.
// Whoever the time does not suffice for is asked soon by an errand.
func (s *service) askAll(ctx context.Context, questions []question) error {
	answers := make([]answer, len(questions))
	limited, cancel := context.WithTimeout(ctx, patienceOfRun)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(abreast)
	for i, q := range questions {
		g.Go(func() error {
			if limited.Err() == nil {
				answers[i] = s.authenticators.ask(limited, q)
			} else {
				answers[i] = answer{question: q, result: pending, reason: notReached}
			}
			return nil
		})
	}
	_ = g.Wait() // none fails: what went wrong is an answer
	for part := range slices.Chunk(answers, maxAnswers) {
		if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.record(ctx, tx, part) }); err != nil {
			return err
		}
	}
	return nil
}

// recordAnswers ends the checks that were answered and puts off the others;
// one that has ended stays as it is.
const recordAnswers = `UPDATE check_made k SET result = x.result, method = coalesce(nullif(x.method, ''), k.method), reason = x.reason, note = x.note,
    instrument = coalesce(nullif(x.instrument, ''), k.instrument), operator = coalesce(nullif(x.operator, ''), k.operator),
    blobs = ARRAY(SELECT json_array_elements_text(x.blobs::json)), at = now(),
    next_try = CASE WHEN x.result = 4 THEN now() + least(interval '5 s' * power(2, least(k.tries, 10)), interval '10 min') END
  FROM unnest($1::text[], $2::int2[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]) x(key, result, method, reason, note, instrument, operator, blobs)
 WHERE k.key = x.key AND k.result = 4 RETURNING k.unit, k.case_id, k.result, k.reason`

// record writes answers into checks, and moves their cases on. A tag whose
// counter went back was copied: that is a sighting.
func (s *service) record(ctx context.Context, tx *store.Tx, answers []answer) error {
	if len(answers) == 0 {
		return nil
	}
	var cases []string
	var results []int16
	texts := make([][]string, 7)
	for _, a := range answers {
		blobs, err := json.Marshal(append([]string{}, a.blobs...))
		if err != nil {
			return err
		}
		cases, results = append(cases, a.caseID), append(results, int16(a.result))
		for i, t := range []string{a.key, a.method, a.reason, strings.ToValidUTF8(a.note, ""), a.instrument, a.operator, string(blobs)} {
			texts[i] = append(texts[i], t)
		}
	}
	if _, err := tx.Do(ctx, `SELECT FROM case_file WHERE id = ANY ($1) ORDER BY id FOR UPDATE`, cases); err != nil {
		return err
	}
	replayed := make(map[string]string) // unit -> case
	rows, err := tx.Rows(ctx, recordAnswers, texts[0], results, texts[1], texts[2], texts[3], texts[4], texts[5], texts[6])
	if err := each(rows, err, func(r row) error {
		var u, c, reason string
		var res result
		if err := r.Scan(&u, &c, &res, &reason); err != nil {
			return err
		}
		if u != "" && res == saysCounterfeit && reason == "COUNTER_REPLAYED" {
			replayed[u] = c
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, settled, cases); err != nil || len(replayed) == 0 {
		return err
	}
	var unitIDs []string
	for u := range replayed {
		unitIDs = append(unitIDs, u)
	}
	units, err := lockUnits(ctx, tx, unitIDs)
	if err != nil {
		return err
	}
	var seen []sighting
	for _, u := range units {
		seen = append(seen, sighting{u, replayed[u.id], tagReplayed})
	}
	return s.raise(ctx, tx, seen...)
}

const questionColumns = `k.key, k.case_id, k.unit, c.market, k.instance, k.plugin, to_json(k.methods), k.inputs, k.tries`

func (q *question) scan(r row) error {
	return r.Scan(&q.key, &q.caseID, &q.unit, &q.market, &q.instance, &q.plugin, &q.methods, &q.inputs, &q.tries)
}

// onCheckCompleted takes the ends of checks that were pending. A plugin speaks
// only for the checks that it was asked for.
func (s *service) onCheckCompleted(ctx context.Context, tx *store.Tx, events []event.Of[*providerv1.CheckCompleted]) error {
	keys := make([]string, len(events))
	for i, e := range events {
		keys[i] = e.Body.GetKey()
	}
	open := make(map[string]*question)
	rows, err := tx.Rows(ctx, `SELECT `+questionColumns+` FROM check_made k JOIN case_file c ON c.id = k.case_id WHERE k.key = ANY ($1) AND k.result = 4`, keys)
	if err := each(rows, err, func(r row) error {
		q := &question{}
		if err := q.scan(r); err != nil {
			return err
		}
		open[q.key] = q
		return nil
	}); err != nil {
		return err
	}
	var answers []answer
	for _, e := range events {
		q := open[e.Body.GetKey()]
		if q == nil {
			// Known already, or never asked for.
			continue
		}
		if e.Source != q.plugin {
			s.log.ErrorContext(ctx, "a plugin told the end of another's check", "plugin", e.Source, "of", q.plugin)
			continue
		}
		if a := s.authenticators.heard(*q, e.Body.GetOutcome()); a.result != pending {
			answers = append(answers, a)
			delete(open, q.key)
		}
	}
	for part := range slices.Chunk(answers, maxAnswers) {
		if err := s.record(ctx, tx, part); err != nil {
			return err
		}
	}
	return nil
}

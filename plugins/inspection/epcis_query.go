package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/store"
)

// maxAnswer is how many bytes of events end a page: one more may follow.
const maxAnswer = 2 << 20

const (
	// Sizes are summed up before bodies are read.
	queryEvents = `SELECT q.n, q.event_time, q.body, q.found FROM (
 SELECT p.*, sum(p.octets) OVER (ORDER BY p.event_time, p.n ROWS UNBOUNDED PRECEDING) - p.octets AS before, count(*) OVER () AS found FROM (
 SELECT e.n, e.event_time, e.octets, e.body FROM epcis_event e
 WHERE (e.event_time, e.n) > ($1, $2) AND ($3 = '' OR e.merchant = $3) AND e.event_time >= $4 AND e.event_time < $5
   AND (cardinality($6::text[]) = 0 OR e.type = ANY ($6)) AND (cardinality($7::text[]) = 0 OR e.biz_step = ANY ($7))
   AND (cardinality($8::text[]) = 0 OR e.disposition = ANY ($8)) AND (cardinality($9::text[]) = 0 OR e.read_point = ANY ($9))
   AND (cardinality($10::text[]) = 0 OR e.biz_location = ANY ($10)) AND (cardinality($11::text[]) = 0 OR e.id = ANY ($11) OR e.hash = ANY ($11))`
	// What an event names is found from the names' side.
	queryNames = ` AND e.n IN (SELECT p.event FROM epcis_epc p WHERE p.epc = ANY ($14)
   UNION ALL SELECT p.event FROM unnest($15::text[]) x(prefix) JOIN epcis_epc p ON p.epc >= x.prefix AND p.epc < x.prefix || U&'\+10FFFF')`
	queryOrder = ` ORDER BY e.event_time, e.n LIMIT $12) p) q WHERE q.before < $13 ORDER BY q.event_time, q.n`
)

// QueryEvents answers events, oldest first; a merchant those of its own goods
// alone.
func (s *service) QueryEvents(ctx context.Context, req *inspectionv1.QueryEventsRequest) (*inspectionv1.QueryEventsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pageOf(req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	var after int64
	if req.GetPageToken() == "" {
		p.at = time.Unix(0, 0).AddDate(-1000, 0, 0)
	} else if after, err = strconv.ParseInt(p.id, 10, 64); err != nil {
		return nil, fault.Field("page_token", "not one of this list")
	}
	statement := queryEvents + queryOrder
	args := []any{
		p.at, after, merchant, moment(req.GetGeEventTime(), p.at), moment(req.GetLtEventTime(), never), texts(req.GetEventTypes(), nil),
		texts(req.GetEqBizStep(), epcis.BizStep), texts(req.GetEqDisposition(), epcis.Disposition), texts(req.GetEqReadPoint(), gs1.Normal),
		texts(req.GetEqBizLocation(), gs1.Normal), texts(req.GetEqEventId(), nil), p.size + 1, maxAnswer,
	}
	if len(req.GetMatchEpc()) > 0 {
		exact, prefixes := matching(req.GetMatchEpc())
		statement, args = queryEvents+queryNames+queryOrder, append(args, exact, prefixes)
	}
	res := &inspectionv1.QueryEventsResponse{}
	var events []json.RawMessage
	found := 0
	rows, err := s.db.Rows(ctx, statement, args...)
	if err := each(rows, err, func(r row) error {
		var n int64
		var at time.Time
		var body string
		if err := r.Scan(&n, &at, &body, &found); err != nil || len(events) == p.size {
			return err
		}
		events = append(events, json.RawMessage(body))
		p.at, p.id = at, strconv.FormatInt(n, 10)
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if found > len(events) {
		res.NextPageToken = token(p.at, p.id)
	}
	res.Document, err = epcis.QueryDocument(events, time.Now())
	return res, err
}

func moment(t *timestamppb.Timestamp, otherwise time.Time) time.Time {
	if t == nil {
		return otherwise
	}
	return t.AsTime()
}

// texts are what a parameter names, in the spelling that is stored; none is an
// empty list.
func texts(in []string, spell func(string) string) []string {
	out := make([]string, len(in))
	for i, t := range in {
		if out[i] = t; spell != nil {
			out[i] = spell(t)
		}
	}
	return out
}

// matching takes names and their beginnings apart, both in normal form. A
// beginning may end behind a qualifier's number: ".../21/*".
func matching(in []string) (exact, prefixes []string) {
	exact, prefixes = []string{}, []string{}
	for _, m := range in {
		base, ok := strings.CutSuffix(m, "/*")
		if !ok {
			exact = append(exact, gs1.Normal(m))
			continue
		}
		tail := "/"
		normal := gs1.Normal(base)
		if i := strings.LastIndexByte(base, '/'); normal == base && i > 0 {
			if n := gs1.Normal(base[:i]); n != base[:i] || strings.HasPrefix(n, gs1.Canonical) {
				normal, tail = n, base[i:]+"/"
			}
		}
		prefixes = append(prefixes, normal+tail)
	}
	return exact, prefixes
}

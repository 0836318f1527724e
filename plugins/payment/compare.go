package main

import (
	"context"
	"hash/maphash"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// maxReport bounds how many lines one reconciliation remembers: eight bytes
	// and a map's overhead each.
	maxReport = 5_000_000
	// maxDifferences is how many differences are named; all are counted.
	maxDifferences = 10_000
)

type difference = paymentv1.Difference_Kind

const (
	missingAtProvider = paymentv1.Difference_KIND_MISSING_AT_PROVIDER
	unknownToUs       = paymentv1.Difference_KIND_UNKNOWN_TO_US
	amountDiffers     = paymentv1.Difference_KIND_AMOUNT_DIFFERS
	currencyDiffers   = paymentv1.Difference_KIND_CURRENCY_DIFFERS
	stateDiffers      = paymentv1.Difference_KIND_STATE_DIFFERS
	operationDiffers  = paymentv1.Difference_KIND_OPERATION_DIFFERS
	toldTwice         = paymentv1.Difference_KIND_TOLD_TWICE
)

// told are the words for an operation's end: "capture succeeded 12.99 EUR".
func told(op operation, o *providerv1.Outcome) string {
	return words(op, strings.ToLower(strings.TrimPrefix(o.GetStatus().String(), "STATUS_")), o.GetAmount().GetMinorUnits(), o.GetAmount().GetCurrencyCode())
}

// told are the words for what is known of an attempt.
func (a *attempt) told() string {
	return words(a.operation, strings.ToLower(strings.TrimPrefix(a.state.String(), "STATE_")), a.processed, a.processedCurrency)
}

func words(op operation, state string, minor int64, currency string) string {
	out := strings.ToLower(strings.TrimPrefix(providerv1.Operation(op).String(), "OPERATION_")) + " " + state
	if state == "succeeded" || state == "asked" {
		out += " " + money.Money{Currency: currency, Minor: minor}.String()
	}
	return clip(out, 200)
}

// agrees tells whether an outcome is what is known of an attempt.
func (a *attempt) agrees(o *providerv1.Outcome) bool {
	return a.told() == told(operation(o.GetOperation()), o)
}

// line is what the module knows of an operation that it asked for.
type line struct {
	key, subject string
	operation    operation
	state        attemptState
	amount       int64
	currency     string
	// unposted: the company moved another amount than was asked, which is not
	// in the books. The amount is then what was asked.
	unposted bool
	sentAt   time.Time
}

const lineColumns = `key, subject, operation, state, amount, currency, unposted, sent_at`

// ours are the operations that an instance was asked for: attempts, and
// payouts, whose state is told in the words of attempts. One that was settled
// is what the person found to have been paid; where the company paid in
// another currency, which that person turned into the payout's, it is what the
// company told. What follows says which.
const ours = `SELECT ` + lineColumns + ` FROM (
  SELECT key, payment AS subject, operation, state, CASE WHEN x THEN amount ELSE processed END AS amount, CASE WHEN x THEN currency ELSE processed_currency END AS currency,
         x AS unposted, sent_at, ended_at, instance
    FROM attempt, LATERAL (SELECT conflict AND posted = 0 AND amount > 0) c(x)
  UNION ALL
  SELECT id, id, 5, CASE WHEN state = 1 THEN 4 WHEN state = 3 OR paid = 0 THEN 3 ELSE 2 END, CASE WHEN f THEN processed ELSE coalesce(paid, amount) END,
         CASE WHEN f THEN processed_currency ELSE currency END, state = 4, sent_at, ended_at, instance
    FROM payout, LATERAL (SELECT state = 5 AND processed_currency <> currency) c(f)) o
 WHERE instance = $1 `

func (l *line) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(&l.key, &l.subject, &l.operation, &l.state, &l.amount, &l.currency, &l.unposted, &l.sentAt)
}

func (l *line) told() string {
	if l.unposted {
		return words(l.operation, "asked", l.amount, l.currency)
	}
	return words(l.operation, strings.ToLower(strings.TrimPrefix(l.state.String(), "STATE_")), l.amount, l.currency)
}

// differs names what a company tells otherwise; none when it tells the same.
func (l *line) differs(o *providerv1.Outcome) difference {
	state := map[providerv1.Outcome_Status]attemptState{
		providerv1.Outcome_STATUS_SUCCEEDED: succeeded, providerv1.Outcome_STATUS_DECLINED: declined, providerv1.Outcome_STATUS_PENDING: pending,
	}[o.GetStatus()]
	switch {
	case operation(o.GetOperation()) != l.operation:
		return operationDiffers
	case l.state != state && !(state == pending && l.state != succeeded && l.state != declined):
		return stateDiffers
	case state != succeeded:
		return paymentv1.Difference_KIND_UNSPECIFIED
	case o.GetAmount().GetCurrencyCode() != l.currency:
		return currencyDiffers
	case o.GetAmount().GetMinorUnits() != l.amount || l.unposted:
		return amountDiffers
	}
	return paymentv1.Difference_KIND_UNSPECIFIED
}

// comparison collects what the module and a company tell differently.
type comparison struct {
	db       *store.DB
	instance string
	began    time.Time
	seen     map[uint64]struct{}
	seed     maphash.Seed

	compared, total int64
	counts          map[difference]int64
	differences     []*paymentv1.Difference
	// news are disputes as they stand there and not here.
	news []*providerv1.Dispute
}

func newComparison(db *store.DB, instance string, began time.Time) *comparison {
	return &comparison{db: db, instance: instance, began: began, seen: make(map[uint64]struct{}), seed: maphash.MakeSeed(), counts: make(map[difference]int64)}
}

func (c *comparison) differ(kind difference, key, subject, ours, theirs string) {
	c.total++
	c.counts[kind]++
	if len(c.differences) < maxDifferences {
		c.differences = append(c.differences, &paymentv1.Difference{Key: clip(key, 200), Kind: kind, SubjectId: subject, Ours: ours, Theirs: theirs})
	}
}

// see tells whether a key was told before.
func (c *comparison) see(key string) (twice bool) {
	h := maphash.String(c.seed, key)
	_, twice = c.seen[h]
	c.seen[h] = struct{}{}
	c.compared++
	return twice
}

func (c *comparison) lines(ctx context.Context, which string, args ...any) ([]*line, error) {
	var out []*line
	rows, err := c.db.Rows(ctx, ours+which, append([]any{c.instance}, args...)...)
	return out, store.Wrap(each(rows, err, func() error {
		l := &line{}
		out = append(out, l)
		return l.scan(rows)
	}))
}

func tooLarge() error {
	return fault.New(connect.CodeResourceExhausted, "REPORT_TOO_LARGE", "the provider's report is larger than can be compared at once")
}

// operations looks at one page of a report.
func (c *comparison) operations(ctx context.Context, page []*providerv1.Outcome) error {
	if len(page) > 1000 || len(c.seen) > maxReport {
		return tooLarge()
	}
	keys := make([]string, len(page))
	for i, o := range page {
		keys[i] = clip(o.GetKey(), 200)
	}
	found, err := c.lines(ctx, `AND key = ANY ($2)`, keys)
	if err != nil {
		return err
	}
	byKey := make(map[string]*line, len(found))
	for _, l := range found {
		byKey[l.key] = l
	}
	for i, o := range page {
		l, theirs := byKey[keys[i]], told(operation(o.GetOperation()), o)
		twice := c.see(keys[i])
		known, subject := "never asked", ""
		if l != nil {
			known, subject = l.told(), l.subject
		}
		switch {
		case twice:
			c.differ(toldTwice, keys[i], subject, known, theirs)
		case l == nil:
			c.differ(unknownToUs, keys[i], subject, known, theirs)
		case !c.underWay(l):
			if kind := l.differs(o); kind != 0 {
				c.differ(kind, keys[i], subject, known, theirs)
			}
		}
	}
	return nil
}

// underWay tells whether an operation is still on its way, or was when the
// report began: the next reconciliation sees how it ended.
func (c *comparison) underWay(l *line) bool {
	open := l.state != succeeded && l.state != declined
	return l.sentAt.After(c.began) || open && l.sentAt.After(c.began.Add(-silence))
}

// missing finds what happened here and is not in the report.
func (c *comparison) missing(ctx context.Context) error {
	for after := ""; ; {
		page, err := c.lines(ctx, `AND key > $2 AND state = 2 AND ended_at < $3 ORDER BY key LIMIT 1000`, after, c.began)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, l := range page {
			if _, ok := c.seen[maphash.String(c.seed, l.key)]; !ok {
				c.compared++
				c.differ(missingAtProvider, l.key, l.subject, l.told(), "not in the report")
			}
		}
		after = page[len(page)-1].key
	}
}

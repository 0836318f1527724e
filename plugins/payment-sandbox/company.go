package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/webhook"
)

// The company's words.
const (
	authorize = "authorize"
	capture   = "capture"
	void      = "void"
	refund    = "refund"
	payout    = "payout"
	dispute   = "dispute"

	succeeded = "succeeded"
	declined  = "declined"
	pending   = "pending"
)

// asked is one operation as a client asks for it.
type asked struct {
	key, fingerprint, operation string
	currency                    string
	// minor is 0 for all there is.
	minor int64
	// payment is the company's number; empty for an authorisation.
	payment, merchant string
	// code declines the operation; pending leaves its end for later; off is
	// added to what is processed; tell is how often the webhook is sent.
	code     string
	pending  bool
	disputed bool
	off      int64
	tell     int
}

// account is one payment in the books.
type account struct {
	currency                               string
	authorized, captured, voided, refunded int64
	// willDispute: the consumer's bank is going to take what is captured.
	// disputed is what it took and did not give back.
	willDispute bool
	disputed    int64
}

// entry is an operation in the books; durable tells when it is on disk.
type entry struct {
	record
	durable <-chan error
	once    sync.Once
	err     error
}

func (e *entry) wait() error {
	e.once.Do(func() {
		if e.durable != nil {
			e.err = <-e.durable
		}
	})
	return e.err
}

// company keeps the books: what was held, taken, given up and returned, per
// payment, as a bank would let it. Safe for concurrent use.
type company struct {
	mu       sync.Mutex
	journal  *journal.Journal[record]
	last     int64
	byKey    map[string]*entry
	order    []*entry
	accounts map[string]*account
	// disputes by number, in their order, and the responses to them by the
	// caller's key.
	disputes  map[string]*entry
	disputed  []string
	responses map[string]*entry
	// disputeFee is what the company keeps for a dispute that is not won.
	disputeFee int64

	// tells says whether anybody is told by webhook; untold are the entries
	// that still are to be, in the order of the books, and news tells that
	// there are more.
	tells  bool
	untold []*entry
	news   chan struct{}
}

var (
	errKeyReused = errors.New("the key was used for another operation")
	errUnknown   = errors.New("no such operation")
)

// openCompany reads the books. tells says whether Next is to be asked for what
// is told by webhook.
func openCompany(j *journal.Journal[record], all []record, tells bool) *company {
	c := &company{
		journal: j, byKey: map[string]*entry{}, accounts: map[string]*account{}, disputes: map[string]*entry{}, responses: map[string]*entry{},
		tells: tells, news: make(chan struct{}, 1),
	}
	for _, v := range all {
		c.book(&entry{record: v})
	}
	return c
}

// book enters a record into the books in memory. It is called with the lock
// held, or before there is anybody else.
func (c *company) book(e *entry) {
	c.last = e.N
	if c.tells && e.Tell > 0 {
		c.untold = append(c.untold, e)
		select {
		case c.news <- struct{}{}:
		default:
		}
	}
	if e.Operation == dispute {
		c.bookDispute(e)
		return
	}
	if old := c.byKey[e.Key]; old == nil {
		c.order = append(c.order, e)
	} else {
		// The later end of a pending operation stands in its place.
		for i := range c.order {
			if c.order[i] == old {
				c.order[i] = e
			}
		}
	}
	c.byKey[e.Key] = e
	if e.Status != succeeded || e.Operation == payout {
		return
	}
	a := c.accounts[e.Payment]
	if a == nil {
		a = &account{currency: e.Currency}
		c.accounts[e.Payment] = a
	}
	switch e.Operation {
	case authorize:
		a.authorized += e.Minor
		a.willDispute = e.Disputed
	case capture:
		a.captured += e.Minor
	case void:
		a.voided += e.Minor
	case refund:
		a.refunded += e.Minor
	}
}

// do carries an operation out, or answers what the same key did before.
func (c *company) do(q asked) (record, error) {
	c.mu.Lock()
	if e := c.byKey[q.key]; e != nil {
		c.mu.Unlock()
		if e.Fingerprint != q.fingerprint {
			return record{}, errKeyReused
		}
		return e.record, e.wait()
	}
	v := record{
		N: c.last + 1, At: time.Now().UTC(), Key: q.key, Fingerprint: q.fingerprint, Operation: q.operation, Status: succeeded,
		Currency: q.currency, Minor: q.minor + q.off, Payment: q.payment, Merchant: q.merchant, Tell: q.tell, Disputed: q.disputed,
	}
	v.Reference = fmt.Sprintf("op_%08d", v.N)
	if v.Operation == authorize {
		v.Payment = fmt.Sprintf("psp_%08d", v.N)
	}
	switch code := c.refusal(&v); {
	case q.code != "":
		v.Status, v.Code = declined, q.code
	case code != "":
		v.Status, v.Code = declined, code
	case q.pending:
		v.Status, v.Tell = pending, 0
	}
	e := c.enter(v)
	c.openDispute(v)
	c.mu.Unlock()
	return v, e.wait()
}

// enter writes a record into the books, with the lock held.
func (c *company) enter(v record) *entry {
	e := &entry{record: v, durable: c.journal.Append(v)}
	c.book(e)
	return e
}

// refusal is why the bank would say no; a void of everything is completed with
// what there is.
func (c *company) refusal(v *record) string {
	if v.Operation == authorize || v.Operation == payout {
		return ""
	}
	a := c.accounts[v.Payment]
	if a == nil {
		return "payment_unknown"
	}
	if v.Currency != "" && v.Currency != a.currency {
		return "currency_mismatch"
	}
	v.Currency = a.currency
	held := a.authorized - a.captured - a.voided
	switch {
	case v.Operation == void && v.Minor == 0:
		v.Minor = held
	case v.Operation == capture && v.Minor > held:
		return "amount_exceeds_authorization"
	case v.Operation == refund && v.Minor > a.captured-a.refunded-a.disputed && v.Minor <= a.captured-a.refunded:
		return "charge_disputed"
	case v.Operation == refund && v.Minor > a.captured-a.refunded:
		return "amount_exceeds_capture"
	}
	if v.Minor <= 0 {
		return "nothing_left"
	}
	return ""
}

// settle ends a pending operation well.
func (c *company) settle(key string) (record, error) {
	c.mu.Lock()
	e := c.byKey[key]
	if e == nil || e.Status != pending {
		c.mu.Unlock()
		return record{}, errUnknown
	}
	v := e.record
	v.N, v.At, v.Status, v.Tell = c.last+1, time.Now().UTC(), succeeded, 1
	end := c.enter(v)
	c.mu.Unlock()
	return v, end.wait()
}

// Next implements webhook.Source.
func (c *company) Next(n int64) *webhook.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.untold) > 0 && c.untold[0].N <= n {
		c.untold = c.untold[1:]
	}
	if len(c.untold) == 0 {
		return nil
	}
	e := c.untold[0]
	body, err := json.Marshal(e.record)
	if err != nil {
		return nil // a record is strings, numbers and a time
	}
	return &webhook.Message{N: e.N, ID: "msg_" + e.Reference + "_" + strconv.FormatInt(e.N, 10), Body: body, Times: e.Tell, Wait: e.wait}
}

// News implements webhook.Source.
func (c *company) News() <-chan struct{} { return c.news }

// lookup tells what became of a key.
func (c *company) lookup(key string) (record, error) {
	c.mu.Lock()
	e := c.byKey[key]
	c.mu.Unlock()
	if e == nil {
		return record{}, errUnknown
	}
	return e.record, e.wait()
}

// report lists operations at or after a time, in the order of the books.
func (c *company) report(since time.Time) []record {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []record
	for _, e := range c.order {
		if !e.At.Before(since) {
			out = append(out, e.record)
		}
	}
	return out
}

// unsettled lists the keys of operations that are pending: after a crash their
// end is still owed.
func (c *company) unsettled() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []string
	for _, e := range c.order {
		if e.Status == pending {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/webhook"
)

// company is the carrier: it books, and moves parcels by its own clock. Safe
// for concurrent use.
type company struct {
	hour   time.Duration
	untidy bool
	// branch sets the numbers of several companies apart.
	branch uint32

	mu       sync.Mutex
	journal  *journal.Journal[line]
	last     int64
	byKey    map[string]*entry
	bookings map[string]*booking // by reference
	// plans are scans to come, earliest first; changed tells of new ones.
	plans   []plan
	changed chan struct{}

	// tells says whether anybody is told by webhook; untold are the scans that
	// still are to be, in the order of the journal.
	tells  bool
	untold []*entry
	news   chan struct{}
}

// entry is a line of the journal; durable tells when it is on disk.
type entry struct {
	line
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

// booking is what the company carries.
type booking struct {
	*entry
	cancelled, manifested bool
	// handed is when the company took it over; zero before.
	handed time.Time
	scans  []scan
	seen   map[string]bool // ids of scans
}

// plan is a scan to come.
type plan struct {
	due     time.Time
	booking *booking
	scan    scan
}

var (
	errKeyReused = errors.New("the key was used for something else")
	errUnknown   = errors.New("no such booking")
	errHanded    = errors.New("it is handed over")
)

// openCompany reads the books and goes on with what is on its way.
func openCompany(j *journal.Journal[line], all []line, hour time.Duration, untidy, tells bool) *company {
	c := &company{
		hour: hour, untidy: untidy, journal: j, byKey: map[string]*entry{}, bookings: map[string]*booking{},
		changed: make(chan struct{}, 1), tells: tells, news: make(chan struct{}, 1),
	}
	for _, l := range all {
		c.book(&entry{line: l})
	}
	for _, l := range all {
		if b := c.bookings[l.Reference]; l.Kind == lineBook && b != nil && !b.handed.IsZero() {
			c.travel(b)
		}
	}
	return c
}

// book enters a line into the books in memory, with the lock held.
func (c *company) book(e *entry) {
	c.last = e.N
	if e.Key != "" {
		c.byKey[e.Kind+"/"+e.Key] = e
	}
	switch e.Kind {
	case lineBook:
		if e.Code != "" {
			return
		}
		b := &booking{entry: e, seen: map[string]bool{}}
		// Nobody makes a manifest of what consumers send back: they bring it.
		if e.Return {
			b.handed = e.At.Add(c.hour)
		}
		c.bookings[e.Reference] = b
	case lineCancel:
		if b := c.bookings[e.Reference]; b != nil {
			b.cancelled = true
		}
	case lineManifest:
		for _, ref := range e.Bookings {
			if b := c.bookings[ref]; b != nil {
				b.manifested, b.handed = true, e.At
			}
		}
	case lineScan:
		b := c.bookings[e.Scan.Booking]
		if b == nil {
			return
		}
		b.seen[e.Scan.ID], b.scans = true, append(b.scans, *e.Scan)
		if c.tells && e.Tell > 0 {
			c.untold = append(c.untold, e)
			poke(c.news)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// enter writes a line, with the lock held.
func (c *company) enter(l line) *entry {
	l.N, l.At = c.last+1, time.Now().UTC()
	e := &entry{line: l, durable: c.journal.Append(l)}
	c.book(e)
	return e
}

// once answers what a key did before, or does it.
func (c *company) once(kind, key, fingerprint string, do func() (*entry, error)) (line, error) {
	c.mu.Lock()
	e := c.byKey[kind+"/"+key]
	if e == nil {
		var err error
		if e, err = do(); err != nil {
			c.mu.Unlock()
			return line{}, err
		}
	}
	c.mu.Unlock()
	if e.Fingerprint != fingerprint {
		return line{}, errKeyReused
	}
	return e.line, e.wait()
}

// take books, or refuses with a code.
func (c *company) take(l line, fates []string) (line, error) {
	return c.once(lineBook, l.Key, l.Fingerprint, func() (*entry, error) {
		n := c.last + 1
		l.Kind, l.Reference = lineBook, fmt.Sprintf("cb_%08d", n)
		for i := range l.Parcels {
			l.Parcels[i].Tracking = fmt.Sprintf("SB%03d%08d%02d", c.branch, n, i+1)
			if l.Code == "" {
				l.Parcels[i].Fate = fates[i]
			}
		}
		e := c.enter(l)
		if b := c.bookings[l.Reference]; b != nil && !b.handed.IsZero() {
			c.travel(b)
		}
		return e, nil
	})
}

// cancel gives a booking back that is not handed over.
func (c *company) cancel(key, reference string) error {
	_, err := c.once(lineCancel, key, reference, func() (*entry, error) {
		b := c.bookings[reference]
		switch {
		case b == nil:
			return nil, errUnknown
		case b.manifested || !b.handed.IsZero() && b.handed.Before(time.Now()):
			return nil, errHanded
		}
		return c.enter(line{Kind: lineCancel, Key: key, Fingerprint: reference, Reference: reference}), nil
	})
	return err
}

// hand takes bookings over; from here on they travel.
func (c *company) hand(key, fingerprint string, references []string) (line, error) {
	return c.once(lineManifest, key, fingerprint, func() (*entry, error) {
		for _, ref := range references {
			b := c.bookings[ref]
			if b == nil || b.cancelled {
				return nil, fmt.Errorf("%s: %w", ref, errUnknown)
			}
			if b.manifested {
				return nil, fmt.Errorf("%s: %w", ref, errHanded)
			}
		}
		e := c.enter(line{Kind: lineManifest, Key: key, Fingerprint: fingerprint, Reference: fmt.Sprintf("cm_%08d", c.last+1), Bookings: references})
		for _, ref := range references {
			c.travel(c.bookings[ref])
		}
		return e, nil
	})
}

// pickup promises to come.
func (c *company) pickup(key, fingerprint string) (line, error) {
	return c.once(linePickup, key, fingerprint, func() (*entry, error) {
		return c.enter(line{Kind: linePickup, Key: key, Fingerprint: fingerprint, Reference: fmt.Sprintf("cp_%08d", c.last+1)}), nil
	})
}

// travel plans the scans of a booking that are not in the books, with the lock
// held.
func (c *company) travel(b *booking) {
	if b.cancelled {
		return
	}
	for _, p := range b.Parcels {
		for n, s := range route(b.From != b.To, p.Fate) {
			v := scan{
				ID: fmt.Sprintf("%s-%02d", p.Tracking, n), Booking: b.Reference, Tracking: p.Tracking, Code: s.code, Text: s.text, Reason: s.reason,
				Place: "hub", Country: b.From, Happened: s.after(b.handed, c.hour),
			}
			if s.there {
				v.Country = b.To
			}
			due := v.Happened
			// An untidy company tells of the van after it told of the delivery.
			if c.untidy && s.code == "out" {
				due = due.Add(6 * c.hour)
			}
			if !b.seen[v.ID] {
				c.plans = append(c.plans, plan{due, b, v})
			}
		}
	}
	slices.SortStableFunc(c.plans, func(a, b plan) int { return a.due.Compare(b.due) })
	poke(c.changed)
}

// run scans parcels when they are due, until stop is closed.
func (c *company) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-c.changed:
		case <-timer.C:
		}
		timer.Reset(c.scanDue(time.Now()))
	}
}

// scanDue enters what is due and answers how long it is until the next.
func (c *company) scanDue(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(c.plans) && !c.plans[n].due.After(now) {
		p := c.plans[n]
		n++
		// Cancelled or known meanwhile.
		if p.booking.cancelled || p.booking.seen[p.scan.ID] {
			continue
		}
		times := 1
		if c.untidy {
			times = 2
		}
		for range times {
			c.enter(line{Kind: lineScan, Reference: p.booking.Reference, Scan: &p.scan, Tell: 1})
		}
	}
	c.plans = c.plans[n:]
	if len(c.plans) == 0 {
		return time.Hour
	}
	return time.Until(c.plans[0].due)
}

// lookup tells what became of a booking's key.
func (c *company) lookup(key string) (line, bool, error) {
	c.mu.Lock()
	e := c.byKey[lineBook+"/"+key]
	var cancelled bool
	if e != nil {
		if b := c.bookings[e.Reference]; b != nil {
			cancelled = b.cancelled
		}
	}
	c.mu.Unlock()
	if e == nil {
		return line{}, false, errUnknown
	}
	return e.line, cancelled, e.wait()
}

// scans are the facts of a booking.
func (c *company) scans(reference string) ([]scan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.bookings[reference]
	if b == nil {
		return nil, errUnknown
	}
	return slices.Clone(b.scans), nil
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
	body, err := json.Marshal(e.Scan)
	if err != nil {
		return nil // a scan is strings and a time
	}
	return &webhook.Message{N: e.N, ID: "msg_" + e.Scan.ID + "_" + strconv.FormatInt(e.N, 10), Body: body, Times: e.Tell, Wait: e.wait}
}

// News implements webhook.Source.
func (c *company) News() <-chan struct{} { return c.news }

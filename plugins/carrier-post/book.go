package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/entrepot/entrepot/sdk/journal"
)

// line is one line of the post's journal: a booking, a cancellation, a manifest,
// a pickup, a scan. It holds no name and no address.
type line struct {
	N    int64     `json:"n"`
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	// Key is the caller's, Fingerprint the SHA-256 of what was asked with it.
	Key         string `json:"key,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Reference   string `json:"reference"`
	Service     string `json:"service,omitempty"`
	// Items by parcel, in the order of the request.
	Parcels  []string `json:"parcels,omitempty"`
	Items    []string `json:"items,omitempty"`
	Minor    int64    `json:"minor,omitempty"`
	Currency string   `json:"currency,omitempty"`
	Code     string   `json:"code,omitempty"`
	Bookings []string `json:"bookings,omitempty"`
	Scan     *scan    `json:"scan,omitempty"`
}

const (
	lineBook     = "book"
	lineCancel   = "cancel"
	lineManifest = "manifest"
	linePickup   = "pickup"
	lineScan     = "scan"
)

func number(l line) int64 { return l.N }

// entry is a line; durable tells when it is on disk.
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

// office keeps the post's books: item numbers, each given once for ever, and
// what stands under them. Safe for concurrent use.
type office struct {
	country string

	mu      sync.Mutex
	journal *journal.Journal[line]
	last    int64
	// next is the next item number.
	next  int64
	byKey map[string]*entry
	books map[string]*booked // by reference
	items map[string]string  // reference by item
	// read is how far each scanning file was read.
	read map[string]int64
}

type booked struct {
	*entry
	cancelled, handed bool
	scans             []scan
}

var (
	errKeyReused = errors.New("the key was used for something else")
	errUnknown   = errors.New("no such booking")
	errHanded    = errors.New("it is handed over")
)

func openOffice(country string, first int64, j *journal.Journal[line], all []line) *office {
	o := &office{
		country: country, journal: j, next: max(first, 1), byKey: map[string]*entry{}, books: map[string]*booked{}, items: map[string]string{},
		read: map[string]int64{},
	}
	for _, l := range all {
		o.book(&entry{line: l})
	}
	return o
}

// book enters a line into the books in memory, with the lock held.
func (o *office) book(e *entry) {
	o.last = e.N
	if e.Key != "" {
		o.byKey[e.Kind+"/"+e.Key] = e
	}
	switch e.Kind {
	case lineBook:
		o.books[e.Reference] = &booked{entry: e}
		for _, item := range e.Items {
			o.items[item] = e.Reference
			var n int64
			if _, err := fmt.Sscanf(item[2:10], "%d", &n); err == nil {
				o.next = max(o.next, n+1)
			}
		}
	case lineCancel:
		if b := o.books[e.Reference]; b != nil {
			b.cancelled = true
		}
	case lineManifest:
		for _, ref := range e.Bookings {
			if b := o.books[ref]; b != nil {
				b.handed = true
			}
		}
	case lineScan:
		o.read[e.Scan.File] = e.Scan.End
		if b := o.books[o.items[e.Scan.Item]]; b != nil {
			b.scans = append(b.scans, *e.Scan)
		}
	}
}

func (o *office) enter(l line) *entry {
	l.N, l.At = o.last+1, time.Now().UTC()
	e := &entry{line: l, durable: o.journal.Append(l)}
	o.book(e)
	return e
}

// once answers what a key did before, or does it.
func (o *office) once(kind, key, fingerprint string, do func() (line, error)) (line, error) {
	o.mu.Lock()
	e := o.byKey[kind+"/"+key]
	if e == nil {
		l, err := do()
		if err != nil {
			o.mu.Unlock()
			return line{}, err
		}
		l.Kind, l.Key, l.Fingerprint = kind, key, fingerprint
		e = o.enter(l)
	}
	o.mu.Unlock()
	if e.Fingerprint != fingerprint {
		return line{}, errKeyReused
	}
	return e.line, e.wait()
}

// take gives parcels their item numbers: as many of the eight digits as there
// are parcels, whose number is on disk before anybody hears of it.
func (o *office) take(key, fingerprint, prefix string, l line) (line, error) {
	return o.once(lineBook, key, fingerprint, func() (line, error) {
		l.Reference = fmt.Sprintf("post_%08d", o.last+1)
		if l.Code != "" {
			return l, nil
		}
		for i := range l.Parcels {
			item, err := s10(prefix, o.next+int64(i), o.country)
			if err != nil {
				return line{}, err
			}
			l.Items = append(l.Items, item)
		}
		return l, nil
	})
}

func (o *office) cancel(key, reference string) error {
	_, err := o.once(lineCancel, key, reference, func() (line, error) {
		b := o.books[reference]
		switch {
		case b == nil || b.Code != "":
			return line{}, errUnknown
		case b.handed || len(b.scans) > 0:
			return line{}, errHanded
		}
		return line{Reference: reference}, nil
	})
	return err
}

func (o *office) hand(key, fingerprint string, references []string) (line, []string, error) {
	var items []string
	l, err := o.once(lineManifest, key, fingerprint, func() (line, error) {
		for _, ref := range references {
			b := o.books[ref]
			if b == nil || b.cancelled || b.Code != "" {
				return line{}, fmt.Errorf("%s: %w", ref, errUnknown)
			}
			if b.handed {
				return line{}, fmt.Errorf("%s: %w", ref, errHanded)
			}
		}
		return line{Reference: fmt.Sprintf("manifest_%08d", o.last+1), Bookings: references}, nil
	})
	if err != nil {
		return line{}, nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ref := range l.Bookings {
		items = append(items, o.books[ref].Items...)
	}
	return l, items, nil
}

func (o *office) pickup(key, fingerprint string) (line, error) {
	return o.once(linePickup, key, fingerprint, func() (line, error) {
		return line{Reference: fmt.Sprintf("pickup_%08d", o.last+1)}, nil
	})
}

func (o *office) lookup(key string) (l line, cancelled bool, err error) {
	o.mu.Lock()
	e := o.byKey[lineBook+"/"+key]
	if e != nil {
		cancelled = o.books[e.Reference].cancelled
	}
	o.mu.Unlock()
	if e == nil {
		return line{}, false, errUnknown
	}
	return e.line, cancelled, e.wait()
}

func (o *office) scans(reference string) ([]scan, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.books[reference]
	if b == nil {
		return nil, errUnknown
	}
	return slices.Clone(b.scans), nil
}

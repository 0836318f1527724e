package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
)

// scan is a line of the post's scanning files: an event of the UPU's EMSEVT.
type scan struct {
	Item    string    `json:"item"`
	Event   string    `json:"event"`
	At      time.Time `json:"at"`
	Office  string    `json:"office,omitempty"`
	Country string    `json:"country,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	// File and End are where it was read.
	File string `json:"file,omitempty"`
	End  int64  `json:"end,omitempty"`
}

// events are the codes of EMSEVT V3 with what they say of an item.
var events = map[string]event{
	"EMA": {providerv1.Status_STATUS_HANDED_OVER, "posting or collection", ""},
	"EMB": {providerv1.Status_STATUS_IN_TRANSIT, "arrival at outward office of exchange", ""},
	"EMC": {providerv1.Status_STATUS_IN_TRANSIT, "departure from outward office of exchange", ""},
	"EMD": {providerv1.Status_STATUS_IN_TRANSIT, "arrival at inward office of exchange", ""},
	"EDB": {providerv1.Status_STATUS_ON_HOLD, "presented to import customs", "CUSTOMS_INSPECTION"},
	"EME": {providerv1.Status_STATUS_ON_HOLD, "held by import customs", "CUSTOMS_HELD"},
	"EDC": {providerv1.Status_STATUS_IN_TRANSIT, "returned from import customs", ""},
	"EMF": {providerv1.Status_STATUS_IN_TRANSIT, "departure from inward office of exchange", ""},
	"EMG": {providerv1.Status_STATUS_IN_TRANSIT, "arrival at delivery office", ""},
	"EDG": {providerv1.Status_STATUS_OUT_FOR_DELIVERY, "out for physical delivery", ""},
	"EDH": {providerv1.Status_STATUS_READY_FOR_PICKUP, "arrival at collection point", ""},
	"EMH": {providerv1.Status_STATUS_DELIVERY_FAILED, "attempted delivery", ""},
	"EMI": {providerv1.Status_STATUS_DELIVERED, "final delivery", ""},
}

// event is what a code says of an item, and why when the scanner does not.
type event struct {
	status providerv1.Status
	text   string
	reason string
}

// Bounds of what is read at a time: the rest is read the next time.
const (
	scanEvery   = 2 * time.Second
	maxScanLine = 4096
	maxScans    = 500
	// publishTimeout bounds one telling: a bus that hangs does not keep the post
	// from closing its books.
	publishTimeout = 10 * time.Second
)

// watch reads the scanning files until stop is closed. There is no signal for a
// file that grows: it is looked at.
func (a *adapter) watch(ctx context.Context, o *office, stop <-chan struct{}) {
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	for {
		if err := a.readScans(ctx, o); err != nil {
			a.in.Log.WarnContext(ctx, "scanning files", "folder", a.cfg.EventsDir, "error", err)
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// readScans publishes what the files have gained. An event is published first,
// under its place in the file, and entered after: a crash between the two
// publishes it again, and the bus knows it.
func (a *adapter) readScans(ctx context.Context, o *office) error {
	paths, err := filepath.Glob(filepath.Join(a.cfg.EventsDir, "*.jsonl"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	var all error
	for _, path := range paths {
		all = errors.Join(all, a.readFile(ctx, o, path))
	}
	return all
}

func (a *adapter) readFile(ctx context.Context, o *office, path string) error {
	name := filepath.Base(path)
	o.mu.Lock()
	at := o.read[name]
	o.mu.Unlock()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if i, err := f.Stat(); err != nil {
		return err
	} else if i.Size() < at {
		return fmt.Errorf("%s: was longer before: scanners append to a file, and begin another", name)
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, maxScanLine)
	for range maxScans {
		raw, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil // a line that is being written is read when it is whole
		case errors.Is(err, bufio.ErrBufferFull):
			rest, err := pastLine(r)
			if errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			at += rest
			raw = nil
		case err != nil:
			return err
		}
		at += int64(len(raw))
		var s scan
		if err := json.Unmarshal(raw, &s); err != nil || len(s.Item) != 13 || s.At.IsZero() {
			a.in.Log.WarnContext(ctx, "a scan that cannot be read is passed over", "file", name, "until", at)
			s = scan{}
		}
		s.File, s.End = name, at
		o.mu.Lock()
		reference := o.items[s.Item]
		o.mu.Unlock()
		if reference != "" {
			event := &providerv1.TrackingUpdated{Instance: a.in.Name, Reference: reference, Facts: []*providerv1.Fact{fact(s)}}
			if err := a.publish(ctx, event, name+":"+strconv.FormatInt(at, 10)); err != nil {
				return err
			}
		}
		o.mu.Lock()
		e := o.enter(line{Kind: lineScan, Reference: reference, Scan: &s})
		o.mu.Unlock()
		if err := e.wait(); err != nil {
			return err
		}
	}
	return nil
}

// pastLine reads to the end of a line that is too long to be a scan, and
// answers how long it was.
func pastLine(r *bufio.Reader) (n int64, err error) {
	n = maxScanLine
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

// publish tells of an event. One that the bus will never take is passed over:
// the scans after it are not kept waiting for ever.
func (a *adapter) publish(ctx context.Context, event *providerv1.TrackingUpdated, dedupe string) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	err := a.in.Host.Publish(ctx, a.in.Name, event, dedupe)
	if connect.CodeOf(err) == connect.CodeInvalidArgument {
		a.in.Log.WarnContext(ctx, "a scan that cannot be told is passed over", "scan", dedupe, "error", err)
		return nil
	}
	return err
}

func fact(s scan) *providerv1.Fact {
	e := events[s.Event]
	why := reason(s.Reason)
	if why == "" {
		why = e.reason
	}
	country := s.Country
	if len(country) != 2 || !letters(country) {
		country = ""
	}
	return &providerv1.Fact{
		FactId: s.File + ":" + strconv.FormatInt(s.End, 10), TrackingNumber: s.Item, Status: e.status, Code: clip(s.Event, 64), Text: e.text, Reason: why,
		Place: clip(s.Office, 100), CountryCode: country, At: timestamppb.New(s.At),
	}
}

// reason keeps what is a reason of the contract's form.
func reason(s string) string {
	for i, c := range s {
		if !(c >= 'A' && c <= 'Z' || i > 0 && (c == '_' || c >= '0' && c <= '9')) || i > 63 {
			return "OTHER"
		}
	}
	return s
}

// clip keeps so many characters of a text.
func clip(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}

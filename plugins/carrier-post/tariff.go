package main

import (
	"bytes"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/entrepot/entrepot/sdk/money"
)

//go:embed tables/*.csv
var examples embed.FS

// tariff is a row of the table: what items of a service up to a weight cost to
// a zone.
type tariff struct {
	service, title, prefix, zone, currency string
	maxGrams, days, maxLength, maxGirth    int32
	minor                                  int64
}

// tables are what the operator edits.
type tables struct {
	tariffs []tariff
	zones   map[string]string
}

// zone of a country; "*" stands for every one that is not named.
func (t *tables) zone(country string) string {
	if z, ok := t.zones[country]; ok {
		return z
	}
	return t.zones["*"]
}

// price is the tariff of an item: the lightest class that it fits in. Items of
// unknown size fit by their weight. Ways back cost what the way there does.
func (t *tables) price(service, country string, grams, length, width, height int32) *tariff {
	zone := t.zone(country)
	var best *tariff
	for i := range t.tariffs {
		r := &t.tariffs[i]
		fits := grams <= r.maxGrams && (r.maxLength == 0 || max(length, width, height) <= r.maxLength) &&
			(r.maxGirth == 0 || length+2*(width+height) <= r.maxGirth)
		if r.service == service && r.zone == zone && fits && (best == nil || r.maxGrams < best.maxGrams) {
			best = r
		}
	}
	return best
}

// services are the names of what is sold, in the table's order.
func (t *tables) services() (names []string) {
	for _, r := range t.tariffs {
		if !slices.Contains(names, r.service) {
			names = append(names, r.service)
		}
	}
	return names
}

// limit is the most an item of a service may measure anywhere in a zone.
func (t *tables) limit(service, zone string) (grams, length, girth int32) {
	for _, r := range t.tariffs {
		if r.service == service && r.zone == zone {
			grams, length, girth = max(grams, r.maxGrams), max(length, r.maxLength), max(girth, r.maxGirth)
		}
	}
	return grams, length, girth
}

// maxTable bounds a file.
const maxTable = 1 << 20

// parseTariffs and parseZones read a table; errors name the file and the line.
func parseTariffs(name string, b []byte) (out []tariff, err error) {
	err = rows(name, b, "service,title,prefix,zone,max_grams,price_minor,currency,days,max_length_mm,max_girth_mm", func(f []string) error {
		r := tariff{service: f[0], title: f[1], prefix: f[2], zone: f[3], currency: f[6]}
		var n [5]int64
		for i, at := range []int{4, 5, 7, 8, 9} {
			v, err := strconv.ParseInt(f[at], 10, 64)
			if err != nil || v < 0 || v > 100_000_000 {
				return fmt.Errorf("%q is no whole number of at most 100000000", f[at])
			}
			n[i] = v
		}
		r.maxGrams, r.minor, r.days, r.maxLength, r.maxGirth = int32(n[0]), n[1], int32(n[2]), int32(n[3]), int32(n[4])
		_, known := money.Lookup(r.currency)
		switch {
		case r.service == "" || len(r.service) > 64 || r.zone == "" || len(r.title) > 200:
			return errors.New("a service of at most 64 letters and a zone are wanted")
		case len(r.prefix) != 2 || !letters(r.prefix):
			return fmt.Errorf("prefix %q: two capital letters of an S10 service indicator are wanted, like CP", r.prefix)
		case !known:
			return fmt.Errorf("currency %q is none of ISO 4217", r.currency)
		case r.maxGrams == 0 || r.days > 365:
			return errors.New("max_grams must be more than 0, and days at most 365")
		}
		out = append(out, r)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s: no tariff in it", name)
	}
	return out, err
}

func parseZones(name string, b []byte) (map[string]string, error) {
	out := map[string]string{}
	return out, rows(name, b, "country,zone", func(f []string) error {
		switch {
		case f[0] != "*" && (len(f[0]) != 2 || !letters(f[0])):
			return fmt.Errorf("country %q: two capital letters of ISO 3166-1 are wanted, or *", f[0])
		case out[f[0]] != "":
			return fmt.Errorf("country %s stands twice", f[0])
		case f[1] == "":
			return errors.New("a zone is wanted")
		}
		out[f[0]] = f[1]
		return nil
	})
}

func rows(name string, b []byte, header string, row func(fields []string) error) error {
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord = strings.Count(header, ",") + 1
	first := true
	for {
		f, err := r.Read()
		if errors.Is(err, io.EOF) {
			if first {
				return fmt.Errorf("%s: empty; its first line must be %s", name, header)
			}
			return nil
		}
		var pe *csv.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("%s:%d: %w", name, pe.Line, pe.Err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line, _ := r.FieldPos(0)
		if first {
			if first = false; strings.Join(f, ",") != header {
				return fmt.Errorf("%s:%d: the first line must be %s", name, line, header)
			}
			continue
		}
		if err := row(f); err != nil {
			return fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
}

// shelf holds the tables and reads them again when their files change. A broken
// edit changes nothing and is told. Safe for concurrent use.
type shelf struct {
	tariffs, zones string // paths; empty is the example

	mu    sync.Mutex
	good  *tables
	seen  [2]stamp
	fault error
}

type stamp struct {
	size int64
	at   time.Time
}

// tables are the last good ones; the error is what is wrong with the newest.
func (s *shelf) tables() (*tables, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := [2]stamp{stampOf(s.tariffs), stampOf(s.zones)}
	if s.good != nil && now == s.seen {
		return s.good, s.fault
	}
	t := &tables{}
	b, err := read(s.tariffs, "tables/tariffs.csv")
	if err == nil {
		t.tariffs, err = parseTariffs(named(s.tariffs), b)
	}
	if err == nil {
		if b, err = read(s.zones, "tables/zones.csv"); err == nil {
			t.zones, err = parseZones(named(s.zones), b)
		}
	}
	s.seen, s.fault = now, err
	if err == nil {
		s.good = t
	}
	return s.good, s.fault
}

func named(path string) string {
	if path == "" {
		return "example"
	}
	return path
}

func stampOf(path string) stamp {
	if path == "" {
		return stamp{}
	}
	st, err := os.Stat(path)
	if err != nil {
		return stamp{size: -1}
	}
	return stamp{st.Size(), st.ModTime()}
}

func read(path, example string) ([]byte, error) {
	if path == "" {
		return examples.ReadFile(example)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err == nil && len(b) > maxTable {
		err = fmt.Errorf("%s: more than %d bytes", path, maxTable)
	}
	return b, err
}

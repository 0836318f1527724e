package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFile is the largest register, in bytes, and maxLine its longest line of
	// JSON.
	maxFile = 128 << 20
	maxLine = 4 << 10
)

// readRegisters reads the operator's files. Errors name file and line.
func readRegisters(names []string) (registers, error) {
	all := make(registers)
	lines := 0
	for _, name := range names {
		read := readCSV
		switch filepath.Ext(name) {
		case ".csv":
		case ".jsonl", ".ndjson":
			read = readJSON
		default:
			return nil, fmt.Errorf("%s: want a name that ends in .csv or .jsonl", name)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		base := filepath.Base(name)
		err = read(io.LimitReader(f, maxFile+1), func(n int, l line, err error) error {
			if lines++; err == nil && lines > maxLines {
				err = fmt.Errorf("more than %d lines in all", maxLines)
			}
			if err == nil {
				err = all.add(strings.TrimSuffix(base, filepath.Ext(base)), l)
			}
			if err != nil {
				return fmt.Errorf("%s:%d: %w", base, n, err)
			}
			return nil
		})
		if i, serr := f.Stat(); serr == nil && i.Size() > maxFile {
			err = fmt.Errorf("%s: larger than %d bytes", base, maxFile)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// take is given each line with its number, and an error where it could not be
// read.
type take func(n int, l line, err error) error

func readCSV(from io.Reader, take take) error {
	r := csv.NewReader(from)
	r.ReuseRecord, r.Comment = true, '#'
	head, err := r.Read()
	if err != nil {
		return take(1, line{}, errors.New("the first line names the columns: gtin,serial and others"))
	}
	columns := slices.Clone(head)
	for i, c := range columns {
		if !slices.Contains([]string{"gtin", "serial", "serial_to", "made_on", "country", "complete"}, c) || slices.Contains(columns[:i], c) {
			return take(1, line{}, fmt.Errorf("column %q: want gtin, serial, serial_to, made_on, country, complete, each once", c))
		}
	}
	if !slices.Contains(columns, "gtin") {
		return take(1, line{}, errors.New("there is no column gtin"))
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			return take(bad.Line, line{}, bad.Err)
		}
		if err != nil {
			return err
		}
		n, _ := r.FieldPos(0)
		l, err := ofColumns(columns, row)
		if err := take(n, l, err); err != nil {
			return err
		}
	}
}

func ofColumns(columns, row []string) (l line, err error) {
	for i, c := range columns {
		v := strings.Clone(row[i])
		switch c {
		case "gtin":
			l.GTIN = v
		case "serial":
			l.Serial = v
		case "serial_to":
			l.SerialTo = v
		case "made_on":
			l.MadeOn = v
		case "country":
			l.Country = v
		case "complete":
			if v == "" {
				continue
			}
			if l.Complete, err = strconv.ParseBool(v); err != nil {
				return l, fmt.Errorf("complete %q: want true or false", v)
			}
		}
	}
	return l, nil
}

func readJSON(from io.Reader, take take) error {
	s := bufio.NewScanner(from)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		text := bytes.TrimSpace(s.Bytes())
		if len(text) == 0 {
			continue
		}
		var l line
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		err := d.Decode(&l)
		if err == nil && d.More() {
			err = errors.New("more than one object")
		}
		if err := take(n, l, err); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return take(n+1, line{}, err)
	}
	return nil
}

// library is the registers of an instance, read again when a file changes. A
// change that cannot be read leaves the registers as they were.
type library struct {
	names []string
	every time.Duration
	log   *slog.Logger

	now atomic.Pointer[registers]
	// mu is held by who looks at the files; nobody waits for it.
	mu     sync.Mutex
	looked time.Time
	seen   []fs.FileInfo
	err    atomic.Pointer[error]
}

func openLibrary(names []string, every time.Duration, log *slog.Logger) (*library, error) {
	l := &library{names: names, every: every, log: log, looked: time.Now(), seen: stat(names)}
	all, err := readRegisters(names)
	if err != nil {
		return nil, err
	}
	l.now.Store(&all)
	return l, nil
}

// registers are the current ones.
func (l *library) registers() registers {
	if l.mu.TryLock() {
		defer l.mu.Unlock()
		if time.Since(l.looked) >= l.every {
			l.look()
		}
	}
	return *l.now.Load()
}

func (l *library) look() {
	l.looked = time.Now()
	seen := stat(l.names)
	if slices.EqualFunc(seen, l.seen, same) {
		return
	}
	all, err := readRegisters(l.names)
	l.seen = seen
	if err != nil {
		l.err.Store(&err)
		l.log.Error("a register changed and cannot be read; the one before stays in force", "error", err)
		return
	}
	l.err.Store(nil)
	l.now.Store(&all)
	l.log.Info("registers read", "gtins", len(all))
}

// failure is why the files are not what is in force; nil when they are.
func (l *library) failure() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

// stat tells of each file what changes with it; nil for one that is not there.
func stat(names []string) []fs.FileInfo {
	out := make([]fs.FileInfo, len(names))
	for i, name := range names {
		if info, err := os.Stat(name); err == nil {
			out[i] = info
		}
	}
	return out
}

func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// Package journal keeps the books of a provider that has no database: a
// carrier's numbers that must never be given twice, a practice company's
// operations. It survives kill -9.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Journal is an append-only file of records, one line of JSON each, synced to
// disk before an append is over. Appends that come together share one sync. One
// process writes at a time; the next waits for it. Safe for concurrent use.
type Journal[T any] struct {
	file  *os.File
	queue chan appended
	done  chan struct{}
	once  sync.Once
}

type appended struct {
	line []byte
	done chan error
}

// ErrTorn is returned beside a journal that is open, and its records, when the
// last line was cut off by a crash; its append was never over, and it is gone.
var ErrTorn = errors.New("the last line was cut off and is dropped")

// maxQueue bounds appends that wait for the disk.
const maxQueue = 1024

// Open reads what is there and makes ready to append. number is a record's own
// number: lines are numbered from 1 without a gap, so that a book that was
// changed is seen. Another process that still writes is waited for until cancel
// is closed.
func Open[T any](path string, number func(T) int64, cancel <-chan struct{}) (*Journal[T], []T, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := lock(f, cancel); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	all, good, err := read(f, number)
	torn := errors.Is(err, ErrTorn)
	if err != nil && !torn {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if torn {
		err = f.Truncate(good)
	}
	if _, serr := f.Seek(good, io.SeekStart); err == nil {
		err = serr
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	j := &Journal[T]{file: f, queue: make(chan appended, maxQueue), done: make(chan struct{})}
	go j.write()
	if torn {
		return j, all, ErrTorn
	}
	return j, all, nil
}

// lock takes the file for this process. The one before ends its calls first:
// there is no signal to wait on but the lock itself.
func lock(f *os.File, cancel <-chan struct{}) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-cancel:
			return errors.New("another process still writes the journal")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// read reads records and tells how many bytes of them are good.
func read[T any](r io.Reader, number func(T) int64) (all []T, good int64, err error) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return all, good, ErrTorn
			}
			return all, good, nil
		}
		if err != nil {
			return all, good, err
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return all, good, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		if n := number(v); n != int64(len(all)+1) {
			return all, good, fmt.Errorf("line %d has number %d: the book was changed", len(all)+1, n)
		}
		all = append(all, v)
		good += int64(len(line))
	}
}

// Append writes a record and returns a channel that tells when it is on disk.
// Records reach the file in the order of the calls. After a write that failed
// every append fails: nobody knows what is on disk until the file is opened
// again. Not to be called after Close.
func (j *Journal[T]) Append(v T) <-chan error {
	a := appended{done: make(chan error, 1)}
	line, err := json.Marshal(v)
	if err != nil {
		a.done <- err
		return a.done
	}
	line = append(line, '\n')
	a.line = line
	j.queue <- a
	return a.done
}

// write is the one writer: everything that waits is one write and one sync.
func (j *Journal[T]) write() {
	defer close(j.done)
	var failed error
	for a := range j.queue {
		batch := []appended{a}
		for more := true; more && len(batch) < maxQueue; {
			select {
			case b, ok := <-j.queue:
				if more = ok; ok {
					batch = append(batch, b)
				}
			default:
				more = false
			}
		}
		var buf bytes.Buffer
		for _, b := range batch {
			buf.Write(b.line)
		}
		// After a failed write nobody knows what is on disk: nothing more is
		// written until the book is read again.
		if failed == nil {
			if _, failed = j.file.Write(buf.Bytes()); failed == nil {
				failed = j.file.Sync()
			}
		}
		for _, b := range batch {
			b.done <- failed
		}
	}
}

// Close ends the writer and lets the next process have the file.
func (j *Journal[T]) Close() {
	j.once.Do(func() {
		close(j.queue)
		<-j.done
		_ = j.file.Close()
	})
}

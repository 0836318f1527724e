package main

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

// record is one line of the journal: an operation, or the later end of one
// that was pending. README.md documents it for who reconciles against it.
type record struct {
	N  int64     `json:"n"`
	At time.Time `json:"at"`
	// Key is the caller's, Fingerprint the SHA-256 of what was asked with it.
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"`
	// Operation is authorize, capture, void or refund; Status succeeded,
	// declined or pending.
	Operation string `json:"operation"`
	Status    string `json:"status"`
	Currency  string `json:"currency"`
	// Minor is what was processed, in minor units.
	Minor int64 `json:"minor"`
	// Payment is the company's number of the payment, Reference of the
	// operation.
	Payment   string `json:"payment"`
	Reference string `json:"reference"`
	Merchant  string `json:"merchant_reference,omitempty"`
	Code      string `json:"code,omitempty"`
	// Tell is how many times the webhook of it is sent.
	Tell int `json:"tell,omitempty"`
}

// journal is the company's own book: append-only lines of JSON, each synced
// to disk before the operation is answered. Appends that come together share
// one sync. One process writes at a time.
type journal struct {
	file  *os.File
	queue chan appended
	done  chan struct{}
	once  sync.Once
}

type appended struct {
	line []byte
	done chan error
}

// errTorn is returned beside the records when the last line was cut off by a
// crash; it was never answered, and is gone.
var errTorn = errors.New("the last line was cut off and is dropped")

// maxQueue bounds appends that wait for the disk.
const maxQueue = 1024

// openJournal reads what is there and makes ready to append. Another process
// that still writes is waited for until cancel is closed.
func openJournal(path string, cancel <-chan struct{}) (*journal, []record, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := lock(f, cancel); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	all, good, err := readJournal(f)
	torn := errors.Is(err, errTorn)
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
	j := &journal{file: f, queue: make(chan appended, maxQueue), done: make(chan struct{})}
	go j.write()
	if torn {
		return j, all, errTorn
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

// readJournal reads records and tells how many bytes of them are good.
func readJournal(r io.Reader) (all []record, good int64, err error) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return all, good, errTorn
			}
			return all, good, nil
		}
		if err != nil {
			return all, good, err
		}
		var v record
		if err := json.Unmarshal(line, &v); err != nil {
			return all, good, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		if v.N != int64(len(all)+1) {
			return all, good, fmt.Errorf("line %d has number %d: the book was changed", len(all)+1, v.N)
		}
		all = append(all, v)
		good += int64(len(line))
	}
}

// append writes a record and returns a channel that tells when it is on disk.
// Records reach the file in the order of the calls.
func (j *journal) append(v record) <-chan error {
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
func (j *journal) write() {
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

// close ends the writer and lets the next process have the file.
func (j *journal) close() {
	j.once.Do(func() {
		close(j.queue)
		<-j.done
		_ = j.file.Close()
	})
}

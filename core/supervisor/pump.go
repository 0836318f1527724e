package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxLine bounds one log line; the rest of a longer one is dropped.
	maxLine = 16 << 10
	// lineCost is what a line counts beside its own bytes.
	lineCost = 128
	// bytesPerSecond and logBurst bound what one process can put into the log:
	// 11 GB a day at worst, which leaves time to see it.
	bytesPerSecond = 128 << 10
	logBurst       = 8 << 20
	// kept is how many last lines are shown when a process ends.
	kept = 8
)

// pump carries what a plugin writes into the kernel's log: well-formed,
// bounded lines, whatever came in. It never blocks the plugin.
type pump struct {
	log   *slog.Logger
	limit *rate.Limiter

	mu       sync.Mutex
	last     []string
	dropped  int
	panicked bool
}

func newPump(log *slog.Logger) *pump {
	return &pump{log: log, limit: rate.NewLimiter(bytesPerSecond, logBurst)}
}

// run reads lines until the end.
func (p *pump) run(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			p.line(text)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			p.confess()
			return
		}
	}
}

func (p *pump) line(text string) {
	p.mu.Lock()
	if len(p.last) == kept {
		p.last = p.last[1:]
	}
	p.last = append(p.last, text)
	ok := p.limit.AllowN(time.Now(), len(text)+lineCost)
	if !ok {
		p.dropped++
	}
	p.mu.Unlock()
	if ok {
		p.confess()
		p.emit(text)
	}
}

// confess says how many lines are missing before what follows.
func (p *pump) confess() {
	p.mu.Lock()
	n := p.dropped
	p.dropped = 0
	p.mu.Unlock()
	if n > 0 {
		p.log.Warn("log lines of the plugin were dropped: it writes too much", "lines", n)
	}
}

// ours are keys of the kernel's log that a plugin cannot write.
var ours = []string{slog.TimeKey, slog.LevelKey, slog.MessageKey, slog.SourceKey, "plugin"}

// emit logs one line. JSON with hclog's keys keeps level, message and fields;
// a field of an unexpected type is a field like any other.
func (p *pump) emit(text string) {
	ctx := context.Background()
	var fields map[string]any
	if text[0] != '{' || json.Unmarshal([]byte(text), &fields) != nil {
		p.log.Log(ctx, p.plainLevel(text), text)
		return
	}
	message, _ := fields["@message"].(string)
	level, _ := fields["@level"].(string)
	for _, k := range []string{"@message", "@level", "@timestamp"} {
		if _, ok := fields[k].(string); ok {
			delete(fields, k)
		}
	}
	attrs := make([]slog.Attr, 0, len(fields))
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		v := fields[k]
		if slices.Contains(ours, k) {
			k = "its_" + k
		}
		attrs = append(attrs, slog.Any(k, v))
	}
	if message == "" {
		message = "(no message)"
	}
	p.log.LogAttrs(ctx, jsonLevel(level), message, attrs...)
}

func jsonLevel(s string) slog.Level {
	switch strings.ToLower(s) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// plainLevel makes a Go panic and the stack that follows it errors, and any
// other text information.
func (p *pump) plainLevel(s string) slog.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.panicked = p.panicked || strings.HasPrefix(s, "panic:") || strings.HasPrefix(s, "fatal error:")
	if p.panicked {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// tail is what the plugin wrote last.
func (p *pump) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.last, "\n")
}

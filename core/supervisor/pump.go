package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxLine bounds one log line; the rest of a longer one is dropped.
	maxLine = 16 << 10
	// linesPerSecond and burst bound what one plugin can put into the log.
	linesPerSecond = 500
	lineBurst      = 2000
	// kept is how many last lines are shown when a start fails.
	kept = 8
)

// pump carries what a plugin writes into the kernel's log: well-formed,
// bounded lines, whatever came in. It never blocks the plugin.
type pump struct {
	log   *slog.Logger
	limit *rate.Limiter

	mu      sync.Mutex
	last    []string
	dropped int
}

func newPump(log *slog.Logger) *pump {
	return &pump{log: log, limit: rate.NewLimiter(linesPerSecond, lineBurst)}
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
	if !p.limit.AllowN(time.Now(), 1) {
		p.dropped++
		p.mu.Unlock()
		return
	}
	dropped := p.dropped
	p.dropped = 0
	p.mu.Unlock()
	if dropped > 0 {
		p.log.Warn("log lines of the plugin were dropped: it writes too many", "lines", dropped)
	}
	p.emit(text)
}

// emit logs one line. JSON with hclog's keys keeps level, message and fields;
// a field of an unexpected type is a field like any other.
func (p *pump) emit(text string) {
	ctx := context.Background()
	var fields map[string]any
	if text[0] != '{' || json.Unmarshal([]byte(text), &fields) != nil {
		p.log.Log(ctx, plainLevel(text), text)
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
	for k, v := range fields {
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

// plainLevel makes a Go panic an error and any other text information.
func plainLevel(s string) slog.Level {
	if strings.HasPrefix(s, "panic:") || strings.HasPrefix(s, "fatal error:") {
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

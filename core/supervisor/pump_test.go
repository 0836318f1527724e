package supervisor

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pumped is the kernel's log of what a plugin wrote.
func pumped(t testing.TB, written io.Reader) (entries []map[string]any, size int) {
	t.Helper()
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})).With("plugin", "echo")
	newPump(log).run(written)
	for line := range strings.Lines(out.String()) {
		var e map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		require.Equal(t, 1, strings.Count(line, `"plugin":`), "nobody speaks for another: %s", line)
		entries = append(entries, e)
	}
	return entries, out.Len()
}

func TestWhateverIsWrittenBecomesAnEntry(t *testing.T) {
	for written, want := range map[string]map[string]any{
		`plain text`: {"level": "INFO", "msg": "plain text"},
		`{"@level":"WARN","@message":"hello","@timestamp":"now","order":"ord_1"}`: {"level": "WARN", "msg": "hello", "order": "ord_1"},
		`{"@level":"trace","@message":"hello"}`:                                   {"level": "DEBUG", "msg": "hello"},
		`{"@message":42,"@level":[],"@timestamp":{}}`:                             {"level": "INFO", "msg": "(no message)", "@message": 42.0, "@level": []any{}, "@timestamp": map[string]any{}},
		`{"@message":"x","plugin":"bank","level":"ERROR","msg":"y"}`:              {"level": "INFO", "msg": "x", "its_plugin": "bank", "its_level": "ERROR", "its_msg": "y"},
		`{"@message":`:    {"level": "INFO", "msg": `{"@message":`},
		`panic: boom`:     {"level": "ERROR", "msg": "panic: boom"},
		"\x00\xff\x1b[2J": {"level": "INFO", "msg": "\x00\ufffd\x1b[2J"},
	} {
		got, _ := pumped(t, strings.NewReader(written+"\n"))
		require.Len(t, got, 1, written)
		delete(got[0], "time")
		delete(got[0], "plugin")
		require.Equal(t, want, got[0], written)
	}
}

func TestTheStackOfAPanicIsAnErrorToo(t *testing.T) {
	got, _ := pumped(t, strings.NewReader("before\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()\n"))
	levels := make([]any, len(got))
	for i, e := range got {
		levels[i] = e["level"]
	}
	require.Equal(t, []any{"INFO", "ERROR", "ERROR", "ERROR"}, levels)
}

func TestAFloodIsBoundedAndWhatIsMissingIsSaid(t *testing.T) {
	for name, flood := range map[string]struct {
		line string
		size int64
	}{
		"of long lines":  {strings.Repeat("x", 100_000) + "\n", 128 << 20},
		"of short lines": {"x\n", 2 << 20},
	} {
		got, size := pumped(t, io.LimitReader(&endless{text: flood.line}, flood.size))
		require.Less(t, size, 2*logBurst, name)
		require.True(t, slices.ContainsFunc(got, func(e map[string]any) bool {
			n, _ := e["lines"].(float64)
			return e["level"] == "WARN" && n > 0
		}), name)
	}
	got, _ := pumped(t, io.LimitReader(&endless{text: strings.Repeat("x", 1000)}, 32<<20))
	require.Len(t, got, 1, "a line without an end is cut")
}

// endless repeats a text.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}

// FuzzPump: no line harms the kernel.
func FuzzPump(f *testing.F) {
	f.Add("{\"@message\": 42}\n")
	f.Add("panic: x\n{\"plugin\":{\"plugin\":1}}")
	f.Fuzz(func(t *testing.T, written string) {
		var out bytes.Buffer
		newPump(slog.New(slog.NewJSONHandler(&out, nil))).run(strings.NewReader(written))
		for line := range strings.Lines(out.String()) {
			require.True(t, json.Valid([]byte(line)))
		}
	})
}

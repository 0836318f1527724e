package serve

import (
	"io"
	"log/slog"
	"os"

	"github.com/entrepot/entrepot/sdk/handshake"
)

// takeStdout keeps the real standard output for the handshake line and gives
// everybody else a pipe into the log: nothing a library prints can spoil it.
func takeStdout() *os.File {
	own := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		os.Stdout = os.Stderr
		return own
	}
	os.Stdout = w
	go func() { _, _ = io.Copy(os.Stderr, r) }()
	return own
}

// logTo makes slog write JSON in hclog's key names.
func logTo(w io.Writer) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(os.Getenv(handshake.EnvLogLevel))) // unset or unknown: info
	slog.SetDefault(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				a.Key = "@timestamp"
			case slog.LevelKey:
				a.Key = "@level"
			case slog.MessageKey:
				a.Key = "@message"
			}
			return a
		},
	})))
}

package journal

import (
	"context"
	"log/slog"
	"time"
)

const (
	// opening bounds one try, so that calls which also want the books open are
	// not kept waiting behind it.
	opening   = time.Second
	reopening = 250 * time.Millisecond
)

// TakeOver calls open until it succeeds or ended is closed. Who works by the
// books without being called (scans files, tells by webhook) begins with it:
// the process before may still write them, and nobody may ever call.
// What fails is logged and tried again: whoever calls meanwhile is told.
func TakeOver[T any](ended <-chan struct{}, log *slog.Logger, open func(context.Context) (T, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		try, done := context.WithTimeout(ctx, opening)
		_, err := open(try)
		done()
		if err == nil || ctx.Err() != nil {
			return
		}
		log.DebugContext(ctx, "the books are not open yet", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reopening):
		}
	}
}

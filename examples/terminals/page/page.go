// Package page is what the terminals' examples share: waiting for what follows
// from an event, and reading the mails of a shop that writes them as files.
package page

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Eventually asks until it is so, or ctx ends.
func Eventually(ctx context.Context, so func() (bool, error)) error {
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Mailed waits for a mail to an address and answers the token in it.
func Mailed(ctx context.Context, folder, to string) (token string, err error) {
	return token, Eventually(ctx, func() (bool, error) {
		files, err := filepath.Glob(filepath.Join(folder, "*.eml"))
		for _, f := range files {
			mail, err := os.ReadFile(f)
			if err != nil || !strings.Contains(string(mail), to) {
				continue
			}
			for line := range strings.Lines(string(mail)) {
				if after, ok := strings.CutPrefix(line, "token: "); ok {
					token = strings.TrimSpace(after)
				}
			}
		}
		return token != "", err
	})
}

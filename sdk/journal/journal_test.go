package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type record struct {
	N   int64  `json:"n"`
	Key string `json:"key"`
}

func number(v record) int64 { return v.N }

// Cut at any byte, the journal opens with every whole line and nothing else.
func TestTheBooksSurviveBeingCutAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.jsonl")
	j, _, err := Open(path, number, nil)
	require.NoError(t, err)
	for n := range 3 {
		require.NoError(t, <-j.Append(record{N: int64(n + 1), Key: fmt.Sprint(n)}))
	}
	j.Close()
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	ends := []int{0}
	for i, c := range whole {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	for cut := range len(whole) + 1 {
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o600))
		j, all, err := Open(path, number, nil)
		want := 0
		for want+1 < len(ends) && ends[want+1] <= cut {
			want++
		}
		if cut == ends[want] {
			require.NoError(t, err, "cut at %d", cut)
		} else {
			require.ErrorIs(t, err, ErrTorn, "cut at %d", cut)
		}
		require.Len(t, all, want, "cut at %d", cut)
		require.NoError(t, <-j.Append(record{N: int64(want + 1), Key: "next"}))
		j.Close()
		_, all, err = reopen(path)
		require.NoError(t, err)
		require.Len(t, all, want+1)
	}
}

func reopen(path string) (*Journal[record], []record, error) {
	j, all, err := Open(path, number, nil)
	if j != nil {
		j.Close()
	}
	return j, all, err
}

func TestABookThatWasChangedIsNotOpened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	line, err := json.Marshal(record{N: 2})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(line, '\n'), 0o600))
	_, _, err = Open(path, number, nil)
	require.ErrorContains(t, err, "the book was changed")
}

func TestOneProcessWritesAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	first, _, err := Open(path, number, nil)
	require.NoError(t, err)
	cancel := make(chan struct{})
	close(cancel)
	_, _, err = Open(path, number, cancel)
	require.ErrorContains(t, err, "another process")
	first.Close()
	_, _, err = reopen(path)
	require.NoError(t, err)
}

func FuzzReadJournal(f *testing.F) {
	f.Add([]byte(`{"n":1,"key":"k","x":1}` + "\n" + `{"n":2`))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, good, err := read(bytes.NewReader(b), number)
		require.LessOrEqual(t, good, int64(len(b)))
		again, _, gerr := read(bytes.NewReader(b[:good]), number)
		require.NoError(t, gerr, "what is good stays good")
		require.Equal(t, all, again)
		if err == nil {
			require.EqualValues(t, len(b), good, "nothing is dropped in silence")
		}
	})
}

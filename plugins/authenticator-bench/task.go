package main

import (
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// task is goods that wait for inspectors, or have been seen by them. Its id is
// the key of its check. Times are in milliseconds since 1970.
type task struct {
	Case     string `json:"c,omitempty"`
	Unit     string `json:"u,omitempty"`
	SKU      string `json:"s,omitempty"`
	GTIN     string `json:"g,omitempty"`
	Serial   string `json:"n,omitempty"`
	Category string `json:"y,omitempty"`
	Quantity int64  `json:"q,omitempty"`
	Opened   int64  `json:"o"`
	// Sheets are what inspectors handed in, in that order; at most three.
	Sheets []sheet `json:"h,omitempty"`
	// Done is when it ended; 0 while it is open.
	Done int64 `json:"d,omitempty"`
}

// sheet is one inspector's answers.
type sheet struct {
	Inspector string            `json:"i"`
	Result    providerv1.Result `json:"r"`
	At        int64             `json:"a"`
	// Blob holds the answers, Photos the first of its photos.
	Blob   string   `json:"b"`
	Photos []string `json:"p,omitempty"`
}

const (
	// inspectors is the most that a task wants.
	inspectors = 3
	// photosTold is how many photos of a sheet the outcome names: with the
	// sheets no more than the contract's 20.
	photosTold = 5
	// sheetBytes is more than a sheet takes in the state.
	sheetBytes = 800
)

// openTasks has room for more than two thousand open tasks in its keys. Of
// those that are done the oldest are forgotten first, where room is wanted.
func openTasks(in *plugin.Instance) *state.Map[task] {
	m := state.Of[task](in, "task", 128)
	m.Growth = func(t task) int {
		if t.Done != 0 {
			return 0
		}
		return (inspectors - len(t.Sheets)) * sheetBytes
	}
	m.Spare = func(bucket map[string]task, keep string) (oldest string, ok bool) {
		for id, t := range bucket {
			if t.Done != 0 && id != keep && (!ok || t.Done < bucket[oldest].Done) {
				oldest, ok = id, true
			}
		}
		return oldest, ok
	}
	return m
}

// hand takes an inspector's sheet. Handed in again it changes nothing; two
// sheets of one person it does not take, nor any after the end.
func (t *task) hand(s sheet) (changed bool, err error) {
	for _, x := range t.Sheets {
		if x.Inspector != s.Inspector {
			continue
		}
		if x.Blob == s.Blob {
			return false, nil
		}
		return false, fault.New(connect.CodePermissionDenied, "SAME_PERSON", "you have answered already; another inspector answers next")
	}
	if t.Done != 0 {
		return false, fault.New(connect.CodeFailedPrecondition, "TASK_DONE", "the inspectors are done with this")
	}
	t.Sheets = append(t.Sheets, s)
	if result, _ := t.agreed(); result != 0 || len(t.Sheets) == inspectors {
		t.Done = s.At
	}
	return true, nil
}

// agreed is what two inspectors say, and how it came about.
func (t *task) agreed() (result providerv1.Result, reason string) {
	votes := make(map[providerv1.Result]int)
	for _, s := range t.Sheets {
		if votes[s.Result]++; votes[s.Result] < 2 {
			continue
		}
		if len(t.Sheets) == 2 {
			return s.Result, "INSPECTORS_AGREE"
		}
		return s.Result, "INSPECTORS_MAJORITY"
	}
	return 0, ""
}

// outcome is what the check is answered: pending until it is done.
func (t *task) outcome(key string) *providerv1.Outcome {
	out := &providerv1.Outcome{Key: key, Method: "manual"}
	if t.Done == 0 {
		out.Result, out.Reason, out.At = providerv1.Result_RESULT_PENDING, "TASK_OPEN", timestamppb.New(time.UnixMilli(t.Opened))
		return out
	}
	out.Result, out.Reason = t.agreed()
	if out.GetResult() == 0 {
		out.Result, out.Reason = providerv1.Result_RESULT_INCONCLUSIVE, "INSPECTORS_DIFFER"
	}
	out.Note = fmt.Sprintf("%d inspectors", len(t.Sheets))
	out.At = timestamppb.New(time.UnixMilli(t.Done))
	for _, s := range t.Sheets {
		out.Operators, out.BlobIds = append(out.Operators, s.Inspector), append(out.BlobIds, s.Blob)
	}
	for _, s := range t.Sheets {
		for _, p := range s.Photos {
			if !slices.Contains(out.GetBlobIds(), p) {
				out.BlobIds = append(out.BlobIds, p)
			}
		}
	}
	return out
}

// proto is the task as inspectors see it: while it is open, nothing of what
// others said.
func (t *task) proto(id string, questions []*benchv1.Question) *benchv1.Task {
	out := &benchv1.Task{
		TaskId: id, State: benchv1.Task_STATE_OPEN, CaseId: t.Case, UnitId: t.Unit, Sku: t.SKU, Gtin: t.GTIN, Serial: t.Serial,
		Category: t.Category, Quantity: t.Quantity, Questions: questions, Answered: int32(len(t.Sheets)),
		OpenedAt: timestamppb.New(time.UnixMilli(t.Opened)),
	}
	if t.Done == 0 {
		return out
	}
	out.State, out.Outcome = benchv1.Task_STATE_DONE, t.outcome(id)
	for _, s := range t.Sheets {
		out.Checklists = append(out.Checklists, &benchv1.Checklist{Inspector: s.Inspector, Result: s.Result, At: timestamppb.New(time.UnixMilli(s.At))})
	}
	return out
}

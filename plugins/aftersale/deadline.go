package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// Deadlines of a case or conversation.
const (
	deadlineDecide    = "decide"
	deadlineAnswer    = "answer"
	deadlineReception = "reception"
	deadlineRespond   = "respond"
)

func (c *caseFile) timer(what string) string { return c.ID + "/" + what }

// deadline asks to be told at a time.
func (c *caseFile) deadline(tx *store.Tx, what string, due time.Time) error {
	return tx.SetTimer(c.timer(what), due, &aftersalev1.DeadlineReached{SubjectId: c.ID, What: what, Due: timestamppb.New(due)})
}

// onDeadline does what is due: an application that nobody decided goes to the
// marketplace, an offer that nobody answered lapses, the rest of a return is
// not waited for any more.
func onDeadline(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.DeadlineReached]) error {
	due := e.Body.GetDue().AsTime()
	if e.Body.GetWhat() == deadlineRespond {
		return overdue(ctx, tx, e.Body.GetSubjectId(), due)
	}
	c, err := lockCaseBy(ctx, tx, "id", e.Body.GetSubjectId())
	if err != nil || c == nil {
		return err
	}
	switch {
	case e.Body.GetWhat() == deadlineDecide && c.State == stateRequested && c.DecideBy.Equal(due):
		return c.escalate(ctx, tx, "DECISION_OVERDUE", "system")
	case e.Body.GetWhat() == deadlineAnswer && c.State == stateOffered && c.AnswerBy.Equal(due):
		return c.backToDecision(ctx, tx, "offer.lapsed", "system")
	case e.Body.GetWhat() == deadlineReception && c.State == stateReceived && !c.Concluded:
		return c.conclude(ctx, tx, "system")
	}
	return nil
}

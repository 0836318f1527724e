package main

import (
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// caseState is where a case is, with the contract's numbers.
type caseState = inspectionv1.Case_State

const (
	opened     = inspectionv1.Case_STATE_OPENED
	collecting = inspectionv1.Case_STATE_COLLECTING
	checking   = inspectionv1.Case_STATE_CHECKING
	proposed   = inspectionv1.Case_STATE_PROPOSED
	confirmed  = inspectionv1.Case_STATE_CONFIRMED
	disposed   = inspectionv1.Case_STATE_ORDERED
	executed   = inspectionv1.Case_STATE_EXECUTED
	closed     = inspectionv1.Case_STATE_CLOSED
)

// ordered is what becomes of a case's goods; the first three have the
// contract's numbers.
type ordered int16

const (
	toNothing  ordered = 0
	toMerchant         = ordered(inspectionv1.OrderDispositionRequest_DISPOSITION_RETURN_TO_MERCHANT)
	toDamaged          = ordered(inspectionv1.OrderDispositionRequest_DISPOSITION_DAMAGED_STOCK)
	toRepair           = ordered(inspectionv1.OrderDispositionRequest_DISPOSITION_REPAIR)
	toEnd      ordered = 4
	toShelf    ordered = 5
)

// action is what somebody does with a case.
type action string

const (
	runChecks          action = "run checks"
	recordCheck        action = "record a check"
	propose            action = "propose a verdict"
	confirm            action = "confirm the verdict"
	reject             action = "reject the verdict"
	appeal             action = "appeal"
	orderDisposition   action = "order a disposition"
	orderDestruction   action = "order the destruction"
	confirmDestruction action = "confirm the destruction"
	closeCase          action = "close the case"
	reopenCase         action = "reopen the case"
	releaseSales       action = "release its sales"
)

// from are the states in which each action is done; where it leads to is with
// the action. A case is collecting while something that was asked is not
// answered, and checking when all of it is.
//
//	opened -> collecting <-> checking -> proposed -> confirmed -> ordered -> executed -> closed
//	proposed -> checking by a rejection; confirmed, and ordered while only a
//	destruction is ordered and not done, -> checking by an appeal; ordered ->
//	confirmed when the warehouse refused
var from = map[action][]caseState{
	runChecks:          {opened, collecting, checking},
	recordCheck:        {opened, collecting, checking},
	propose:            {opened, collecting, checking},
	confirm:            {proposed, confirmed},
	reject:             {proposed},
	appeal:             {confirmed, disposed},
	orderDisposition:   {confirmed},
	orderDestruction:   {confirmed},
	confirmDestruction: {disposed},
	closeCase:          {disposed, executed},
	reopenCase:         {disposed},
	releaseSales:       {confirmed, disposed, executed, closed},
}

// must refuses an action that the case's state does not take.
func (c *caseFile) must(a action) error {
	if slices.Contains(from[a], c.state) {
		return nil
	}
	return wrongState(a, c.state)
}

func wrongState(a action, state caseState) error {
	name := strings.ToLower(strings.TrimPrefix(state.String(), "STATE_"))
	return fault.New(connect.CodeFailedPrecondition, "CASE_STATE", "the case is "+name+"; one cannot "+string(a)+" now", "state", name)
}

func samePerson(words string) error {
	return fault.New(connect.CodePermissionDenied, "SAME_PERSON", words)
}

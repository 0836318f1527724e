package main

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

// step makes a running saga whose first step was done by who started it and
// whose second is this module's, and returns what undoes the one or calls the
// other.
func (h *house) step(t testing.TB, undo bool) caller {
	t.Helper()
	sid := uuid.NewString()
	_, err := h.Admin.Exec(t.Context(), `INSERT INTO bus.saga_def VALUES ('test/test', 1, 'p_inspection', '',
		ARRAY['', 'entrepot.inspection.v1'], array_fill('entrepot.inspection.v1'::text, '{2}')) ON CONFLICT DO NOTHING`)
	require.NoError(t, err)
	_, err = h.Admin.Exec(t.Context(), `INSERT INTO bus.saga (id, def, ver, key, input) VALUES ($1, 'test/test', 1, $2, '')`, sid, sid)
	require.NoError(t, err)
	info := plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "inspection"}, "GB")
	info.Step = &call.Step{Saga: sid, N: 2, Undo: undo, Epoch: 1}
	if undo {
		info.Step.N = 1
	}
	return h.as(info)
}

// returned opens a case about ten serums that came back.
func (h *house) returned(t testing.TB) string {
	t.Helper()
	c := id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "warehouse", &warehousev1.InspectionRequested{
		CaseId: c, MerchantId: "mrc_one", Sku: serum, Quantity: 10, Site: "north", Reference: "ret_1", Reason: "RETURN_OPENED", Market: "GB",
	}))
	return c
}

// inState leads a case about returned goods into a state.
func (h *house) inState(t testing.TB, state caseState) string {
	t.Helper()
	c := h.returned(t)
	switch state {
	case collecting:
		h.asks(t, c)
	case checking:
		h.see(t, c, saysCounterfeit)
	case proposed:
		h.propose(t, c, counterfeit)
	case confirmed, disposed, executed, closed:
		h.find(t, c, counterfeit)
	}
	if state >= disposed {
		d, err := h.orderDestruction(c)
		require.NoError(t, err)
		if state >= executed {
			h.warehouseRefuses(state == executed)
			_, err = h.bob.ConfirmDestruction(t.Context(), done(d.GetDestructionId()))
			require.NoError(t, err)
			h.warehouseRefuses(false)
		}
	}
	require.Equal(t, state, h.getCase(t, c).GetState())
	return c
}

// asks leaves a check of a case pending.
func (h *house) asks(t testing.TB, caseID string) {
	t.Helper()
	h.will("sun", says(4, "tag", ""))
	_, err := h.ann.RunChecks(t.Context(), &inspectionv1.RunChecksRequest{CaseId: caseID, RunId: id.New("run")})
	require.NoError(t, err)
}

func (h *house) warehouseRefuses(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuses = nil
	if yes {
		h.refuses = fault.New(connect.CodeFailedPrecondition, "STOCK_DIFFERS", "not there")
	}
}

func (h *house) destructionOf(t testing.TB, caseID string) string {
	t.Helper()
	var d string
	err := h.Admin.QueryRow(t.Context(), `SELECT id FROM p_inspection.destruction WHERE case_id = $1`, caseID).Scan(&d)
	if err != nil {
		return "dst_none"
	}
	return d
}

func TestEveryCallInEveryState(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	ctx := context.Background()
	calls := map[string]func(c string) error{
		"RunChecks": func(c string) error {
			_, err := h.ann.RunChecks(ctx, &inspectionv1.RunChecksRequest{CaseId: c, RunId: id.New("run")})
			return err
		},
		"RecordCheck": func(c string) error { _, err := h.ann.RecordCheck(ctx, seen(c, saysCounterfeit)); return err },
		"ProposeVerdict": func(c string) error {
			_, err := h.eve.ProposeVerdict(ctx, &inspectionv1.ProposeVerdictRequest{CaseId: c, Verdict: counterfeit, Reason: "looked"})
			return err
		},
		"ConfirmVerdict": func(c string) error {
			_, err := h.eve.ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{CaseId: c, Verdict: counterfeit})
			return err
		},
		"RejectVerdict": func(c string) error {
			_, err := h.eve.RejectVerdict(ctx, &inspectionv1.RejectVerdictRequest{CaseId: c, Reason: "not sure"})
			return err
		},
		"Appeal": func(c string) error {
			_, err := h.merchant.Appeal(ctx, &inspectionv1.AppealRequest{CaseId: c, Reason: "it is genuine"})
			return err
		},
		"OrderDisposition": func(c string) error {
			_, err := h.eve.OrderDisposition(ctx, &inspectionv1.OrderDispositionRequest{CaseId: c, Disposition: 1})
			return err
		},
		"OrderDestruction": func(c string) error { _, err := h.orderDestruction(c); return err },
		"ConfirmDestruction": func(c string) error {
			_, err := h.eve.ConfirmDestruction(ctx, done(h.destructionOf(t, c)))
			return err
		},
		"CloseCase": func(c string) error {
			_, err := h.step(t, false).CloseCase(ctx, &inspectionv1.CloseCaseRequest{CaseId: c})
			return err
		},
		"ReopenCase": func(c string) error {
			_, err := h.step(t, true).ReopenCase(ctx, &inspectionv1.ReopenCaseRequest{CaseId: c})
			return err
		},
		"ReleaseSales": func(c string) error {
			_, err := h.eve.ReleaseSales(ctx, &inspectionv1.ReleaseSalesRequest{CaseId: c, Reason: "paid back"})
			return err
		},
	}
	// What each call answers in the states opened, collecting, checking,
	// proposed, confirmed, ordered, executed, closed: "+" is done, "-" the
	// state refuses it, a letter another refusal.
	other := map[byte]string{
		'm': "CHECKS_MISSING", 'o': "ONLY_DESTRUCTION", 'u': "DESTRUCTION_UNKNOWN", 'd': "DESTRUCTION_DIFFERS", '-': "CASE_STATE",
	}
	for name, want := range map[string]string{
		"RunChecks":          "+++-----",
		"RecordCheck":        "+++-----",
		"ProposeVerdict":     "m++-----",
		"ConfirmVerdict":     "---+----",
		"RejectVerdict":      "---+----",
		"Appeal":             "----++--",
		"OrderDisposition":   "----o---",
		"OrderDestruction":   "----+---",
		"ConfirmDestruction": "uuuuu+dd",
		"CloseCase":          "-----+++", // closed already: it is
		"ReopenCase":         "-----+--",
		"ReleaseSales":       "----++++",
	} {
		for i := range 8 {
			state := caseState(i + 1)
			t.Run(fmt.Sprintf("%s when %s", name, state), func(t *testing.T) {
				c := h.inState(t, state)
				err := calls[name](c)
				if want[i] == '+' {
					require.NoError(t, err)
					return
				}
				require.Equal(t, other[want[i]], fault.Reason(host.Relay(err)), "%v", err)
				require.Equal(t, state, h.getCase(t, c).GetState(), "a refusal changes nothing")
			})
		}
	}
}

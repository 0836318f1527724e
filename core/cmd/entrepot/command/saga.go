package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
)

// sagaStates are the states by the words of the command line.
var sagaStates = func() map[string]kernelv1.SagaState {
	words := map[string]kernelv1.SagaState{}
	for number, name := range kernelv1.SagaState_name {
		if number != 0 {
			words[word(kernelv1.SagaState(number))] = kernelv1.SagaState(kernelv1.SagaState_value[name])
		}
	}
	return words
}()

func word(s kernelv1.SagaState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SAGA_STATE_"))
}

func newSagas() *cobra.Command {
	var state string
	var limit int
	cmd := online{
		use: "sagas", short: "List sagas, newest first",
		long: `Sagas lists the work that crosses plugins, with the step each one is at. A
stuck one has failed past its limit and waits for: entrepot saga resume ID`,
		call: func(ctx context.Context, r *remote, _ []string) (proto.Message, func(io.Writer), error) {
			req, all := &operatorv1.ListSagasRequest{PageSize: int32(min(max(limit, 1), 200))}, &operatorv1.ListSagasResponse{}
			if state != "" {
				var ok bool
				if req.State, ok = sagaStates[state]; !ok {
					return nil, nil, usageError{fmt.Errorf("--state is one of %s, not %q", strings.Join(slices.Sorted(maps.Keys(sagaStates)), ", "), state)}
				}
			}
			for {
				page, err := r.sagas.ListSagas(ctx, req)
				if err != nil {
					return nil, nil, err
				}
				all.Sagas, all.NextPageToken = append(all.Sagas, page.GetSagas()...), page.GetNextPageToken()
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" || len(all.Sagas) >= min(limit, maxListed) {
					return all, func(out io.Writer) { tellSagas(out, all) }, nil
				}
			}
		},
	}.command()
	cmd.Flags().StringVar(&state, "state", "", "only those in this state: "+strings.Join(slices.Sorted(maps.Keys(sagaStates)), ", "))
	cmd.Flags().IntVar(&limit, "limit", 100, "about how many to list")
	return cmd
}

func tellSagas(out io.Writer, res *operatorv1.ListSagasResponse) {
	if len(res.GetSagas()) == 0 {
		say(out, "there are none")
		return
	}
	table(out, "SAGA\tDEFINITION\tKEY\tSTATE\tSTARTED\tSTEP\tERROR", func(row func(...any)) {
		for _, s := range res.GetSagas() {
			step, problem := "-", ""
			if n := len(s.GetSteps()); n > 0 {
				last := s.GetSteps()[n-1]
				step, problem = fmt.Sprintf("%s %s %s (%d)", last.GetDirection(), last.GetName(), last.GetStatus(), last.GetAttempt()), last.GetError()
			}
			row(s.GetSagaId(), s.GetDefinition(), s.GetKey(), word(s.GetState()), s.GetCreatedAt().AsTime().Local().Format(time.DateTime), step, problem)
		}
	})
	if res.GetNextPageToken() != "" {
		say(out, "and more: see --limit")
	}
}

func newSaga() *cobra.Command {
	return group("saga", "Settle a saga", online{
		use: "resume ID", short: "Let a stuck saga try its failed step again", least: 1, most: 1,
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			res, err := r.sagas.ResumeSaga(ctx, &operatorv1.ResumeSagaRequest{SagaId: args[0]})
			return res, func(out io.Writer) { say(out, "saga %s goes on", args[0]) }, err
		},
	}.command())
}

func newPlugin() *cobra.Command {
	return group("plugin", "Settle a plugin", online{
		use: "restart NAME", short: "Replace a plugin's process, also a quarantined one", least: 1, most: 1, timeout: 2 * time.Minute,
		long: "Restart starts a new process, waits until it serves, and lets the old one finish\nits calls. No caller notices.",
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			res, err := r.operator.RestartPlugin(ctx, &operatorv1.RestartPluginRequest{Plugin: args[0]})
			return res, func(out io.Writer) { say(out, "plugin %s runs in a new process", args[0]) }, err
		},
	}.command())
}

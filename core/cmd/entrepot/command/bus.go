package command

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
)

// maxListed bounds what a listing prints.
const maxListed = 10_000

func newBus() *cobra.Command {
	return group("bus", "See and settle what stands aside on the bus",
		newParked(), newRetry(), newDiscard(), newReplay(), newPause("pause", true), newPause("resume", false))
}

func newParked() *cobra.Command {
	return online{
		use: "parked [SUBSCRIPTION]", short: "List events whose handler failed, oldest first", most: 1,
		long: `Parked lists the events that a subscription ("<plugin>/<name>", or all of them)
could not handle: what failed, how often, when it is tried next. A dead one has
used up its attempts and waits for retry or discard.`,
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			req, all := &operatorv1.ListParkedRequest{PageSize: 200}, &operatorv1.ListParkedResponse{}
			if len(args) > 0 {
				req.Subscription = args[0]
			}
			for {
				page, err := r.bus.ListParked(ctx, req)
				if err != nil {
					return nil, nil, err
				}
				all.Events, all.NextPageToken = append(all.Events, page.GetEvents()...), page.GetNextPageToken()
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" || len(all.Events) >= maxListed {
					return all, func(out io.Writer) { tellParked(out, all) }, nil
				}
			}
		},
	}.command()
}

func tellParked(out io.Writer, res *operatorv1.ListParkedResponse) {
	if len(res.GetEvents()) == 0 {
		say(out, "no event is parked")
		return
	}
	table(out, "SUBSCRIPTION\tPOSITION\tTOPIC\tKEY\tATTEMPT\tNEXT\tERROR", func(row func(...any)) {
		for _, e := range res.GetEvents() {
			next := e.GetDue().AsTime().Local().Format("15:04:05")
			if e.GetDead() {
				next = "dead"
			}
			row(e.GetSubscription(), e.GetPosition(), e.GetTopic(), e.GetKey(), e.GetAttempt(), next, e.GetError())
		}
	})
	if res.GetNextPageToken() != "" {
		say(out, "and more")
	}
}

func newRetry() *cobra.Command {
	return online{
		use: "retry SUBSCRIPTION [POSITION]", short: "Try parked events again now, dead ones too", least: 1, most: 2,
		long: "Retry makes one parked event due now, or all of the subscription where no\nposition is given.",
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			req := &operatorv1.RetryParkedRequest{Subscription: args[0]}
			if len(args) > 1 {
				var err error
				if req.Position, err = position(args[1]); err != nil {
					return nil, nil, err
				}
			}
			res, err := r.bus.RetryParked(ctx, req)
			return res, func(out io.Writer) { say(out, "%d events are tried again", res.GetRetried()) }, err
		},
	}.command()
}

func newDiscard() *cobra.Command {
	var reason string
	cmd := online{
		use: "discard SUBSCRIPTION POSITION --reason TEXT", short: "Drop a parked event for good; its key flows on", least: 2, most: 2,
		long: "Discard drops one parked event for one subscription. It is kept on record with\nthe reason. There is no way back but a replay.",
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			at, err := position(args[1])
			if err != nil {
				return nil, nil, err
			}
			res, err := r.bus.DiscardParked(ctx, &operatorv1.DiscardParkedRequest{Subscription: args[0], Position: at, Reason: reason})
			return res, func(out io.Writer) { say(out, "event %d of %s is discarded", at, args[0]) }, err
		},
	}.command()
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept on record (required)")
	required(cmd, "reason")
	return cmd
}

func newReplay() *cobra.Command {
	var from int64
	cmd := online{
		use: "replay SUBSCRIPTION --from POSITION", short: "Deliver a subscription's events again", least: 1, most: 1,
		long: `Replay sets a subscription back: its events after the position are delivered
once more, in order, 0 for all that are kept. The module's handlers run again
for each, so do this for subscriptions that may: views, search, figures.`,
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			res, err := r.bus.Replay(ctx, &operatorv1.ReplayRequest{Subscription: args[0], FromPosition: from})
			return res, func(out io.Writer) { say(out, "%s starts again after position %d", args[0], from) }, err
		},
	}.command()
	cmd.Flags().Int64Var(&from, "from", 0, "position after which events come again (required)")
	required(cmd, "from")
	return cmd
}

func newPause(verb string, paused bool) *cobra.Command {
	short, done := "Let a subscription run again", "%s runs"
	if paused {
		short, done = "Hold a subscription; its events wait in the log", "%s is paused"
	}
	return online{
		use: verb + " SUBSCRIPTION", short: short, least: 1, most: 1,
		call: func(ctx context.Context, r *remote, args []string) (proto.Message, func(io.Writer), error) {
			res, err := r.bus.SetSubscription(ctx, &operatorv1.SetSubscriptionRequest{Subscription: args[0], Paused: paused})
			return res, func(out io.Writer) { say(out, done, args[0]) }, err
		},
	}.command()
}

func position(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, usageError{fmt.Errorf("%q is no position: write the number that `entrepot bus parked` shows", s)}
	}
	return n, nil
}

// required marks a flag; its absence is a command line not understood.
func required(cmd *cobra.Command, flag string) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed(flag) {
			return usageError{fmt.Errorf("--%s is required; write it like: %s", flag, cmd.UseLine())}
		}
		return run(cmd, args)
	}
}

package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
)

func newStatus() *cobra.Command {
	return online{
		use: "status [FILE]", short: "Show plugins, markets, bindings, the bus and sagas", most: 1, fileArg: true,
		long: `Status shows what runs. Of the bus it shows each subscription's lag (events
that are not handled yet), parked events (their handler failed; they are tried
again) and dead ones (given up; they wait for you).`,
		call: func(ctx context.Context, r *remote, _ []string) (proto.Message, func(io.Writer), error) {
			status, err := r.operator.GetStatus(ctx, &operatorv1.GetStatusRequest{})
			if err != nil {
				return nil, nil, err
			}
			bus, err := r.bus.GetBus(ctx, &operatorv1.GetBusRequest{})
			if err != nil {
				return nil, nil, err
			}
			both, err := together(map[string]proto.Message{"status": status, "bus": bus})
			return both, func(out io.Writer) { tellStatus(out, status, bus, time.Now()) }, err
		},
	}.command()
}

// together is several answers as one JSON object.
func together(parts map[string]proto.Message) (proto.Message, error) {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, m := range parts {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
		if err != nil {
			return nil, err
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, err
		}
		if out.Fields[name], err = structpb.NewValue(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func tellStatus(out io.Writer, s *operatorv1.GetStatusResponse, b *operatorv1.GetBusResponse, now time.Time) {
	say(out, "kernel %s, node %s, pid %d, up %s, database %s\n", s.GetVersion(), s.GetNode(), s.GetPid(), since(s.GetStartedAt().AsTime(), now), s.GetDatabase())
	table(out, "PLUGIN\tVERSION\tKIND\tSTATE\tPID\tUP\tRESTARTS\tRSS\tCPU\tCONTRACTS", func(row func(...any)) {
		for _, p := range s.GetPlugins() {
			up := "-"
			if p.GetPid() != 0 {
				up = since(p.GetStartedAt().AsTime(), now)
			}
			row(p.GetName(), p.GetVersion(), p.GetKind(), p.GetState(), p.GetPid(), up, p.GetRestarts(), size(p.GetResidentBytes()), fmt.Sprintf("%.1fs", p.GetCpuSeconds()), strings.Join(p.GetContracts(), " "))
		}
	})
	for _, p := range s.GetPlugins() {
		if p.GetReason() != "" {
			say(out, "plugin %s is %s: %s", p.GetName(), p.GetState(), oneLine(p.GetReason()))
		}
		for _, i := range p.GetInstances() {
			if i.GetHealth() != "ok" {
				say(out, "instance %s of %s is %s: %s", i.GetName(), p.GetName(), i.GetHealth(), oneLine(i.GetReason()))
			}
		}
	}
	say(out, "")
	table(out, "MARKET\tCURRENCY\tCONTRACT\tINSTANCE\tPRIORITY\tWEIGHT", func(row func(...any)) {
		for _, m := range s.GetMarkets() {
			if len(m.GetBindings()) == 0 {
				row(m.GetMarket(), m.GetCurrency(), "-", "-", "-", "-")
			}
			for _, g := range m.GetBindings() {
				row(m.GetMarket(), m.GetCurrency(), g.GetContract(), g.GetInstance(), g.GetPriority(), g.GetWeight())
			}
		}
	})
	say(out, "\nbus: %d events, %d on their way in, %d timers", b.GetHead(), b.GetOutbox(), b.GetTimers())
	table(out, "SUBSCRIPTION\tSTATE\tLAG\tPARKED\tDEAD", func(row func(...any)) {
		for _, u := range b.GetSubscriptions() {
			row(u.GetSubscription(), u.GetState(), u.GetLag(), u.GetParked(), u.GetDead())
		}
	})
	states := make([]string, 0, len(b.GetSagas()))
	for _, state := range slices.Sorted(maps.Keys(b.GetSagas())) {
		states = append(states, fmt.Sprintf("%d %s", b.GetSagas()[state], state))
	}
	if len(states) == 0 {
		states = []string{"none"}
	}
	say(out, "\nsagas: %s", strings.Join(states, ", "))
}

func table(out io.Writer, head string, fill func(row func(...any))) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	say(w, "%s", head)
	fill(func(cells ...any) {
		text := make([]string, len(cells))
		for i, c := range cells {
			text[i] = oneLine(fmt.Sprint(c))
		}
		say(w, "%s", strings.Join(text, "\t"))
	})
	_ = w.Flush()
}

// oneLine keeps what a plugin or an event says from moving the cursor of the
// operator's terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func since(t, now time.Time) string { return now.Sub(t).Truncate(time.Second).String() }

func size(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1fMiB", float64(bytes)/(1<<20))
}

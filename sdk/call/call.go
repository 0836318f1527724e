// Package call holds who calls, for which market and on what account: the
// facts that ride on every call between the kernel and a plugin as headers.
// The kernel sets them; a plugin's socket accepts the kernel's certificate
// only, so what they say is true. Values are immutable once in a context.
package call

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Header names. Inbound headers that begin with Prefix are stripped at the
// public port, all but HeaderMarket.
const (
	Prefix          = "Entrepot-"
	HeaderPrincipal = "Entrepot-Principal"
	HeaderCaller    = "Entrepot-Caller"
	HeaderMarket    = "Entrepot-Market"
	HeaderInstance  = "Entrepot-Instance"
	HeaderRequestID = "Entrepot-Request-Id"
	HeaderStep      = "Entrepot-Saga-Step"
	// HeaderRecorded stands on a plugin's answer to a saga step: RecordedDone
	// or RecordedRefused when the answer is committed with the step's record.
	HeaderRecorded = "Entrepot-Step-Recorded"
	// HeaderEvents stands on a plugin's answer: how many events the call has
	// committed, so that the kernel delivers them at once.
	HeaderEvents = "Entrepot-Events"
	// HeaderIdempotencyKey is draft-ietf-httpapi-idempotency-key-header-07.
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderTraceparent is W3C Trace Context.
	HeaderTraceparent = "Traceparent"
)

// Values of HeaderRecorded.
const (
	RecordedDone    = "done"
	RecordedRefused = "refused"
)

// Kind is what a principal is.
type Kind string

// The kinds of principal. Nobody is a caller without a token.
const (
	Nobody   Kind = ""
	Consumer Kind = "consumer"
	Merchant Kind = "merchant"
	Staff    Kind = "staff"
	Operator Kind = "operator"
	// Plugin is a plugin that acts on its own account: an event handler, a
	// saga step, a schedule.
	Plugin Kind = "plugin"
)

// Principal is who acts.
type Principal struct {
	Kind Kind
	// Account is "acc_...", for people.
	Account string
	// Subject is the vault's "sub_...", for consumers.
	Subject string
	// Merchant is "mrc_...", for members.
	Merchant string
	// Permissions are what a member or staff may do, "catalog.write"; "*" is
	// everything.
	Permissions []string
	// Plugin is the name, for plugins.
	Plugin string
}

// May tells whether the principal holds a permission.
func (p Principal) May(permission string) bool {
	return permission == "" || slices.Contains(p.Permissions, permission) || slices.Contains(p.Permissions, "*")
}

// String names the principal for timelines and logs: kind and id, no personal
// data.
func (p Principal) String() string {
	switch p.Kind {
	case Nobody:
		return "guest"
	case Merchant:
		return "merchant " + p.Merchant
	case Plugin:
		return "plugin " + p.Plugin
	default:
		return string(p.Kind) + " " + p.Account
	}
}

// Step is the saga step on whose account a call is made.
type Step struct {
	// Saga is the saga's UUID; N counts steps from 1.
	Saga string
	N    int
	// Undo is true for the compensation.
	Undo bool
	// Epoch fences a driver that was taken over.
	Epoch int64
	// Last is true when the saga ends with this step: its record and the
	// saga's end are one commit.
	Last bool
}

// Key is the key toward the outside, the same for every attempt:
// "<saga>/<step>/<direction>".
func (s Step) Key() string {
	return s.Saga + "/" + strconv.Itoa(s.N) + "/" + s.Direction()
}

// Direction is "do" or "undo".
func (s Step) Direction() string {
	if s.Undo {
		return "undo"
	}
	return "do"
}

// Info is everything that rides on a call.
type Info struct {
	Principal Principal
	// Caller is the plugin that made the call, empty for public calls.
	Caller string
	// Market is the country, ISO 3166-1 alpha-2.
	Market string
	// Instance is the configured instance that is to serve the call.
	Instance       string
	RequestID      string
	IdempotencyKey string
	Traceparent    string
	// Step is set when a saga makes the call.
	Step *Step
}

// Encode writes the facts as headers. Empty ones are left out.
func (i Info) Encode(set func(name, value string)) {
	put := func(name, value string) {
		if value != "" {
			set(name, value)
		}
	}
	put(HeaderPrincipal, i.Principal.encode())
	put(HeaderCaller, i.Caller)
	put(HeaderMarket, i.Market)
	put(HeaderInstance, i.Instance)
	put(HeaderRequestID, i.RequestID)
	put(HeaderIdempotencyKey, i.IdempotencyKey)
	put(HeaderTraceparent, i.Traceparent)
	if s := i.Step; s != nil {
		last := ""
		if s.Last {
			last = "/last"
		}
		set(HeaderStep, fmt.Sprintf("%s/%d/%s/%d%s", s.Saga, s.N, s.Direction(), s.Epoch, last))
	}
}

// Decode reads what Encode wrote. It fails on a header that no kernel writes.
func Decode(get func(name string) string) (Info, error) {
	i := Info{
		Caller:         get(HeaderCaller),
		Market:         get(HeaderMarket),
		Instance:       get(HeaderInstance),
		RequestID:      get(HeaderRequestID),
		IdempotencyKey: get(HeaderIdempotencyKey),
		Traceparent:    get(HeaderTraceparent),
	}
	var err error
	if i.Principal, err = decodePrincipal(get(HeaderPrincipal)); err != nil {
		return Info{}, err
	}
	if s := get(HeaderStep); s != "" {
		if i.Step, err = decodeStep(s); err != nil {
			return Info{}, err
		}
	}
	return i, nil
}

// encode writes "kind;account;subject;merchant;plugin;perm,perm". No part can
// hold a semicolon: they are ids, names and permissions of fixed alphabets.
func (p Principal) encode() string {
	if p.Kind == Nobody {
		return ""
	}
	return strings.Join([]string{string(p.Kind), p.Account, p.Subject, p.Merchant, p.Plugin, strings.Join(p.Permissions, ",")}, ";")
}

func decodePrincipal(s string) (Principal, error) {
	if s == "" {
		return Principal{}, nil
	}
	f := strings.Split(s, ";")
	if len(f) != 6 {
		return Principal{}, fmt.Errorf("header %s: %d parts, want 6", HeaderPrincipal, len(f))
	}
	p := Principal{Kind: Kind(f[0]), Account: f[1], Subject: f[2], Merchant: f[3], Plugin: f[4]}
	if f[5] != "" {
		p.Permissions = strings.Split(f[5], ",")
	}
	return p, nil
}

func decodeStep(s string) (*Step, error) {
	f := strings.Split(s, "/")
	last := len(f) == 5 && f[4] == "last"
	if len(f) != 4 && !last || f[2] != "do" && f[2] != "undo" {
		return nil, fmt.Errorf("header %s: %q is no saga step", HeaderStep, s)
	}
	n, err1 := strconv.Atoi(f[1])
	epoch, err2 := strconv.ParseInt(f[3], 10, 64)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("header %s: %q is no saga step", HeaderStep, s)
	}
	return &Step{Saga: f[0], N: n, Undo: f[2] == "undo", Epoch: epoch, Last: last}, nil
}

type key struct{}

// With returns a context that carries the facts of a call.
func With(ctx context.Context, i Info) context.Context {
	return context.WithValue(ctx, key{}, i)
}

// From returns the facts of the call that a context belongs to; the zero Info
// outside of one.
func From(ctx context.Context) Info {
	i, _ := ctx.Value(key{}).(Info)
	return i
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.inspection.v1. Safe for concurrent use.
type service struct {
	records

	db             *store.DB
	host           *host.Host
	log            *slog.Logger
	authenticators *authenticators
	errands        *errands
	// markets of the deployment.
	markets []string
	// market is that of calls and events that name none.
	market string
	// base is the address under which Digital Links of units stand.
	base string
	// appeal is how long after a verdict nothing is destroyed, patience how
	// long an authenticator is waited for.
	appeal, patience time.Duration
}

// settings are the instance's configuration.
type settings struct {
	Methods  []string `json:"methods"`
	Appeal   *string  `json:"appeal"`
	Patience *string  `json:"patience"`
}

// canonical is the base of Digital Links where the deployment has no address
// of its own: the standard's (GS1 Digital Link URI syntax 1.3, section 4.6).
const canonical = "https://id.gs1.org"

func register(in *plugin.Instance) (*service, error) {
	var conf settings
	if err := in.Config(&conf); err != nil {
		return nil, err
	}
	a, err := newAuthenticators(in.Host.Client(), conf.Methods)
	if err != nil {
		return nil, err
	}
	s := &service{
		db: in.DB, host: in.Host, log: in.Log, authenticators: a, markets: slices.Sorted(maps.Keys(in.Markets)), market: in.DefaultMarket,
		base: strings.TrimSuffix(in.PublicURL, "/"),
	}
	if s.base == "" {
		s.base = canonical
	}
	for _, d := range []struct {
		into  *time.Duration
		given *string
		none  time.Duration
	}{{&s.appeal, conf.Appeal, 72 * time.Hour}, {&s.patience, conf.Patience, 7 * 24 * time.Hour}} {
		*d.into = d.none
		if d.given != nil {
			if *d.into, err = time.ParseDuration(*d.given); err != nil {
				return nil, err
			}
		}
	}
	inspectionv1connect.RegisterUnitServiceHandler(in.Server, s)
	inspectionv1connect.RegisterConsignmentServiceHandler(in.Server, s)
	inspectionv1connect.RegisterCaseServiceHandler(in.Server, s)
	inspectionv1connect.RegisterInspectionStepServiceHandler(in.Server, s)
	inspectionv1connect.RegisterDestructionServiceHandler(in.Server, s)
	for name, handlers := range map[string][]event.Handler{
		"warehouse": {
			event.On(s.onInspectionRequested), event.On(s.onHandedOver), event.On(s.onDelivered), event.On(s.onReturnReceived),
			event.On(s.onStockMoved), event.On(s.onDestructionUnmatched),
		},
		"aftersale":      {event.On(s.onCaseSettled)},
		"logistics":      {event.On(s.onShipmentMoved)},
		"authenticators": {event.OnBatch(s.onCheckCompleted)},
		"schedules":      {event.OnBatch(s.onTick)},
	} {
		if err := in.Subscribe(name, handlers...); err != nil {
			return nil, err
		}
	}
	if err := s.registerRecords(in); err != nil {
		return nil, err
	}
	s.work(in)
	return s, nil
}

// reader is a transaction, or the database outside of one.
type reader interface {
	Row(ctx context.Context, statement string, args ...any) *sql.Row
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// row is what a statement answered.
type row interface{ Scan(dest ...any) error }

// each reads every row of an answer and closes it.
func each(rows *sql.Rows, err error, read func(row) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// list is a column of JSON, as an array of PostgreSQL is read.
type list[T any] []T

// Scan implements sql.Scanner.
func (l *list[T]) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*l = nil
		return nil
	case []byte:
		return json.Unmarshal(v, (*[]T)(l))
	case string:
		return json.Unmarshal([]byte(v), (*[]T)(l))
	}
	return errors.New("a list is read from JSON")
}

// owner is the merchant whose things a caller may see; empty means
// everybody's, for staff and plugins.
func owner(ctx context.Context) (string, error) {
	p := call.From(ctx).Principal
	switch p.Kind {
	case call.Staff, call.Operator, call.Plugin:
		return "", nil
	case call.Merchant:
		if p.Merchant != "" {
			return p.Merchant, nil
		}
	}
	return "", fault.New(connect.CodePermissionDenied, "NOT_A_MERCHANT", "only members of a merchant and staff see this")
}

// person is the account of who acts; decisions are people's.
func person(ctx context.Context) (string, error) {
	if p := call.From(ctx).Principal; p.Account != "" {
		return p.Account, nil
	}
	return "", fault.New(connect.CodePermissionDenied, "NOT_A_PERSON", "this is a person's decision; sign in with an account")
}

// marketOf is the country of the call.
func (s *service) marketOf(ctx context.Context) string {
	if m := call.From(ctx).Market; m != "" {
		return m
	}
	return s.market
}

// site is where things are when nobody says where.
func site(named string) string {
	if named == "" {
		return "main"
	}
	return named
}

// mutate is store.Mutate for methods that may come upon a serial where it
// cannot be: what they did is taken back, the sighting is raised in a
// transaction of its own, and the answer is a refusal.
func mutate[Res proto.Message](ctx context.Context, s *service, req proto.Message, fn func(ctx context.Context, tx *store.Tx) (Res, error)) (Res, error) {
	res, err := store.Mutate(ctx, s.db, req, fn)
	var seen sightings
	if !errors.As(err, &seen) {
		return res, err
	}
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.raise(ctx, tx, seen...) }); err != nil {
		return res, err
	}
	return store.Mutate(ctx, s.db, req, func(context.Context, *store.Tx) (Res, error) {
		var none Res
		return none, seen.refusal()
	})
}

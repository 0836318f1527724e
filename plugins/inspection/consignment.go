package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"reflect"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// States of a consignment.
const (
	announced = inspectionv1.Consignment_STATE_ANNOUNCED
	arrived   = inspectionv1.Consignment_STATE_ARRIVED
	received  = inspectionv1.Consignment_STATE_RECEIVED
	ended     = inspectionv1.Consignment_STATE_CLOSED
)

// maxPieces bounds the serialised pieces of a consignment: its receipt is one
// transaction, in which each may be told of three times, and a transaction
// publishes 500 events.
const maxPieces = 150

// line is a line of a consignment, as it is stored.
type line struct {
	SKU        string   `json:"sku"`
	GTIN       string   `json:"gtin,omitempty"`
	Quantity   int64    `json:"quantity"`
	Serialised bool     `json:"serialised,omitempty"`
	Serials    []string `json:"serials,omitempty"`
	Lot        string   `json:"lot,omitempty"`
	ExpiresOn  string   `json:"expires_on,omitempty"`
	Category   string   `json:"category,omitempty"`
}

func (l *line) proto() *inspectionv1.ConsignmentLine {
	return &inspectionv1.ConsignmentLine{
		Sku: l.SKU, Gtin: l.GTIN, Quantity: l.Quantity, Serialised: l.Serialised, Serials: l.Serials, Lot: l.Lot, ExpiresOn: l.ExpiresOn, Category: l.Category,
	}
}

// readLines checks lines that came with a request.
func readLines(in []*inspectionv1.ConsignmentLine) (list[line], error) {
	out := make(list[line], len(in))
	var pieces int64
	for i, l := range in {
		gtin, err := gtin14("lines.gtin", l.GetGtin())
		if err != nil {
			return nil, err
		}
		if !l.GetSerialised() && len(l.GetSerials()) > 0 {
			return nil, fault.Field("lines.serials", "only a serialised line has serials")
		}
		if int64(len(l.GetSerials())) > l.GetQuantity() {
			return nil, fault.Field("lines.serials", "more serials than pieces")
		}
		for _, serial := range l.GetSerials() {
			if err := checkSerial("lines.serials", serial); err != nil {
				return nil, err
			}
		}
		if l.GetExpiresOn() != "" {
			if _, err := time.Parse(time.DateOnly, l.GetExpiresOn()); err != nil {
				return nil, fault.Field("lines.expires_on", "is no date")
			}
		}
		if l.GetSerialised() {
			pieces += l.GetQuantity()
		}
		out[i] = line{l.GetSku(), gtin, l.GetQuantity(), l.GetSerialised(), l.GetSerials(), l.GetLot(), l.GetExpiresOn(), l.GetCategory()}
	}
	if pieces > maxPieces {
		return nil, fault.Field("lines", "at most 150 serialised pieces in one consignment; send more than one")
	}
	return out, nil
}

type consignment struct {
	id, merchant, site, destination, market string
	state                                   inspectionv1.Consignment_State
	lines, received                         list[line]
	shipment                                string
	cases                                   list[string]
	openedAt                                time.Time
	receivedAt                              *time.Time
}

const consignmentColumns = `g.id, g.merchant, g.site, g.destination, g.market, g.state, g.lines, g.received, g.shipment,
  (SELECT coalesce(json_agg(c.id ORDER BY c.id), '[]') FROM case_file c WHERE c.reference = g.id AND c.origin = 1), g.opened_at, g.received_at`

func (g *consignment) scan(r row) error {
	return r.Scan(&g.id, &g.merchant, &g.site, &g.destination, &g.market, &g.state, &g.lines, &g.received, &g.shipment, &g.cases, &g.openedAt, &g.receivedAt)
}

func (g *consignment) proto() *inspectionv1.Consignment {
	out := &inspectionv1.Consignment{
		ConsignmentId: g.id, MerchantId: g.merchant, Site: g.site, Destination: g.destination, State: g.state,
		ShipmentId: g.shipment, CaseIds: g.cases, OpenedAt: timestamppb.New(g.openedAt), ReceivedAt: stamp(g.receivedAt),
	}
	for _, l := range g.lines {
		out.Lines = append(out.Lines, l.proto())
	}
	for _, l := range g.received {
		out.Received = append(out.Received, l.proto())
	}
	return out
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func unknownConsignment() error {
	return fault.New(connect.CodeNotFound, "CONSIGNMENT_UNKNOWN", "no such consignment")
}

// loadConsignment reads a consignment, with lock for a change. One that is not
// there is not_found.
func loadConsignment(ctx context.Context, db reader, id, lock string) (*consignment, error) {
	g := &consignment{}
	err := g.scan(db.Row(ctx, `SELECT `+consignmentColumns+` FROM consignment g WHERE g.id = $1 `+lock, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, unknownConsignment()
	}
	return g, err
}

// OpenConsignment announces goods that a merchant sends.
func (s *service) OpenConsignment(ctx context.Context, req *inspectionv1.OpenConsignmentRequest) (*inspectionv1.OpenConsignmentResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case merchant == "" && req.GetMerchantId() == "":
		return nil, fault.Field("merchant_id", "say whose goods they are")
	case merchant == "":
		merchant = req.GetMerchantId()
	case req.GetMerchantId() != "" && req.GetMerchantId() != merchant:
		return nil, fault.Field("merchant_id", "you announce your own goods only")
	}
	lines, err := readLines(req.GetLines())
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if l.Quantity == 0 {
			return nil, fault.Field("lines.quantity", "at least 1")
		}
	}
	b, err := json.Marshal(lines)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.OpenConsignmentResponse, error) {
		if _, err := tx.Do(ctx, `INSERT INTO consignment (id, merchant, site, destination, market, lines) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb)
			ON CONFLICT DO NOTHING`, req.GetConsignmentId(), merchant, site(req.GetSite()), site(req.GetDestination()), s.marketOf(ctx), string(b)); err != nil {
			return nil, err
		}
		g, err := loadConsignment(ctx, tx, req.GetConsignmentId(), "")
		if err != nil {
			return nil, err
		}
		if g.merchant != merchant || g.site != site(req.GetSite()) || g.destination != site(req.GetDestination()) || !reflect.DeepEqual(g.lines, lines) {
			return nil, fault.New(connect.CodeAlreadyExists, "CONSIGNMENT_DIFFERS", "this id was used for another consignment; take a new one")
		}
		return &inspectionv1.OpenConsignmentResponse{Consignment: g.proto()}, nil
	})
}

// GetConsignment tells one; a merchant its own.
func (s *service) GetConsignment(ctx context.Context, req *inspectionv1.GetConsignmentRequest) (*inspectionv1.GetConsignmentResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	g, err := loadConsignment(ctx, s.db, req.GetConsignmentId(), "")
	if err != nil {
		return nil, store.Wrap(err)
	}
	if merchant != "" && g.merchant != merchant {
		return nil, unknownConsignment()
	}
	return &inspectionv1.GetConsignmentResponse{Consignment: g.proto()}, nil
}

// ListConsignments pages through them, newest first.
func (s *service) ListConsignments(ctx context.Context, req *inspectionv1.ListConsignmentsRequest) (*inspectionv1.ListConsignmentsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pageOf(req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Rows(ctx, `SELECT `+consignmentColumns+` FROM consignment g
		WHERE ($1 = '' OR g.merchant = $1) AND ($2 = 0 OR g.state = $2) AND (g.opened_at, g.id) < ($3, $4)
		ORDER BY g.opened_at DESC, g.id DESC LIMIT $5`, merchant, int16(req.GetState()), p.at, p.id, p.size+1)
	var found []*consignment
	if err := each(rows, err, func(r row) error {
		g := &consignment{}
		found = append(found, g)
		return g.scan(r)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &inspectionv1.ListConsignmentsResponse{}
	for i, g := range found {
		if i == p.size {
			res.NextPageToken = token(found[i-1].openedAt, found[i-1].id)
			break
		}
		res.Consignments = append(res.Consignments, g.proto())
	}
	return res, nil
}

// arrive notes that a consignment's carrier has brought it, or is bringing it.
func arrive(ctx context.Context, tx *store.Tx, consignmentID, merchant, shipment string, here bool) error {
	_, err := tx.Do(ctx, `UPDATE consignment SET shipment = $3, state = CASE WHEN $4 AND state = 1 THEN 2 ELSE state END
		WHERE id = $1 AND merchant = $2`, consignmentID, merchant, shipment, here)
	return err
}

// actor names who acts, without personal data.
func actor(ctx context.Context) string { return call.From(ctx).Principal.String() }

package main

import (
	"context"
	"net/url"
	"strings"
	"time"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ownPath begins the address of a unit that has no GTIN.
const ownPath = "/unit/"

// linkOf is what stands in the QR code on a unit: its GS1 Digital Link, or an
// address of ours where it has no GTIN.
func (s *service) linkOf(u *unit) string {
	if u.gtin == "" {
		return s.base + ownPath + u.id
	}
	return gs1.TradeItem(u.gtin, "", u.serial).URI(s.base)
}

// byLink finds the unit that a Digital Link names; nil when there is none.
func (s *service) byLink(ctx context.Context, link string) (*unit, error) {
	if u, err := url.Parse(link); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
		if i := strings.LastIndex(u.Path, ownPath); i >= 0 {
			if own := u.Path[i+len(ownPath):]; isUnit(own) {
				return loadUnit(ctx, s.db, own)
			}
		}
	}
	l, err := gs1.ParseDigitalLink(link)
	if err != nil || l.GTIN() == "" {
		return nil, fault.Field("digital_link", "is no GS1 Digital Link of a trade item")
	}
	if l.Serial() == "" {
		return nil, fault.Field("digital_link", "names a product, and no serial of it")
	}
	units, err := readUnits(s.db.Rows(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.gtin = $1 AND u.serial = $2`, l.GTIN(), l.Serial()))
	if err != nil || len(units) == 0 {
		return nil, err
	}
	return units[0], nil
}

func isUnit(s string) bool {
	_, err := id.Parse("unt", s)
	return err == nil
}

// GetPassport tells the public what a unit is.
func (s *service) GetPassport(ctx context.Context, req *inspectionv1.GetPassportRequest) (*inspectionv1.GetPassportResponse, error) {
	u, err := s.byLink(ctx, req.GetDigitalLink())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if u == nil {
		return nil, unknownUnit()
	}
	steps, err := historyOf(ctx, s.db, u.id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	for _, st := range steps {
		st.Holder, st.Reference, st.EventId = "", "", ""
	}
	return &inspectionv1.GetPassportResponse{Passport: &inspectionv1.Passport{
		DigitalLink: u.digitalLink, Gtin: u.gtin, Serial: u.serial, Lot: u.lot, Verdict: u.verdict, VerdictAt: stamp(u.verdictAt),
		Disposition: u.disposition, Steps: steps, CertificateId: u.certificateID, CloneSuspected: u.cloneSuspected,
	}}, nil
}

// historyOf reads the newest 500 steps of a unit, oldest first.
func historyOf(ctx context.Context, db reader, unitID string) ([]*inspectionv1.UnitStep, error) {
	var out []*inspectionv1.UnitStep
	rows, err := db.Rows(ctx, `SELECT * FROM (SELECT t.id, t.at, t.biz_step, t.disposition, t.holder, t.reference, t.event_id FROM unit_step t
		WHERE t.unit = $1 ORDER BY t.id DESC LIMIT 500) newest ORDER BY id`, unitID)
	return out, each(rows, err, func(r row) error {
		st := &inspectionv1.UnitStep{}
		var n int64
		var at time.Time
		out = append(out, st)
		if err := r.Scan(&n, &at, &st.BizStep, &st.Disposition, &st.Holder, &st.Reference, &st.EventId); err != nil {
			return err
		}
		st.At = timestamppb.New(at)
		return nil
	})
}

// GetUnit tells state, history and checks of a unit; a merchant its own.
func (s *service) GetUnit(ctx context.Context, req *inspectionv1.GetUnitRequest) (*inspectionv1.GetUnitResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var u *unit
	switch {
	case (req.GetUnitId() == "") == (req.GetDigitalLink() == ""):
		return nil, fault.Field("unit_id", "give it, or a digital_link")
	case req.GetUnitId() != "":
		u, err = loadUnit(ctx, s.db, req.GetUnitId())
	default:
		u, err = s.byLink(ctx, req.GetDigitalLink())
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	if u == nil || merchant != "" && u.merchant != merchant {
		return nil, unknownUnit()
	}
	res := &inspectionv1.GetUnitResponse{Unit: u.proto()}
	if res.History, err = historyOf(ctx, s.db, u.id); err != nil {
		return nil, store.Wrap(err)
	}
	checks, err := readChecks(ctx, s.db, `(k.unit = $1 OR k.unit = '' AND k.case_id IN (SELECT case_id FROM case_unit WHERE unit = $1))`, u.id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	for _, k := range checks {
		res.Checks = append(res.Checks, k.proto())
	}
	return res, nil
}

// ListUnits pages through units, newest first.
func (s *service) ListUnits(ctx context.Context, req *inspectionv1.ListUnitsRequest) (*inspectionv1.ListUnitsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pageOf(req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	found, err := readUnits(s.db.Rows(ctx, `SELECT `+unitColumns+` FROM unit u
		WHERE ($1 = '' OR u.merchant = $1) AND ($2 = '' OR u.sku = $2) AND ($3 = '' OR u.id IN (SELECT unit FROM case_unit WHERE case_id = $3))
		  AND ($4 = '' OR u.holder = $4) AND ($5 = 0 OR u.verdict = $5) AND (u.commissioned_at, u.id) < ($6, $7)
		ORDER BY u.commissioned_at DESC, u.id DESC LIMIT $8`,
		merchant, req.GetSku(), req.GetCaseId(), req.GetHolder(), int16(req.GetVerdict()), p.at, p.id, p.size+1))
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &inspectionv1.ListUnitsResponse{}
	if len(found) > p.size {
		found = found[:p.size]
		res.NextPageToken = token(found[p.size-1].commissionedAt, found[p.size-1].id)
	}
	res.Units = protos(found)
	return res, nil
}

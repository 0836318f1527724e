package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// The contract's words, shorter.
type verdict = inspectionv1.Verdict

const (
	genuine      = inspectionv1.Verdict_VERDICT_GENUINE
	counterfeit  = inspectionv1.Verdict_VERDICT_COUNTERFEIT
	inconclusive = inspectionv1.Verdict_VERDICT_INCONCLUSIVE
	wrongItem    = inspectionv1.Verdict_VERDICT_WRONG_ITEM
	damaged      = inspectionv1.Verdict_VERDICT_GENUINE_BUT_DAMAGED
)

// CBV dispositions that rules speak of.
const (
	destroyed = "destroyed"
	sold      = "retail_sold"
	inTransit = "in_transit"
	// missing is what nobody holds that was in a warehouse and is not found.
	missing = "unavailable"
)

// unit is a row of the table unit: one physical good.
type unit struct {
	id, sku, merchant   string
	gtin, serial, lot   string
	digitalLink         string
	reference           string
	holder, disposition string
	// document of its last step.
	document       string
	verdict        verdict
	verdictAt      *time.Time
	caseID         string // of the standing verdict
	certificateID  string // in force
	cloneSuspected bool
	commissionedAt time.Time
	updatedAt      time.Time
}

const unitColumns = `u.id, u.sku, u.merchant, u.gtin, u.serial, u.lot, u.digital_link, u.reference, u.holder, u.disposition, u.document,
  u.verdict, u.verdict_at, u.case_id, u.certificate_id, u.clone_suspected, u.commissioned_at, u.updated_at`

func (u *unit) scan(r row) error {
	return r.Scan(&u.id, &u.sku, &u.merchant, &u.gtin, &u.serial, &u.lot, &u.digitalLink, &u.reference, &u.holder, &u.disposition, &u.document,
		&u.verdict, &u.verdictAt, &u.caseID, &u.certificateID, &u.cloneSuspected, &u.commissionedAt, &u.updatedAt)
}

func (u *unit) proto() *inspectionv1.Unit {
	return &inspectionv1.Unit{
		UnitId: u.id, Sku: u.sku, MerchantId: u.merchant, Gtin: u.gtin, Serial: u.serial, Lot: u.lot, DigitalLink: u.digitalLink,
		Holder: u.holder, Disposition: u.disposition, Verdict: u.verdict, CaseId: u.caseID, CertificateId: u.certificateID,
		CommissionedAt: timestamppb.New(u.commissionedAt), UpdatedAt: timestamppb.New(u.updatedAt),
	}
}

func protos(units []*unit) []*inspectionv1.Unit {
	out := make([]*inspectionv1.Unit, len(units))
	for i, u := range units {
		out[i] = u.proto()
	}
	return out
}

func ids(units []*unit) []string {
	out := make([]string, len(units))
	for i, u := range units {
		out[i] = u.id
	}
	return out
}

func unknownUnit() error {
	return fault.New(connect.CodeNotFound, "UNIT_UNKNOWN", "no such unit")
}

func readUnits(rows *sql.Rows, err error) ([]*unit, error) {
	var out []*unit
	return out, each(rows, err, func(r row) error {
		u := &unit{}
		out = append(out, u)
		return u.scan(r)
	})
}

// loadUnit reads a unit; nil when there is none.
func loadUnit(ctx context.Context, db reader, id string) (*unit, error) {
	u := &unit{}
	err := u.scan(db.Row(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return u, err
}

// lockUnits reads units for a change, in the one order of their locks. Unknown
// ids are left out.
func lockUnits(ctx context.Context, tx *store.Tx, unitIDs []string) ([]*unit, error) {
	return readUnits(tx.Rows(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.id = ANY ($1) ORDER BY u.id FOR UPDATE`, unitIDs))
}

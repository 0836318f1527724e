package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// maxUnits bounds the units of a case: its verdict tells of each in one
// transaction, and its closing may tell of each twice.
const maxUnits = 240

// caseFile is a row of case_file: one question whether goods are what they are
// said to be.
type caseFile struct {
	id                      string
	origin                  inspectionv1.Case_Origin
	state                   caseState
	merchant, sku, gtin     string
	lot, expiresOn          string
	category                string
	quantity                int64
	units                   list[string]
	reference               string
	site, destination       string
	market                  string
	openedBy                string
	verdict                 verdict
	proposedBy, confirmedBy string
	reason                  string
	appealed                bool
	ordered                 ordered
	orders                  int
	openedAt                time.Time
	confirmedAt, closedAt   *time.Time
	sales                   list[heldSale]
}

const caseColumns = `c.id, c.origin, c.state, c.merchant, c.sku, c.gtin, c.lot, c.expires_on, c.category, c.quantity,
  (SELECT coalesce(json_agg(cu.unit ORDER BY cu.unit), '[]') FROM case_unit cu WHERE cu.case_id = c.id), c.reference, c.site, c.destination,
  c.market, c.opened_by, c.verdict, c.proposed_by, c.confirmed_by, c.reason, c.appealed, c.ordered, c.orders, c.opened_at, c.confirmed_at, c.closed_at,
  (SELECT coalesce(json_agg(json_build_object('o', d.order_id, 'u', d.unit, 'h', d.standing) ORDER BY d.order_id, d.unit), '[]') FROM doubt d WHERE d.case_id = c.id)`

func (c *caseFile) scan(r row) error {
	return r.Scan(&c.id, &c.origin, &c.state, &c.merchant, &c.sku, &c.gtin, &c.lot, &c.expiresOn, &c.category, &c.quantity,
		&c.units, &c.reference, &c.site, &c.destination, &c.market, &c.openedBy, &c.verdict, &c.proposedBy, &c.confirmedBy, &c.reason, &c.appealed,
		&c.ordered, &c.orders, &c.openedAt, &c.confirmedAt, &c.closedAt, &c.sales)
}

func (c *caseFile) proto(checks ...*check) *inspectionv1.Case {
	out := &inspectionv1.Case{
		CaseId: c.id, Origin: c.origin, State: c.state, MerchantId: c.merchant, Sku: c.sku, Gtin: c.gtin, Lot: c.lot, ExpiresOn: c.expiresOn,
		Category: c.category, Quantity: c.quantity, UnitIds: c.units, Reference: c.reference, Site: c.site, Destination: c.destination,
		Verdict: c.verdict, ProposedBy: c.proposedBy, ConfirmedBy: c.confirmedBy, Reason: c.reason, Appealed: c.appealed,
		OpenedAt: timestamppb.New(c.openedAt), ConfirmedAt: stamp(c.confirmedAt), ClosedAt: stamp(c.closedAt), Market: c.market,
	}
	for _, x := range c.sales {
		out.Sales = append(out.Sales, x.proto())
	}
	for _, k := range checks {
		out.Checks = append(out.Checks, k.proto())
	}
	return out
}

// inWarehouse tells whether the goods stand in the warehouse.
func (c *caseFile) inWarehouse() bool {
	return c.origin == inspectionv1.Case_ORIGIN_RETURN || c.origin == inspectionv1.Case_ORIGIN_STOCK
}

// about tells whether the case is about a serial alone: no goods are at hand.
func (c *caseFile) about() bool { return c.origin == inspectionv1.Case_ORIGIN_SIGHTING }

func unknownCase() error { return fault.New(connect.CodeNotFound, "CASE_UNKNOWN", "no such case") }

// loadCase reads a case. One that is not there is not_found.
func loadCase(ctx context.Context, db reader, id string) (*caseFile, error) {
	return readCase(db.Row(ctx, `SELECT `+caseColumns+` FROM case_file c WHERE c.id = $1`, id))
}

// lockCase reads a case for a change.
func lockCase(ctx context.Context, tx *store.Tx, id string) (*caseFile, error) {
	return readCase(tx.Row(ctx, `SELECT `+caseColumns+` FROM case_file c WHERE c.id = $1 FOR UPDATE OF c`, id))
}

func readCase(r row) (*caseFile, error) {
	c := &caseFile{}
	err := c.scan(r)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, unknownCase()
	}
	return c, err
}

// answerOf tells a case as it is now, with its checks.
func answerOf(ctx context.Context, db reader, id string) (*inspectionv1.Case, error) {
	c, err := loadCase(ctx, db, id)
	if err != nil {
		return nil, err
	}
	checks, err := loadChecks(ctx, db, id)
	return c.proto(checks...), err
}

// note writes into a case's own history who did what.
func note(ctx context.Context, tx *store.Tx, caseID, what, words string) error {
	who := actor(ctx)
	if p := call.From(ctx).Principal; p.Account != "" {
		who = p.Account
	}
	_, err := tx.Do(ctx, `INSERT INTO case_entry (case_id, what, who, note) VALUES ($1, $2, $3, $4)`, caseID, what, who, words)
	return err
}

// openCases writes new cases. Cases about a serial hold nothing; the units of
// others are in one case at a time. The category, and the GTIN, that nobody
// said are those of the sku's last case.
func openCases(ctx context.Context, tx *store.Tx, cases []*caseFile) error {
	if len(cases) == 0 {
		return nil
	}
	n := len(cases)
	var origins []int16
	var quantities []int64
	texts := make([][]string, 13)
	for i := range texts {
		texts[i] = make([]string, 0, n)
	}
	var ofCase, units []string
	var holds []bool
	for _, c := range cases {
		origins, quantities = append(origins, int16(c.origin)), append(quantities, c.quantity)
		for i, t := range []string{c.id, c.merchant, c.sku, c.gtin, c.lot, c.expiresOn, c.category, c.reference, c.site, c.destination, c.market, c.openedBy, c.reason} {
			texts[i] = append(texts[i], t)
		}
		for _, u := range c.units {
			ofCase, units, holds = append(ofCase, c.id), append(units, u), append(holds, !c.about())
		}
	}
	args := []any{origins, quantities}
	for _, t := range texts {
		args = append(args, t)
	}
	if _, err := tx.Do(ctx, insertCases, append(args, actor(ctx))...); err != nil {
		return err
	}
	if len(units) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO case_unit (case_id, unit, held) SELECT c, u, h FROM unnest($1::text[], $2::text[], $3::bool[]) x(c, u, h) ORDER BY u`,
		ofCase, units, holds)
	if store.IsConstraint(err, "case_unit_held") {
		return fault.New(connect.CodeFailedPrecondition, "UNDER_INSPECTION", "an open case has one of these units")
	}
	return err
}

const insertCases = `WITH made AS (INSERT INTO case_file
  (id, origin, quantity, merchant, sku, gtin, lot, expires_on, category, reference, site, destination, market, opened_by, reason)
  SELECT x.id, x.origin, x.quantity, x.merchant, x.sku, coalesce(nullif(x.gtin, ''), last.gtin, ''), x.lot, x.expires_on,
    coalesce(nullif(x.category, ''), last.category, ''), x.reference, x.site, x.destination, x.market, x.opened_by, x.reason
    FROM unnest($1::int2[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
      $12::text[], $13::text[], $14::text[], $15::text[])
      x(origin, quantity, id, merchant, sku, gtin, lot, expires_on, category, reference, site, destination, market, opened_by, reason)
    LEFT JOIN LATERAL (SELECT c.category, c.gtin FROM case_file c WHERE c.sku = x.sku AND c.category <> '' ORDER BY c.opened_at DESC LIMIT 1) last ON true
  RETURNING id, opened_by, reason)
INSERT INTO case_entry (case_id, what, who, note) SELECT id, 'opened', coalesce(nullif(opened_by, ''), $16), reason FROM made`

// OpenCase asks for goods to be looked at again.
func (s *service) OpenCase(ctx context.Context, req *inspectionv1.OpenCaseRequest) (*inspectionv1.OpenCaseResponse, error) {
	c := &caseFile{
		id: req.GetCaseId(), origin: req.GetOrigin(), merchant: req.GetMerchantId(), sku: req.GetSku(), lot: req.GetLot(), quantity: req.GetQuantity(),
		units: slices.Sorted(slices.Values(req.GetUnitIds())), reference: req.GetReference(), site: site(req.GetSite()),
		destination: site(req.GetDestination()), market: s.marketOf(ctx), openedBy: call.From(ctx).Principal.Account, reason: req.GetReason(),
		category: req.GetCategory(),
	}
	switch {
	case len(c.units) > maxUnits:
		return nil, fault.Field("unit_ids", "at most 240 in one case")
	case len(c.units) > 0 && int64(len(c.units)) != c.quantity:
		return nil, fault.Field("unit_ids", "as many as quantity, or none")
	case len(c.units) == 0 && c.merchant == "":
		return nil, fault.Field("merchant_id", "say whose goods they are")
	case len(c.units) == 0 && c.about():
		return nil, fault.Field("unit_ids", "a sighting is of a serial")
	}
	return mutate(ctx, s, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.OpenCaseResponse, error) {
		old, err := loadCase(ctx, tx, c.id)
		switch {
		case err == nil && old.same(c):
			checks, err := loadChecks(ctx, tx, c.id)
			return &inspectionv1.OpenCaseResponse{Case: old.proto(checks...)}, err
		case err == nil:
			return nil, fault.New(connect.CodeAlreadyExists, "CASE_DIFFERS", "this id was used for another case; take a new one")
		case connect.CodeOf(err) != connect.CodeNotFound:
			return nil, err
		}
		if err := s.openCase(ctx, tx, c); err != nil {
			return nil, err
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.OpenCaseResponse{Case: answer}, err
	})
}

// same tells whether a case was opened by what another asks for.
func (c *caseFile) same(o *caseFile) bool {
	return c.origin == o.origin && c.sku == o.sku && c.lot == o.lot && c.quantity == o.quantity && c.reference == o.reference &&
		slices.Equal(c.units, o.units) && (o.merchant == "" || c.merchant == o.merchant)
}

// openCase opens a case by hand or on a plugin's word.
func (s *service) openCase(ctx context.Context, tx *store.Tx, c *caseFile) error {
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return err
	}
	if len(units) < len(c.units) {
		return unknownUnit()
	}
	for _, u := range units {
		switch {
		case c.merchant != "" && u.merchant != c.merchant || u.sku != c.sku:
			return fault.New(connect.CodeFailedPrecondition, "UNIT_DIFFERS", "this unit is of another sku or merchant", "unit_id", u.id)
		case c.inWarehouse() && kindOf(u.holder) != atWarehouse:
			return fault.New(connect.CodeFailedPrecondition, "NOT_IN_WAREHOUSE", "this unit does not stand in the warehouse", "unit_id", u.id)
		}
		c.merchant, c.gtin = u.merchant, u.gtin
	}
	if err := openCases(ctx, tx, []*caseFile{c}); err != nil {
		return err
	}
	if err := doubt(ctx, tx, c.units); err != nil || c.about() {
		return err
	}
	return s.carry(ctx, tx, byHolder(units, step{bizStep: "inspecting", disposition: "unknown", document: c.id})...)
}

// GetCase tells a case with its checks; a merchant its own.
func (s *service) GetCase(ctx context.Context, req *inspectionv1.GetCaseRequest) (*inspectionv1.GetCaseResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	c, err := answerOf(ctx, s.db, req.GetCaseId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if merchant != "" && c.GetMerchantId() != merchant {
		return nil, unknownCase()
	}
	return &inspectionv1.GetCaseResponse{Case: c}, nil
}

// ListCases pages through cases, newest first, without their checks.
func (s *service) ListCases(ctx context.Context, req *inspectionv1.ListCasesRequest) (*inspectionv1.ListCasesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := pageOf(req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Rows(ctx, `SELECT `+caseColumns+` FROM case_file c
		WHERE ($1 = '' OR c.merchant = $1) AND ($2 = 0 OR c.state = $2) AND ($3 = '' OR c.reference = $3) AND (c.opened_at, c.id) < ($4, $5)
		ORDER BY c.opened_at DESC, c.id DESC LIMIT $6`, merchant, int16(req.GetState()), req.GetReference(), p.at, p.id, p.size+1)
	var found []*caseFile
	if err := each(rows, err, func(r row) error {
		c := &caseFile{}
		found = append(found, c)
		return c.scan(r)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &inspectionv1.ListCasesResponse{}
	for i, c := range found {
		if i == p.size {
			res.NextPageToken = token(found[i-1].openedAt, found[i-1].id)
			break
		}
		res.Cases = append(res.Cases, c.proto())
	}
	return res, nil
}

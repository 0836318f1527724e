package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/uptrace/bun"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// States, kinds and remedies, as the contract numbers them.
const (
	stateRequested = int16(aftersalev1.Case_STATE_REQUESTED)
	stateOffered   = int16(aftersalev1.Case_STATE_OFFERED)
	stateApproved  = int16(aftersalev1.Case_STATE_APPROVED)
	stateAwaiting  = int16(aftersalev1.Case_STATE_AWAITING_GOODS)
	stateReceived  = int16(aftersalev1.Case_STATE_RECEIVED)
	stateAssessed  = int16(aftersalev1.Case_STATE_ASSESSED)
	stateSettled   = int16(aftersalev1.Case_STATE_SETTLED)
	stateRejected  = int16(aftersalev1.Case_STATE_REJECTED)
	stateWithdrawn = int16(aftersalev1.Case_STATE_WITHDRAWN)
	stateExpired   = int16(aftersalev1.Case_STATE_EXPIRED)

	kindMissing    = int16(aftersalev1.Kind_KIND_MISSING)
	kindWithdrawal = int16(aftersalev1.Kind_KIND_WITHDRAWAL)

	remedyRefund      = int16(aftersalev1.Remedy_REMEDY_REFUND)
	remedyReplacement = int16(aftersalev1.Remedy_REMEDY_REPLACEMENT)
	remedyRepair      = int16(aftersalev1.Remedy_REMEDY_REPAIR)
	remedyPartial     = int16(aftersalev1.Remedy_REMEDY_PARTIAL_REFUND)

	refundPlanned = int16(1)
	refundPaid    = int16(2)
	refundRefused = int16(3)
)

// purchase is an order as it was bought.
type purchase struct {
	bun.BaseModel `bun:"table:purchase,alias:p"`

	OrderID   string `bun:"order_id,pk"`
	Market    string
	Currency  string
	Account   string
	Subject   string
	PaymentID string
	ShipToRef string
	EmailRef  string
	Total     int64
	Refunded  int64
	PlacedAt  time.Time

	lines []*purchaseLine
}

type purchaseLine struct {
	bun.BaseModel `bun:"table:purchase_line,alias:l"`

	OrderID  string `bun:"order_id,pk"`
	N        int16  `bun:"n,pk"`
	SKU      string `bun:"sku"`
	Merchant string
	Title    string
	Quantity int64
	// Price of all pieces, and their share of what the order cost beside them.
	Price, Charge            int64
	HandedOver, Delivered    int64
	Replaced                 int64
	Claimed, ComingBack      int64
	PiecesRefunded, Refunded int64
	DeliveredAt              time.Time `bun:"delivered_at,scanonly"`
	HandedOverAt             time.Time `bun:"handed_over_at,scanonly"`
	Lost                     bool      `bun:"lost,scanonly"`
	Site                     string    `bun:"site,scanonly"`
	Grams                    int64     `bun:"grams,scanonly"`
	HSCode                   string    `bun:"hs_code,scanonly"`
	Origin                   string    `bun:"origin,scanonly"`
	Units                    []string  `bun:"units,array,scanonly"`
}

// free is how many delivered pieces stand in no case.
func (l *purchaseLine) free() int64 { return min(l.Delivered-l.ComingBack, l.HandedOver-l.Claimed) }

// inTransit is how many pieces a carrier has that stand in no case.
func (l *purchaseLine) inTransit() int64 {
	return max(0, min(l.HandedOver-l.Delivered-(l.Claimed-l.ComingBack), l.HandedOver-l.Claimed))
}

// readPurchase reads an order with its lines and what is known of how they
// travelled; with a transaction it locks the order first. Nil: never heard of.
func readPurchase(ctx context.Context, db bun.IDB, orderID string, lock bool) (*purchase, error) {
	p := &purchase{}
	q := db.NewSelect().Model(p).Where("p.order_id = ?", orderID)
	if lock {
		q = q.For("NO KEY UPDATE")
	}
	err := q.Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The period of a withdrawal runs from the last delivery of what was ordered
	// together (Directive 2011/83/EU, article 9(2)(b)(i)); every line has that
	// of its merchant's.
	err = db.NewSelect().Model(&p.lines).
		ColumnExpr("l.*").
		ColumnExpr("t.delivered_at, t.handed_over_at, coalesce(t.lost, false) AS lost, coalesce(t.site, '') AS site").
		ColumnExpr("coalesce(w.grams, 0) AS grams, coalesce(g.hs_code, '') AS hs_code, coalesce(g.origin, '') AS origin").
		ColumnExpr(`coalesce((SELECT array_agg(u.unit ORDER BY u.unit) FROM purchase_unit u JOIN fulfilment f ON f.id = u.fulfilment_id
			WHERE u.order_id = l.order_id AND u.sku = l.sku AND f.delivered_at IS NOT NULL
			  AND NOT EXISTS (SELECT FROM claimed_unit x WHERE x.order_id = u.order_id AND x.unit = u.unit)), '{}') AS units`).
		Join(`LEFT JOIN LATERAL (SELECT max(f.delivered_at) AS delivered_at, min(f.handed_over_at) FILTER (WHERE f.delivered_at IS NULL) AS handed_over_at,
			bool_or(f.delivered_at IS NULL AND s.status IN (9, 10, 11)) AS lost, min(f.site) AS site
			FROM fulfilment f LEFT JOIN shipment s ON s.id = f.shipment_id WHERE f.order_id = l.order_id AND f.merchant = l.merchant) t ON true`).
		Join(`LEFT JOIN LATERAL (SELECT sum(x.grams)::bigint / sum(x.quantity)::bigint AS grams FROM fulfilment f JOIN fulfilment_piece x ON x.fulfilment_id = f.id
			WHERE f.order_id = l.order_id AND x.sku = l.sku) w ON true`).
		Join("LEFT JOIN goods_facts g ON g.sku = l.sku").
		Where("l.order_id = ?", orderID).OrderExpr("l.n").Scan(ctx)
	return p, err
}

func (p *purchase) line(sku string) *purchaseLine {
	for _, l := range p.lines {
		if l.SKU == sku {
			return l
		}
	}
	return nil
}

// caseFile is an application and what becomes of it. It is changed under its
// purchase's lock.
type caseFile struct {
	bun.BaseModel `bun:"table:case_file,alias:c"`

	ID            string `bun:"id,pk"`
	OrderID       string
	Merchant      string
	Application   string
	Digest        []byte
	Kind          int16
	Reason        int16
	Remedy        int16
	State         int16
	Market        string
	Currency      string
	Account       string
	TextRef       string
	Blobs         []string `bun:",array"`
	Note          string
	Escalated     bool
	Policy        []byte
	DecideBy      time.Time `bun:",nullzero"`
	AnswerBy      time.Time `bun:",nullzero"`
	Outcome       int16
	ReasonCode    string
	DecisionRef   string
	DecidedBy     string
	DecidedAt     time.Time `bun:",nullzero"`
	KeepGoods     bool
	Offer         int64
	OfferRef      string
	OfferedBy     string
	OfferedAt     time.Time `bun:",nullzero"`
	Attempt       int
	Saga          string `bun:",nullzero,type:uuid"`
	ReturnID      string
	ShipmentID    string
	BackID        string
	ReservationID string
	RequestID     string
	RefundID      string
	Concluded     bool
	Repaired      *bool
	Refund        int64
	Deduction     int64
	RefundState   int16
	OpenedAt      time.Time `bun:",nullzero,default:now()"`
	ReceivedAt    time.Time `bun:",nullzero"`
	SettledAt     time.Time `bun:",nullzero"`

	lines []*caseLine
}

type caseLine struct {
	bun.BaseModel `bun:"table:case_line,alias:cl"`

	CaseID       string `bun:"case_id,pk"`
	N            int16  `bun:"n,pk"`
	OrderID      string
	SKU          string `bun:"sku"`
	Asked        int64
	Accepted     int64
	Claimed      int64
	WasDelivered bool
	Received     int64
	Assessed     int64
	Passed       int64

	Title string   `bun:"title,scanonly"`
	Units []string `bun:"units,array,scanonly"`
}

func errNoCase() error {
	return fault.New(connect.CodeNotFound, "CASE_UNKNOWN", "there is no such case, or it is not yours: check case_id and, for a guest's order, cart_secret")
}

// readCase reads a case with its lines; nil when there is none.
func readCase(ctx context.Context, db bun.IDB, where string, args ...any) (*caseFile, error) {
	c := &caseFile{}
	err := db.NewSelect().Model(c).Where(where, args...).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := []*caseFile{c}
	return c, readLines(ctx, db, all)
}

// readLines reads the lines of cases in one statement.
func readLines(ctx context.Context, db bun.IDB, all []*caseFile) error {
	if len(all) == 0 {
		return nil
	}
	by, ids := make(map[string]*caseFile, len(all)), make([]string, len(all))
	for i, c := range all {
		by[c.ID], ids[i] = c, c.ID
	}
	var lines []*caseLine
	err := db.NewSelect().Model(&lines).ColumnExpr("cl.*").ColumnExpr("l.title").
		ColumnExpr("coalesce((SELECT array_agg(u.unit ORDER BY u.unit) FROM claimed_unit u WHERE u.case_id = cl.case_id AND u.n = cl.n), '{}') AS units").
		Join("JOIN purchase_line l ON l.order_id = cl.order_id AND l.n = cl.n").
		Where("cl.case_id IN (?)", bun.List(ids)).OrderExpr("cl.case_id, cl.n").Scan(ctx)
	for _, l := range lines {
		by[l.CaseID].lines = append(by[l.CaseID].lines, l)
	}
	return err
}

// lockCase locks the order of a case and then reads the case: nobody else
// changes it until the transaction ends.
func lockCase(ctx context.Context, tx *store.Tx, id string) (*caseFile, error) {
	c, err := lockCaseBy(ctx, tx, "id", id)
	if err == nil && c == nil {
		err = errNoCase()
	}
	return c, err
}

// lockCaseBy is lockCase by another column that names one case; nil when there
// is none.
func lockCaseBy(ctx context.Context, tx *store.Tx, column, value string) (*caseFile, error) {
	var order, id string
	err := tx.NewSelect().Table("case_file").Column("order_id", "id").Where("? = ?", bun.Ident(column), value).Limit(1).Scan(ctx, &order, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := lockPurchase(ctx, tx, order); err != nil {
		return nil, err
	}
	return readCase(ctx, tx, "c.id = ?", id)
}

// save writes columns of a case.
func (c *caseFile) save(ctx context.Context, tx *store.Tx, columns ...string) error {
	columns = slices.Clone(columns)
	slices.Sort(columns)
	_, err := tx.NewUpdate().Model(c).Column(slices.Compact(columns)...).WherePK().Exec(ctx)
	return err
}

// move brings a case into a state and says so on the timeline; columns that
// were changed are written with it.
func (c *caseFile) move(ctx context.Context, tx *store.Tx, state int16, what, who, note string, columns ...string) error {
	c.State = state
	if err := c.save(ctx, tx, append(slices.Clone(columns), "state")...); err != nil {
		return err
	}
	return c.tell(ctx, tx, what, who, note)
}

// tell writes a line of the timeline.
func (c *caseFile) tell(ctx context.Context, tx *store.Tx, what, who, note string) error {
	_, err := tx.Do(ctx, `INSERT INTO timeline (case_id, what, who, note) VALUES ($1, $2, $3, $4)`, c.ID, what, who, note)
	return err
}

// saveLines writes what changed of a case's lines.
func (c *caseFile) saveLines(ctx context.Context, tx *store.Tx, columns ...string) error {
	_, err := tx.NewUpdate().Model(&c.lines).Column(columns...).Bulk().Exec(ctx)
	return err
}

// release lets go of pieces: what is not claimed can be applied for again.
// Units that came back stay.
func (c *caseFile) release(ctx context.Context, tx *store.Tx, keep func(*caseLine) int64) error {
	for _, l := range c.lines {
		l.Claimed = keep(l)
	}
	if err := c.saveLines(ctx, tx, "claimed"); err != nil {
		return err
	}
	// Of a line of which nothing stays claimed no unit does.
	_, err := tx.Do(ctx, `DELETE FROM claimed_unit u USING case_line l WHERE l.case_id = $1 AND l.claimed = 0 AND u.case_id = l.case_id AND u.n = l.n AND NOT u.came_back`, c.ID)
	return err
}

func nothing(*caseLine) int64 { return 0 }

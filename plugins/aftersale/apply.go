package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// uploads are what photos and documents come as.
var uploads = []string{"image/jpeg", "image/png", "image/webp", "application/pdf"}

// GrantUpload answers a path for one photo or document.
func (s *service) GrantUpload(ctx context.Context, req *aftersalev1.GrantUploadRequest) (*aftersalev1.GrantUploadResponse, error) {
	if _, err := s.party(ctx, req.GetOrderId(), "", req.GetCartSecret()); err != nil {
		return nil, err
	}
	res, err := s.host.Blobs.GrantUpload(ctx, &kernelv1.GrantUploadRequest{MediaTypes: uploads})
	return &aftersalev1.GrantUploadResponse{Path: res.GetPath()}, host.Relay(err)
}

// sent makes sure that what is attached is here.
func (s *service) sent(ctx context.Context, blobs []string) error {
	for _, b := range blobs {
		_, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: b, Seconds: 1})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return fault.Field("blob_ids", b+" was not sent here")
		}
		if err != nil {
			return host.Relay(err)
		}
	}
	return nil
}

var kinds = []aftersalev1.Kind{
	aftersalev1.Kind_KIND_WITHDRAWAL, aftersalev1.Kind_KIND_RETURN, aftersalev1.Kind_KIND_EXCHANGE, aftersalev1.Kind_KIND_REPAIR,
	aftersalev1.Kind_KIND_MISSING, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT,
}

// CheckApplication tells what can be applied for.
func (s *service) CheckApplication(ctx context.Context, req *aftersalev1.CheckApplicationRequest) (*aftersalev1.CheckApplicationResponse, error) {
	if _, err := s.party(ctx, req.GetOrderId(), "", req.GetCartSecret()); err != nil {
		return nil, err
	}
	p, err := readPurchase(ctx, s.db, req.GetOrderId(), false)
	if err != nil {
		return nil, store.Wrap(err)
	}
	if p == nil {
		return nil, errNoOrder()
	}
	res := &aftersalev1.CheckApplicationResponse{}
	by := map[string]*terms{}
	for _, l := range p.lines {
		t := by[l.Merchant]
		if t == nil {
			if t, err = readTerms(ctx, s.db, p.Market, p.PlacedAt, l.Merchant); err != nil {
				return nil, store.Wrap(err)
			}
			by[l.Merchant] = t
		}
		one := &aftersalev1.EligibleLine{
			Sku: l.SKU, MerchantId: l.Merchant, Title: l.Title, Free: max(0, l.free()), UnitIds: l.Units, InTransit: l.inTransit(),
		}
		for _, k := range kinds {
			refusal, until, source, _ := t.verdictOn(l, k, aftersalev1.Reason_REASON_UNSPECIFIED, 1, now())
			e := &aftersalev1.Eligibility{Kind: k, Refusal: refusal, Source: source, Refund: amount(p.Currency, l.worth(1))}
			if !until.IsZero() {
				e.Until = timestamppb.New(until)
			}
			one.Kinds = append(one.Kinds, e)
		}
		res.Lines = append(res.Lines, one)
	}
	return res, nil
}

// digestOf is what makes an application the same again: everything but the
// secret and the text, of which nothing stays here but the vault's reference.
func digestOf(m *aftersalev1.ApplyRequest) ([]byte, error) {
	c := proto.CloneOf(m)
	c.CartSecret, c.Text = "", ""
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	sum := sha256.Sum256(b)
	return sum[:], err
}

// byDefault is what a kind ends with when nobody says.
func byDefault(kind aftersalev1.Kind, remedy aftersalev1.Remedy) (int16, error) {
	switch kind {
	case aftersalev1.Kind_KIND_EXCHANGE:
		if remedy == aftersalev1.Remedy_REMEDY_UNSPECIFIED || remedy == aftersalev1.Remedy_REMEDY_REPLACEMENT {
			return remedyReplacement, nil
		}
	case aftersalev1.Kind_KIND_REPAIR:
		if remedy == aftersalev1.Remedy_REMEDY_UNSPECIFIED || remedy == aftersalev1.Remedy_REMEDY_REPAIR {
			return remedyRepair, nil
		}
	case aftersalev1.Kind_KIND_MISSING, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT:
		if remedy == aftersalev1.Remedy_REMEDY_REPLACEMENT {
			return remedyReplacement, nil
		}
		fallthrough
	default:
		if remedy == aftersalev1.Remedy_REMEDY_UNSPECIFIED || remedy == aftersalev1.Remedy_REMEDY_REFUND {
			return remedyRefund, nil
		}
	}
	return 0, fault.Field("remedy", "is not one of this kind")
}

// Apply opens a case.
func (s *service) Apply(ctx context.Context, req *aftersalev1.ApplyRequest) (*aftersalev1.ApplyResponse, error) {
	remedy, err := byDefault(req.GetKind(), req.GetRemedy())
	if err != nil {
		return nil, err
	}
	if err := distinct(req.GetLines()); err != nil {
		return nil, err
	}
	who, err := s.party(ctx, req.GetOrderId(), "", req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	if err := s.sent(ctx, req.GetBlobIds()); err != nil {
		return nil, err
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, req.GetOrderId(), text(req.GetText())...)
	if err != nil {
		return nil, err
	}
	var c *caseFile
	var started *saga.Started
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		started = nil
		p, err := readPurchase(ctx, tx, req.GetOrderId(), true)
		if err != nil {
			return err
		}
		if p == nil {
			return errNoOrder()
		}
		if c, err = readCase(ctx, tx, "c.order_id = ? AND c.application = ?", p.OrderID, req.GetApplicationId()); err != nil {
			return err
		}
		if c != nil {
			if !bytes.Equal(c.Digest, digest) {
				return fault.New(connect.CodeAlreadyExists, "APPLICATION_DIFFERS", "this application was made with another request; take another id")
			}
			return nil
		}
		c = &caseFile{
			ID: id.New("afs"), OrderID: p.OrderID, Application: req.GetApplicationId(), Digest: digest, Kind: int16(req.GetKind()), Reason: int16(req.GetReason()),
			Remedy: remedy, State: stateRequested, Market: p.Market, Currency: p.Currency, Account: p.Account, Blobs: append([]string{}, req.GetBlobIds()...),
		}
		if c.TextRef, err = keep(ctx, tx, p.OrderID, sealed); err != nil {
			return err
		}
		started, err = c.open(ctx, tx, p, req, who)
		return err
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	s.launch(ctx, started)
	return &aftersalev1.ApplyResponse{Case: c.proto()}, nil
}

// distinct refuses a line that stands twice and serials that are not as many
// as its pieces.
func distinct(lines []*aftersalev1.ApplyLine) error {
	seen := map[string]bool{}
	for i, l := range lines {
		if seen[l.GetSku()] {
			return fault.Field(fmt.Sprintf("lines[%d].sku", i), "each sku once")
		}
		seen[l.GetSku()] = true
		if n := len(l.GetUnitIds()); n > 0 && int64(n) != l.GetQuantity() {
			return fault.Field(fmt.Sprintf("lines[%d].unit_ids", i), "as many as the quantity, or none")
		}
	}
	return nil
}

// launch lets the kernel drive what was started. It goes on without the
// caller: what a step refuses is told by the case, and where the kernel does
// not answer now a node takes the saga up by itself.
func (s *service) launch(ctx context.Context, started *saga.Started) {
	if started == nil {
		return
	}
	if err := s.host.LaunchSaga(ctx, started); err != nil {
		s.log.DebugContext(ctx, "a saga goes on by itself", "saga", started.Definition, "key", started.Key, "error", err)
	}
}

// maxCases is how many cases an order may have, ended ones too.
const maxCases = 50

// open writes a case that is checked against what was delivered, the period
// and what stands in cases already. The database refuses the last of these
// too, whatever is believed here.
func (c *caseFile) open(ctx context.Context, tx *store.Tx, p *purchase, req *aftersalev1.ApplyRequest, who party) (*saga.Started, error) {
	for _, in := range req.GetLines() {
		l := p.line(in.GetSku())
		switch {
		case l == nil:
			return nil, fault.New(connect.CodeFailedPrecondition, "NOT_BOUGHT", "this is not of that order", "sku", in.GetSku())
		case c.Merchant == "":
			c.Merchant = l.Merchant
		case c.Merchant != l.Merchant:
			return nil, fault.New(connect.CodeFailedPrecondition, "SEVERAL_MERCHANTS", "these are of several merchants; apply to each")
		}
	}
	var before int
	if err := tx.Row(ctx, `SELECT count(*) FROM case_file WHERE order_id = $1`, p.OrderID).Scan(&before); err != nil {
		return nil, err
	}
	if before >= maxCases {
		return nil, fault.New(connect.CodeResourceExhausted, "TOO_MANY_CASES", "this order has had too many applications; write to the merchant")
	}
	t, err := readTerms(ctx, tx, p.Market, p.PlacedAt, c.Merchant)
	if err != nil {
		return nil, err
	}
	if c.Policy, err = proto.Marshal(t.policy); err != nil {
		return nil, err
	}
	var worth int64
	var delivered time.Time
	var units []string
	var unitLines []int16
	for _, in := range req.GetLines() {
		l := p.line(in.GetSku())
		refusal, until, source, was := t.verdictOn(l, req.GetKind(), req.GetReason(), in.GetQuantity(), now())
		if refusal != "" {
			return nil, refused(refusal, l, until, source)
		}
		for _, u := range in.GetUnitIds() {
			if !slices.Contains(l.Units, u) {
				return nil, refused("CLAIMED_BEFORE", l, until, source)
			}
			units, unitLines = append(units, u), append(unitLines, l.N)
		}
		c.lines = append(c.lines, &caseLine{
			CaseID: c.ID, N: l.N, OrderID: p.OrderID, SKU: l.SKU, Asked: in.GetQuantity(), Claimed: in.GetQuantity(), WasDelivered: was,
			Title: l.Title, Units: in.GetUnitIds(),
		})
		worth += l.worthNext(in.GetQuantity())
		if l.DeliveredAt.After(delivered) {
			delivered = l.DeliveredAt
		}
	}
	c.DecideBy = now().Add(time.Duration(t.policy.GetDecideHours()) * time.Hour).Truncate(time.Microsecond)
	c.OpenedAt = now().Truncate(time.Microsecond)
	if err := c.insert(ctx, tx, units, unitLines); err != nil {
		return nil, err
	}
	if err := c.tell(ctx, tx, "case.opened", who.who, kindName(c.Kind)); err != nil {
		return nil, err
	}
	if err := tx.Publish(&aftersalev1.ApplicationOpened{
		CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Market: c.Market, Kind: req.GetKind(), Reason: req.GetReason(), Lines: c.linesProto(),
		AccountId: c.Account, EmailRef: p.EmailRef,
	}); err != nil {
		return nil, err
	}
	if c.Kind == kindWithdrawal {
		return c.approve(ctx, tx, p, decision{code: "WITHIN_PERIOD", by: who.who})
	}
	for _, r := range t.policy.GetRules() {
		if matches(r, c, worth, delivered) {
			return c.approve(ctx, tx, p, decision{code: "MERCHANT_RULE", by: "rule", keepGoods: r.GetKeepGoods()})
		}
	}
	return nil, c.deadline(tx, deadlineDecide, c.DecideBy)
}

// refused says why a line cannot be applied for.
func refused(reason string, l *purchaseLine, until time.Time, source string) error {
	words := map[string]string{
		"NOT_DELIVERED":   "nothing of this was delivered that could come back",
		"OUT_OF_PERIOD":   "the period for this is over",
		"NO_RIGHT":        "neither the law of this market nor the merchant's terms give this",
		"CLAIMED_BEFORE":  "so many of these do not stand open: they are in a case, or came back already",
		"NOT_MISSING_YET": "a carrier still has these; they count as missing later",
	}[reason]
	meta := []string{"sku", l.SKU, "free", fmt.Sprint(max(0, l.free()))}
	if !until.IsZero() {
		meta = append(meta, "until", until.UTC().Format(time.RFC3339))
	}
	if source != "" {
		meta = append(meta, "source", source)
	}
	return fault.New(connect.CodeFailedPrecondition, reason, words, meta...)
}

// insert writes a case, its lines and its serials. What the database refuses
// as claimed before is told so.
func (c *caseFile) insert(ctx context.Context, tx *store.Tx, units []string, lines []int16) error {
	if _, err := tx.NewInsert().Model(c).Exec(ctx); err != nil {
		return err
	}
	_, err := tx.NewInsert().Model(&c.lines).Exec(ctx)
	if err == nil && len(units) > 0 {
		_, err = tx.Do(ctx, `INSERT INTO claimed_unit (order_id, unit, case_id, n) SELECT $1, u.unit, $2, u.n FROM unnest($3::text[], $4::smallint[]) u(unit, n)`,
			c.OrderID, c.ID, units, lines)
	}
	return claimedBefore(err)
}

// claimedBefore tells what the database refuses about claims.
func claimedBefore(err error) error {
	for _, name := range []string{"claimed_within_handed_over", "returned_within_delivered", "claimed_unit_pkey"} {
		if store.IsConstraint(err, name) {
			return fault.New(connect.CodeFailedPrecondition, "CLAIMED_BEFORE", "so many of these do not stand open: they are in a case, or came back already").WithCause(err)
		}
	}
	return err
}

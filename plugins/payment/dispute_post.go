package main

import (
	"context"
	"fmt"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// borne is what a merchant bears of a dispute: where it was taken from, what
// tax and commission came back with it, and its part of the fee.
type borne struct {
	dispute, merchant                            string
	pending, available, tax, commission, charged int64
}

func (b *borne) amount() int64 { return b.pending + b.available }

// sharesOfDisputes reads who bears disputes, by dispute.
func sharesOfDisputes(ctx context.Context, db reader, ids []string) (map[string][]*borne, error) {
	out := make(map[string][]*borne, len(ids))
	rows, err := db.Rows(ctx, `SELECT dispute, merchant, pending, available, tax, commission, charged FROM dispute_share WHERE dispute = ANY ($1) ORDER BY dispute, merchant`, ids)
	return out, each(rows, err, func() error {
		b := &borne{}
		err := rows.Scan(&b.dispute, &b.merchant, &b.pending, &b.available, &b.tax, &b.commission, &b.charged)
		out[b.dispute] = append(out[b.dispute], b)
		return err
	})
}

func merchantShares(all []*borne) []*paymentv1.MerchantShare {
	out := make([]*paymentv1.MerchantShare, len(all))
	for i, b := range all {
		out[i] = &paymentv1.MerchantShare{MerchantId: b.merchant, MinorUnits: b.amount()}
	}
	return out
}

// postings are entries of the ledger that are written together.
type postings struct {
	kinds, keys, debits, credits []string
	amounts                      []int64
}

func (e *postings) add(kind, key, debit, credit string, amount int64) {
	if amount <= 0 {
		return
	}
	e.kinds, e.keys, e.debits = append(e.kinds, kind), append(e.keys, key), append(e.debits, debit)
	e.credits, e.amounts = append(e.credits, credit), append(e.amounts, amount)
}

func (e *postings) post(ctx context.Context, tx *store.Tx, currency, instance, subject string) error {
	if len(e.kinds) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
		SELECT x.kind, x.key, x.debit, x.credit, $6, x.amount, $7, $8 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int8[])
		WITH ORDINALITY x(kind, key, debit, credit, amount, n) ORDER BY x.n`, e.kinds, e.keys, e.debits, e.credits, e.amounts, currency, instance, subject)
	return err
}

const (
	unallocated   = "platform:unallocated"
	platformFees  = "platform:fees"
	disputeCosts  = "platform:disputes"
	merchantsHave = `WITH m AS (` + holdings + `) SELECT merchant, base::int8, pending::int8, tax::int8, fee::int8, shared::int8, taxed::int8,
  charged::int8, released::int8, recovered::int8 FROM m WHERE base > 0 ORDER BY merchant`
)

func clearing(instance string) string           { return "provider:" + instance + ":clearing" }
func pendingOf(merchant string) string          { return "merchant:" + merchant + ":pending" }
func availableOf(merchant string) string        { return "merchant:" + merchant + ":available" }
func reserveOf(merchant string) string          { return "merchant:" + merchant + ":reserve" }
func taxesOf(market string) string              { return "tax:" + market }
func (d *dispute) key(n int) string             { return fmt.Sprintf("%s/%d", d.id, n) }
func (d *dispute) keyOf(n int, m string) string { return d.key(n) + "/" + m }

// takeDispute posts what the bank took and is not posted yet, as far as the
// payment has anything left: what was refunded, is being refunded or is
// disputed already is not there to be taken. It is taken from merchants in
// proportion to what each has of the payment; when nothing of the payment is
// left then, all that each has. The payment's row is locked.
func (s *service) takeDispute(ctx context.Context, tx *store.Tx, d *dispute, p *payment) error {
	take := min(d.amount-d.posted, p.refundable())
	if take <= 0 || p.currency != d.currency {
		return nil
	}
	type holding struct {
		merchant                               string
		base, pending, tax, fee, shared, taxed int64
		charged, released, recovered           int64
	}
	var all []holding
	rows, err := tx.Rows(ctx, merchantsHave, p.id)
	if err := each(rows, err, func() error {
		h := holding{}
		err := rows.Scan(&h.merchant, &h.base, &h.pending, &h.tax, &h.fee, &h.shared, &h.taxed, &h.charged, &h.released, &h.recovered)
		all = append(all, h)
		return err
	}); err != nil {
		return err
	}
	// The marketplace has what is nobody's share; it may have borne refunds.
	weights, own := make([]int64, len(all)+1), p.captured-p.refunded-p.disputed
	for i, h := range all {
		weights[i] = h.base
		own -= h.base
	}
	weights[len(all)] = max(own, 0)
	parts := make([]money.Money, len(weights))
	if len(all) > 0 {
		if parts, err = (money.Money{Currency: d.currency, Minor: take}).Allocate(weights...); err != nil {
			return err
		}
	}
	last := p.refunded+p.disputed+take == p.captured
	n := d.postings + 1
	merchants, pending, available, tax, commission := []string{}, []int64{}, []int64{}, []int64{}, []int64{}
	var e postings
	e.add("dispute", d.key(n), unallocated, clearing(d.instance), take)
	for i, h := range all {
		taken := min(parts[i].Minor, h.base)
		if last {
			taken = h.base
		}
		left := h.base - taken
		untaxed := min(h.tax, max(roundHalfUp(h.taxed, h.base, h.shared)-roundHalfUp(h.taxed, left, h.shared), h.tax-left))
		fromPending := min(taken, max(h.pending, 0)+untaxed)
		back := h.fee - roundHalfUp(h.charged, max(h.released-h.recovered-(taken-fromPending), 0), h.released)
		if taken <= 0 {
			continue
		}
		e.add("dispute_tax_return", d.keyOf(n, h.merchant), taxesOf(p.market), pendingOf(h.merchant), untaxed)
		e.add("dispute_unshare", d.keyOf(n, h.merchant), pendingOf(h.merchant), unallocated, fromPending)
		e.add("dispute_recover", d.keyOf(n, h.merchant), availableOf(h.merchant), unallocated, taken-fromPending)
		e.add("dispute_fee_return", d.keyOf(n, h.merchant), platformFees, availableOf(h.merchant), back)
		merchants, pending = append(merchants, h.merchant), append(pending, fromPending)
		available, tax, commission = append(available, taken-fromPending), append(tax, untaxed), append(commission, max(back, 0))
	}
	if _, err := tx.Do(ctx, `INSERT INTO dispute_share AS x (dispute, merchant, pending, available, tax, commission)
		SELECT $1, u.* FROM unnest($2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[]) u
		ON CONFLICT (dispute, merchant) DO UPDATE SET pending = x.pending + excluded.pending, available = x.available + excluded.available,
		tax = x.tax + excluded.tax, commission = x.commission + excluded.commission`, d.id, merchants, pending, available, tax, commission); err != nil {
		return err
	}
	d.posted, d.postings = d.posted+take, n
	p.disputed += take
	if _, err := tx.Do(ctx, `UPDATE payment SET disputed = disputed + $2, updated_at = now() WHERE id = $1`, p.id, take); err != nil {
		return err
	}
	return e.post(ctx, tx, d.currency, d.instance, p.id)
}

// roundHalfUp is amount * part / whole.
func roundHalfUp(amount, part, whole int64) int64 {
	if amount <= 0 || whole <= 0 {
		return 0
	}
	parts, err := money.Money{Minor: amount}.Allocate(part, whole-part)
	if err != nil {
		return 0
	}
	return parts[0].Minor
}

// giveBackDispute undoes what a dispute took, entry by entry: it was won.
func giveBackDispute(ctx context.Context, tx *store.Tx, d *dispute, p *payment) error {
	if d.posted == 0 {
		return nil
	}
	all, err := sharesOfDisputes(ctx, tx, []string{d.id})
	if err != nil {
		return err
	}
	var e postings
	e.add("dispute_won", d.id, clearing(d.instance), unallocated, d.posted)
	for _, b := range all[d.id] {
		key := d.id + "/" + b.merchant
		e.add("dispute_reshare", key, unallocated, pendingOf(b.merchant), b.pending)
		e.add("dispute_tax", key, pendingOf(b.merchant), taxesOf(p.market), b.tax)
		e.add("dispute_restore", key, unallocated, availableOf(b.merchant), b.available)
		e.add("dispute_commission", key, availableOf(b.merchant), platformFees, b.commission)
	}
	p.disputed -= d.posted
	if _, err := tx.Do(ctx, `UPDATE payment SET disputed = disputed - $2, updated_at = now() WHERE id = $1`, p.id, d.posted); err != nil {
		return err
	}
	return e.post(ctx, tx, d.currency, d.instance, p.id)
}

// postFee posts what the company keeps for a dispute, and once it is lost has
// the merchants bear it, if that is the policy, in proportion to their shares.
func (s *service) postFee(ctx context.Context, tx *store.Tx, d *dispute) error {
	var e postings
	if delta := d.fee - d.feePosted; delta != 0 {
		d.feePostings++
		d.feePosted = d.fee
		e.add("dispute_cost", d.key(d.feePostings), disputeCosts, clearing(d.instance), delta)
		e.add("dispute_cost_back", d.key(d.feePostings), clearing(d.instance), disputeCosts, -delta)
	}
	due := d.feePosted - d.charged
	if (d.state == lost || d.state == accepted) && due > 0 && s.merchantsBearFees && d.posted > 0 {
		all, err := sharesOfDisputes(ctx, tx, []string{d.id})
		if err != nil {
			return err
		}
		weights, own := make([]int64, len(all[d.id])+1), d.posted
		for i, b := range all[d.id] {
			weights[i] = b.amount()
			own -= b.amount()
		}
		weights[len(all[d.id])] = max(own, 0)
		parts, err := money.Money{Currency: d.feeCurrency, Minor: due}.Allocate(weights...)
		if err != nil {
			return err
		}
		merchants, charged := make([]string, len(all[d.id])), make([]int64, len(all[d.id]))
		for i, b := range all[d.id] {
			e.add("dispute_charge", d.keyOf(d.feePostings, b.merchant), availableOf(b.merchant), disputeCosts, parts[i].Minor)
			merchants[i], charged[i] = b.merchant, parts[i].Minor
		}
		if _, err := tx.Do(ctx, `UPDATE dispute_share x SET charged = x.charged + u.n FROM unnest($2::text[], $3::int8[]) u(merchant, n)
			WHERE x.dispute = $1 AND x.merchant = u.merchant`, d.id, merchants, charged); err != nil {
			return err
		}
		d.charged = d.feePosted
	}
	return e.post(ctx, tx, d.feeCurrency, d.instance, d.id)
}

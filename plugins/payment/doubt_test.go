package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
)

// The merchant's payout for an inspected sale waits for the verdict: whatever
// is over and however often it is asked, a share of which a unit is in doubt
// is not released before that doubt is over.
func TestASaleInDoubtIsNotPaidOut(t *testing.T) {
	t.Parallel()
	p := open(t)
	doubted := func(order, inspection, unit string) *inspectionv1.SaleDoubted {
		return &inspectionv1.SaleDoubted{CaseId: inspection, OrderId: order, MerchantId: "mrc_one", UnitId: unit, Reason: "SIGHTED"}
	}
	cleared := func(order, inspection, unit string) *inspectionv1.SaleCleared {
		return &inspectionv1.SaleCleared{CaseId: inspection, OrderId: order, MerchantId: "mrc_one", UnitId: unit, Reason: "GENUINE"}
	}
	hear := func(t *testing.T, subscription string, events ...proto.Message) {
		t.Helper()
		require.NoError(t, p.Deliver(t.Context(), subscription, events...))
	}
	for name, x := range map[string]struct {
		words    func(t *testing.T, order string)
		released bool
	}{
		"no doubt":         {func(*testing.T, string) {}, true},
		"in doubt":         {func(t *testing.T, o string) { hear(t, "inspections", doubted(o, "cas_1", "unt_1")) }, false},
		"of another order": {func(t *testing.T, o string) { hear(t, "inspections", doubted("ord_x", "cas_1", "unt_1")) }, true},
		"cleared": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), cleared(o, "cas_1", "unt_1"))
		}, true},
		"one of two cleared": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), doubted(o, "cas_1", "unt_2"), cleared(o, "cas_1", "unt_1"))
		}, false},
		"cleared by one case": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), doubted(o, "cas_2", "unt_1"), cleared(o, "cas_2", "unt_1"))
		}, false},
		"doubted again": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), cleared(o, "cas_1", "unt_1"), doubted(o, "cas_1", "unt_1"))
		}, false},
		"cleared in another one": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), cleared("ord_x", "cas_1", "unt_1"))
		}, false},
		"an after-sale case that ends does not end it": {func(t *testing.T, o string) {
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"))
			hear(t, "cases", &aftersalev1.ApplicationOpened{CaseId: "afs_" + o, OrderId: o, MerchantId: "mrc_one"},
				&aftersalev1.CaseSettled{CaseId: "afs_" + o, OrderId: o, MerchantId: "mrc_one"})
		}, false},
		"what is cleared leaves an after-sale case open": {func(t *testing.T, o string) {
			hear(t, "cases", &aftersalev1.ApplicationOpened{CaseId: "afs_" + o, OrderId: o, MerchantId: "mrc_one"})
			hear(t, "inspections", doubted(o, "cas_1", "unt_1"), cleared(o, "cas_1", "unt_1"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			order, _ := p.sold(t, 100)
			before := p.has(t)
			p.sends(t, order, "ful_"+order)
			p.brings(t, order, "ful_"+order)
			x.words(t, order)
			p.passes(t, order)
			p.passes(t, order)
			available := p.has(t).GetAvailableMinor() - before.GetAvailableMinor()
			require.Equal(t, x.released, available == 100, "%d became available", available)
			if x.released {
				return
			}
			// What ends the doubt lets the share go, without another clock.
			hear(t, "inspections", cleared(order, "cas_1", "unt_1"), cleared(order, "cas_1", "unt_2"), cleared(order, "cas_2", "unt_1"))
			hear(t, "cases", &aftersalev1.CaseSettled{CaseId: "afs_" + order, OrderId: order, MerchantId: "mrc_one"})
			require.EqualValues(t, 100, p.has(t).GetAvailableMinor()-before.GetAvailableMinor())
		})
	}
	p.balanced(t)
}

package main

import (
	"github.com/uptrace/bun"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// balance is what stands where.
type balance struct {
	bun.BaseModel `bun:"table:stock_balance"`

	SKU, Site, Lot, Merchant                           string
	Authenticated                                      bool
	ExpiresOn                                          string
	Sellable, Reserved, Quarantine, Damaged, Destroyed int64
	Incoming, Receiving, Picked, Packed, Outbound      int64
	InTransit, Inspecting, Suspect, Defective, Repair  int64
	Expired, Recalled, Disposed                        int64
	Version                                            int64
	Location                                           string
}

// balanceColumns are the columns of balance, with the date as text.
const balanceColumns = `sku, site, lot, authenticated, merchant, coalesce(expires_on::text, '') AS expires_on, sellable, reserved, quarantine, damaged,
  destroyed, incoming, receiving, picked, packed, outbound, in_transit, inspecting, suspect, defective, repair, expired, recalled, disposed, version,
  coalesce((SELECT h.location FROM shelf h WHERE h.site = balance.site AND h.sku = balance.sku AND h.lot = balance.lot
    AND h.authenticated = balance.authenticated), '') AS location`

func (b *balance) proto() *warehousev1.StockLevel {
	l := &warehousev1.StockLevel{
		Sku: b.SKU, Site: b.Site, Lot: b.Lot, Authenticated: b.Authenticated, ExpiresOn: b.ExpiresOn, MerchantId: b.Merchant,
		Sellable: b.Sellable, Reserved: b.Reserved, Quarantine: b.Quarantine, Damaged: b.Damaged, Destroyed: b.Destroyed, Version: b.Version,
		Location: b.Location,
	}
	for name, n := range map[string]int64{
		"incoming": b.Incoming, "receiving": b.Receiving, "picked": b.Picked, "packed": b.Packed, "outbound": b.Outbound, "in_transit": b.InTransit,
		"inspecting": b.Inspecting, "suspect": b.Suspect, "defective": b.Defective, "repair": b.Repair, "expired": b.Expired, "recalled": b.Recalled,
		"disposed": b.Disposed,
	} {
		if n != 0 {
			if l.Further == nil {
				l.Further = make(map[string]int64)
			}
			l.Further[name] = n
		}
	}
	return l
}

// key is what a balance is of.
type key struct {
	sku, site, lot string
	authenticated  bool
}

func keyOf(l *warehousev1.StockLevel) key {
	return key{l.GetSku(), l.GetSite(), l.GetLot(), l.GetAuthenticated()}
}

package shop

// goods: the stock ledger against what merchants brought and consumers bought,
// and against the inspection; then disposition by disposition.
func (b *Books) goods() {
	sent, back := b.Done.Consigned, b.Done.Returned
	if sent == nil {
		sent = &Consignments{}
	}
	if back == nil {
		back = &Returned{}
	}
	u, moved, verdicts := b.Stock.GetUnits(), b.Stock.GetMoved(), b.Inspection.GetVerdicts()
	b.check("units received", "receipts", b.Done.Received, "stock ledger", moved["receipt"])
	b.check("pieces found genuine", "sent and sent back", sent.Genuine+back.Restocked, "inspection", verdicts["genuine"])
	b.check("pieces found counterfeit", "sent and sent back", sent.Fakes+back.Fakes, "inspection", verdicts["counterfeit"])
	b.check("pieces destroyed as fakes", "found counterfeit", verdicts["counterfeit"], "inspection", b.Inspection.GetDestroyed())
	b.check("units that passed and came in", "found genuine", verdicts["genuine"], "stock ledger", moved["admission"])
	b.check("certificates that stand", "pieces consigned and whole", sent.Genuine-back.GoneUnits, "inspection",
		b.Inspection.GetCertificatesIssued()-b.Inspection.GetCertificatesRevoked())
	b.check("units that came back", "returns registered", back.Quarantined, "stock ledger", moved["return"])

	sold := sum(b.Orders.GetUnits())
	whole := b.Done.Received + sent.Genuine
	b.check("units promised, going and gone", "orders standing", sold, "stock ledger",
		u["reserved"]+u["picked"]+u["packed"]+u["outbound"]+u["in_transit"]+moved["delivery"])
	b.check("units reserved", "reservations", b.Stock.GetHeld(), "stock ledger", u["reserved"])
	b.check("units sellable", "in, less sold, and restocked", whole-sold+back.Restocked, "stock ledger", u["sellable"])
	b.check("units disposed of", "came back broken", back.Destroyed-back.Fakes, "stock ledger", u["disposed"])
	b.check("units destroyed", "came back false", back.Fakes, "stock ledger", u["destroyed"])
	for _, d := range []string{"incoming", "receiving", "quarantine", "inspecting", "suspect", "damaged", "defective", "repair", "expired", "recalled"} {
		b.check("units "+d, "none", 0, "stock ledger", u[d])
	}
	b.check("units in the house and gone", "brought and come back", whole+back.Quarantined, "stock ledger", sum(u)+moved["delivery"])
	b.check("stock ledger is consistent", "yes", 1, "balances and moves", truth(b.Stock.GetConsistent()))
}

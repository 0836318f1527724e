package shop

import "strings"

// cases: what consumers sent back against the cases that speak of it.
func (b *Books) cases() {
	back := b.Done.Returned
	if back == nil {
		back = &Returned{}
	}
	var all, settled int64
	for name, n := range b.Cases.GetCases() {
		all += n
		if strings.HasSuffix(name, "/settled") {
			settled += n
		}
	}
	b.check("cases", "applications", int64(len(back.cases)), "after-sale", all)
	b.check("cases settled", "applications", int64(len(back.cases)), "after-sale", settled)
	b.check("messages", "two a case", 2*int64(len(back.cases)), "after-sale", b.Cases.GetMessages())
}

// paidOut is what merchants were paid out by a company.
func (b *Books) paidOut(instance string) (n int64) {
	for _, one := range b.Balances {
		if one.GetInstance() == instance {
			n += one.GetPaidOutMinor()
		}
	}
	return n
}

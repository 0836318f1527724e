package trade

import "strings"

// Proof is what shows that goods of an article are genuine.
type Proof int

const (
	// Unproven goods are sold without.
	Unproven Proof = iota
	// Tag is a chip on each piece that signs what it tells.
	Tag
	// Register is the manufacturer's list of the serials it made.
	Register
	// Bench is two people with a checklist.
	Bench
)

// few is how many pieces of an article may have been bought for it to be taken
// for something that people want to know genuine.
const few = 12

// Authenticate marks articles that are sold only when they passed inspection:
// jewellery and purses of which invoices buy few, in the order in which they
// are first bought, up to so many pieces of each proof. What the invoices buy
// of them is all there is.
func Authenticate(articles []Article, invoices []Invoice, most int64) {
	at := make(map[string]int, len(articles))
	for i, a := range articles {
		at[a.Code] = i
	}
	bought := make(map[int]int64)
	var order []int
	for _, v := range invoices {
		if v.Cancels != "" {
			continue
		}
		for _, l := range v.Lines {
			i, ok := at[l.Code]
			if !ok || articles[i].proof() == Unproven {
				continue
			}
			if bought[i] == 0 {
				order = append(order, i)
			}
			bought[i] += l.Quantity
		}
	}
	taken := make(map[Proof]int64)
	for _, i := range order {
		a := &articles[i]
		p := a.proof()
		if bought[i] > few || taken[p]+bought[i] > most {
			continue
		}
		taken[p] += bought[i]
		a.Proof, a.Sold = p, bought[i]
		if p == Tag {
			a.Category += "/fine"
		}
	}
}

// proof is the one that fits an article: dear jewellery has a chip, cheap is
// listed, purses are looked at.
func (a *Article) proof() Proof {
	switch {
	case strings.HasPrefix(a.Category, "bags") && a.HSCode == "420231":
		return Bench
	case a.Category != "jewellery":
		return Unproven
	case a.Price.Minor >= 400:
		return Tag
	}
	return Register
}

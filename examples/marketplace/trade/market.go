package trade

import (
	"fmt"

	"github.com/entrepot/entrepot/sdk/money"
)

// Rates are what a pound is worth in the currencies of the example's markets:
// fixed examples of 2026-11-01, so that the same data always has the same
// prices.
var Rates = map[string]string{"GBP": "1", "EUR": "1.15", "JPY": "195.5"}

// Currencies are the markets where the example sells, with their currencies.
var Currencies = map[string]string{"GB": "GBP", "DE": "EUR", "JP": "JPY"}

// PriceIn is an article's price in a market's currency, rounded half to even
// to its minor unit and never less than one.
func (a Article) PriceIn(market string) (money.Money, error) {
	currency, ok := Currencies[market]
	if !ok {
		return money.Money{}, fmt.Errorf("the example does not sell in %q", market)
	}
	p, err := a.Price.Convert(Rates[currency], currency)
	if err == nil && p.Minor < 1 {
		p.Minor = 1
	}
	return p, err
}

// britain and europe are the countries of the data that shop in the British
// and in the German market.
var (
	britain = map[string]bool{"United Kingdom": true, "EIRE": true, "Channel Islands": true, "Unspecified": true, "": true}
	europe  = map[string]bool{
		"Germany": true, "France": true, "Spain": true, "Belgium": true, "Netherlands": true, "Portugal": true, "Italy": true, "Switzerland": true,
		"Cyprus": true, "Sweden": true, "Norway": true, "Finland": true, "Poland": true, "Austria": true, "Lithuania": true, "Denmark": true,
		"Iceland": true, "Greece": true, "Czech Republic": true, "European Community": true, "Malta": true,
	}
)

// Market is where a country of the data shops: the British Isles and what is
// unspecified in GB, the rest of Europe in DE, everybody else in JP.
func Market(country string) string {
	switch {
	case britain[country]:
		return "GB"
	case europe[country]:
		return "DE"
	}
	return "JP"
}

package trade

import (
	"crypto/sha256"
	"fmt"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
)

// Consumer is somebody who never lived: the data has numbers for customers and
// nothing more. Mail addresses end in the reserved .example (RFC 2606), towns
// and streets are placeholders, postal codes are of areas that no post serves.
type Consumer struct {
	Email, Name string
	Address     *typev1.Address
}

// people are the names and places that a market's consumers are made from.
type people struct {
	given, family []string
	// address gets the name and two numbers below a thousand.
	address func(name string, a, b int) *typev1.Address
}

var peoples = map[string]people{
	"GB": {
		given:  []string{"Alex", "Blair", "Casey", "Drew", "Ellis", "Frankie", "Glenn", "Harper"},
		family: []string{"Sample", "Specimen", "Placeholder", "Fixture", "Exemplar", "Mockley"},
		address: func(name string, a, b int) *typev1.Address {
			return &typev1.Address{
				Recipient: name, Lines: []string{fmt.Sprintf("%d Placeholder Street", a%200+1)}, Locality: "Exampleton",
				PostalCode: fmt.Sprintf("ZZ%d %dZZ", b%99+1, a%10), CountryCode: "GB",
			}
		},
	},
	"DE": {
		given:  []string{"Anke", "Bernd", "Clara", "Dirk", "Erika", "Frieda", "Gero", "Heike"},
		family: []string{"Muster", "Mustermann", "Beispiel", "Platzhalter", "Vorlage"},
		address: func(name string, a, b int) *typev1.Address {
			return &typev1.Address{
				Recipient: name, Lines: []string{fmt.Sprintf("Musterstraße %d", a%200+1)}, Locality: "Musterstadt",
				PostalCode: fmt.Sprintf("00%03d", b), CountryCode: "DE",
			}
		},
	},
	"JP": {
		given:  []string{"太郎", "花子", "一郎", "次郎", "桜", "葵"},
		family: []string{"見本", "例文", "仮名", "記入"},
		address: func(name string, a, b int) *typev1.Address {
			return &typev1.Address{
				Recipient: name, Lines: []string{fmt.Sprintf("見本町%d-%d-%d", a%9+1, b%30+1, (a+b)%20+1)}, Locality: "例示市",
				AdministrativeArea: "見本県", PostalCode: fmt.Sprintf("000-%04d", a*10+b%10), CountryCode: "JP",
			}
		},
	},
}

// Consumer invents the one who placed an invoice: the same for each invoice of
// a customer in a market, one of its own for each guest's.
func (v Invoice) Consumer() Consumer {
	who := "customer-" + v.Customer
	if v.Customer == "" {
		who = "guest-" + v.Number
	}
	h := sha256.Sum256([]byte(v.Market + "\x00" + who))
	p := peoples[v.Market]
	given, family := p.given[int(h[0])%len(p.given)], p.family[int(h[1])%len(p.family)]
	name := given + " " + family
	if v.Market == "JP" {
		name = family + " " + given
	}
	return Consumer{
		Email: who + "@shop.example", Name: name,
		Address: p.address(name, (int(h[2])<<8|int(h[3]))%1000, (int(h[4])<<8|int(h[5]))%1000),
	}
}

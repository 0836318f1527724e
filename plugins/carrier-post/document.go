package main

import (
	"fmt"
	"strings"
	"unicode"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/label"
	"github.com/entrepot/entrepot/sdk/money"
)

// cn22Limit is the value of goods, in special drawing rights, up to which the
// short form will do (UPU Convention Manual, 20-001).
const cn22Limit = 300

// documents are a label for each item and, across a border, its form.
func (a *adapter) documents(req *providerv1.BookRequest, l line) ([]*providerv1.Document, error) {
	if l.Code != "" {
		return nil, nil
	}
	border := a.border(req)
	labels := make([]label.Label, len(l.Items))
	forms := map[string][]label.Form{}
	for i, item := range l.Items {
		p := req.GetParcels()[i]
		labels[i] = label.Label{
			Title: "Post · " + l.Service,
			Blocks: []label.Block{
				{Heading: "EXP / FROM", Lines: postal(req.GetFrom().GetAddress())},
				{Heading: "DEST / TO", Lines: postal(req.GetTo().GetAddress())},
				{Heading: "WEIGHT", Lines: []string{kilograms(int64(p.GetWeightGrams()))}},
			},
			Codes: []label.Code{{Symbology: label.QR, Data: item}, {Symbology: label.Code128, Data: item, Text: spaced(item)}},
			Foot:  req.GetMerchantReference(),
		}
		if border {
			kind, form := a.form(req, p, item, l)
			forms[kind] = append(forms[kind], form)
		}
	}
	pdf, err := label.PDF(labels...)
	if err != nil {
		return nil, err
	}
	zpl, err := label.ZPL(labels...)
	if err != nil {
		return nil, err
	}
	docs := []*providerv1.Document{
		{Name: "label-pdf", MediaType: label.MediaPDF, Content: pdf}, {Name: "label-zpl", MediaType: label.MediaZPL, Content: zpl},
	}
	for _, kind := range []string{"cn22", "cn23"} {
		for i, f := range forms[kind] {
			b, err := f.PDF()
			if err != nil {
				return nil, err
			}
			name := kind
			if i > 0 {
				name = fmt.Sprintf("%s-%d", kind, i+1)
			}
			docs = append(docs, &providerv1.Document{Name: name, MediaType: label.MediaPDF, Content: b})
		}
	}
	return docs, nil
}

// postal is an address as it is written on an item: the country last, in
// capitals.
func postal(a *typev1.Address) []string {
	out := append([]string{a.GetRecipient()}, a.GetLines()...)
	town := strings.TrimSpace(a.GetPostalCode() + " " + strings.ToUpper(a.GetLocality()))
	if s := a.GetAdministrativeArea(); s != "" {
		town += ", " + s
	}
	out = append(out, town, a.GetCountryCode())
	for i, s := range out {
		out[i] = printable(s)
	}
	return out
}

// printable takes out of a text what no label can hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// latin tells whether every letter of an address is in a script that the post
// sorts internationally.
func latin(a *typev1.Address) bool {
	for _, s := range append([]string{a.GetRecipient(), a.GetLocality(), a.GetAdministrativeArea(), a.GetPostalCode()}, a.GetLines()...) {
		for _, r := range s {
			if unicode.IsLetter(r) && !unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic) {
				return false
			}
		}
	}
	return true
}

func kilograms(grams int64) string { return fmt.Sprintf("%d.%03d kg", grams/1000, grams%1000) }

func written(m *typev1.Money) string {
	v, err := money.FromProto(m)
	if err != nil {
		return fmt.Sprintf("%d %s", m.GetMinorUnits(), m.GetCurrencyCode())
	}
	return v.String()
}

var categories = map[logisticsv1.CustomsData_Category]string{
	logisticsv1.CustomsData_CATEGORY_SALE_OF_GOODS: "Sale of goods", logisticsv1.CustomsData_CATEGORY_RETURNED_GOODS: "Returned goods",
	logisticsv1.CustomsData_CATEGORY_GIFT: "Gift", logisticsv1.CustomsData_CATEGORY_COMMERCIAL_SAMPLE: "Commercial sample",
	logisticsv1.CustomsData_CATEGORY_DOCUMENTS: "Documents", logisticsv1.CustomsData_CATEGORY_OTHER: "Other",
}

// form is the customs declaration of an item: CN22 for goods of less than 300
// special drawing rights, else CN23, which is the fuller one and always right.
func (a *adapter) form(req *providerv1.BookRequest, p *logisticsv1.Parcel, item string, l line) (kind string, f label.Form) {
	var total, net int64
	currency := ""
	f.Columns = []label.Column{
		{Name: "Detailed description of contents", Share: 5}, {Name: "Qty", Share: 1, Right: true}, {Name: "Net weight", Share: 2, Right: true},
		{Name: "Value", Share: 2.4, Right: true}, {Name: "HS tariff no.", Share: 2}, {Name: "Origin", Share: 1},
	}
	for _, it := range p.GetItems() {
		total += it.GetValue().GetMinorUnits()
		net += int64(it.GetNetWeightGrams())
		currency = it.GetValue().GetCurrencyCode()
		f.Rows = append(f.Rows, []string{
			it.GetDescription(), fmt.Sprint(it.GetQuantity()), kilograms(int64(it.GetNetWeightGrams())), written(it.GetValue()), it.GetHsCode(), it.GetOriginCountry(),
		})
	}
	value := &typev1.Money{CurrencyCode: currency, MinorUnits: total}
	c := req.GetCustoms()
	f.Codes = []label.Code{{Symbology: label.Code128, Data: item, Text: spaced(item)}}
	f.Fields = []label.Field{{Name: "Category of item", Value: categories[c.GetCategory()]}}
	f.Totals = []label.Field{{Name: "Total gross weight", Value: kilograms(int64(p.GetWeightGrams()))}, {Name: "Total value", Value: written(value)}}
	f.Signature = "I certify that the particulars are correct and that this item contains no article prohibited by law or by postal or customs regulations. Date and sender's signature"
	if sdr := a.sdr[currency]; sdr > 0 && total < cn22Limit*sdr {
		f.Title, f.Subtitle = "CN 22", "Customs declaration · Déclaration en douane · may be opened officially"
		return "cn22", f
	}
	f.Title, f.Subtitle = "CN 23", "Customs declaration · Déclaration en douane"
	from, to := req.GetFrom().GetAddress(), req.GetTo().GetAddress()
	f.Fields = append([]label.Field{
		{Name: "From (sender)", Value: strings.Join(postal(from), ", ")}, {Name: "Sender's telephone, e-mail", Value: contact(from)},
		{Name: "Sender's customs reference", Value: c.GetEoriNumber()},
		{Name: "To (addressee)", Value: strings.Join(postal(to), ", ")}, {Name: "Addressee's telephone, e-mail", Value: contact(to)},
	}, f.Fields...)
	f.Fields = append(f.Fields,
		label.Field{Name: "Comments", Value: c.GetComments()}, label.Field{Name: "Licence no.", Value: c.GetLicenceNumber()},
		label.Field{Name: "Certificate no.", Value: c.GetCertificateNumber()}, label.Field{Name: "Invoice no.", Value: c.GetInvoiceNumber()})
	f.Totals = append(f.Totals,
		label.Field{Name: "Total net weight", Value: kilograms(net)},
		label.Field{Name: "Postal charges and fees", Value: written(&typev1.Money{CurrencyCode: l.Currency, MinorUnits: l.Minor})},
		label.Field{Name: "Office of origin, date of posting", Value: a.cfg.Country + ", " + l.At.Format("2006-01-02")})
	return "cn23", f
}

func contact(a *typev1.Address) string {
	return strings.TrimSpace(a.GetPhone() + " " + a.GetEmail())
}

func (a *adapter) manifest(l line, items []string) (*providerv1.Document, error) {
	f := label.Form{
		Title: "Manifest " + l.Reference, Subtitle: "Post of " + a.cfg.Country, Columns: []label.Column{{Name: "Item", Share: 1}},
		Totals:    []label.Field{{Name: "Items", Value: fmt.Sprint(len(items))}},
		Signature: "Taken over, date and signature", Codes: []label.Code{{Symbology: label.Code128, Data: l.Reference, Text: l.Reference}},
	}
	for _, item := range items {
		f.Rows = append(f.Rows, []string{spaced(item)})
	}
	b, err := f.PDF()
	return &providerv1.Document{Name: "manifest", MediaType: label.MediaPDF, Content: b}, err
}

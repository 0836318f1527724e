package main

import (
	"fmt"
	"strings"
	"unicode"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/label"
)

// documents are the labels of a booking, one a parcel. A refused one has none.
func documents(req *providerv1.BookRequest, l line) ([]*providerv1.Document, error) {
	if l.Code != "" {
		return nil, nil
	}
	sscc := make(map[string]string, len(req.GetParcels()))
	for _, p := range req.GetParcels() {
		sscc[p.GetParcelId()] = p.GetSscc()
	}
	var labels []label.Label
	for i, p := range l.Parcels {
		one := label.Label{
			Title: fmt.Sprintf("Sandbox carrier · %s", l.Service),
			Blocks: []label.Block{
				{Heading: "FROM", Lines: lines(req.GetFrom().GetAddress())},
				{Heading: "TO", Lines: lines(req.GetTo().GetAddress())},
				{Heading: "PARCEL", Lines: []string{fmt.Sprintf("%d of %d, %.2f kg", i+1, len(l.Parcels), float64(p.Grams)/1000)}},
			},
			Codes: []label.Code{{Symbology: label.Code128, Data: p.Tracking, Text: p.Tracking}},
			Foot:  l.Merchant,
		}
		if s := sscc[p.ID]; s != "" {
			one.Codes = append(one.Codes, label.Code{Symbology: label.GS1128, Data: "(00)" + s, Text: "(00) " + s})
		}
		labels = append(labels, one)
	}
	pdf, err := label.PDF(labels...)
	if err != nil {
		return nil, err
	}
	zpl, err := label.ZPL(labels...)
	if err != nil {
		return nil, err
	}
	return []*providerv1.Document{
		{Name: "label-pdf", MediaType: label.MediaPDF, Content: pdf}, {Name: "label-zpl", MediaType: label.MediaZPL, Content: zpl},
	}, nil
}

func lines(a *typev1.Address) []string {
	out := append([]string{a.GetRecipient()}, a.GetLines()...)
	out = append(out, a.GetPostalCode()+" "+a.GetLocality(), a.GetCountryCode())
	for i, s := range out {
		// What no label can hold.
		out[i] = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, s)
	}
	return out
}

func manifestDocument(l line) (*providerv1.Document, error) {
	f := label.Form{
		Title: "Manifest " + l.Reference, Subtitle: "Sandbox carrier", Columns: []label.Column{{Name: "Booking", Share: 1}},
		Totals:    []label.Field{{Name: "Bookings", Value: fmt.Sprint(len(l.Bookings))}},
		Signature: "Taken over, date and signature", Codes: []label.Code{{Symbology: label.Code128, Data: l.Reference, Text: l.Reference}},
	}
	for _, b := range l.Bookings {
		f.Rows = append(f.Rows, []string{b})
	}
	b, err := f.PDF()
	return &providerv1.Document{Name: "manifest", MediaType: label.MediaPDF, Content: b}, err
}

package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"strconv"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	"github.com/entrepot/entrepot/sdk/store"
)

// chunk is how many bytes of an export go at once, about.
const chunk = 64 << 10

var exportColumns = []string{
	"day", "market", "merchant_id", "sku", "orders", "sold_units", "cancelled_units", "returned_units", "inspected_units", "genuine_units",
	"counterfeit_units", "inconclusive_units", "wrong_item_units", "damaged_units", "views",
	"currency_code", "sold_minor", "cancelled_minor", "captured_minor", "refunded_minor",
}

// ExportFigures streams rows as they come from the database.
func (s *service) ExportFigures(ctx context.Context, req *analyticsv1.ExportFiguresRequest, stream analyticsv1connect.FigureServiceExportFiguresServerStream) error {
	sc, err := scopeOf(ctx, req.GetScope())
	if err != nil {
		return err
	}
	var text bytes.Buffer
	w := csv.NewWriter(&text)
	w.UseCRLF = true
	var lines int64
	send := func(complete bool) error {
		w.Flush()
		err := stream.Send(&analyticsv1.ExportFiguresResponse{Csv: text.String(), Lines: lines, Complete: complete})
		text.Reset()
		return err
	}
	if err := w.Write(exportColumns); err != nil {
		return err
	}
	err = s.eachFigure(ctx, sc, req.GetBy(), nil, nil, func(f *analyticsv1.Figure) error {
		for _, l := range exported(f) {
			lines++
			if err := w.Write(l); err != nil {
				return err
			}
		}
		if w.Flush(); text.Len() < chunk {
			return nil
		}
		return send(false)
	})
	if err != nil {
		return store.Wrap(err)
	}
	return send(true)
}

// exported are the lines of a row: counts in the first only.
func exported(f *analyticsv1.Figure) [][]string {
	amounts := f.GetAmounts()
	if len(amounts) == 0 {
		amounts = []*analyticsv1.Amounts{{}}
	}
	var out [][]string
	counts := []int64{
		f.GetOrders(), f.GetSoldUnits(), f.GetCancelledUnits(), f.GetReturnedUnits(), f.GetInspectedUnits(), f.GetGenuineUnits(), f.GetCounterfeitUnits(),
		f.GetInconclusiveUnits(), f.GetWrongItemUnits(), f.GetDamagedUnits(), f.GetViews(),
	}
	for _, a := range amounts {
		line := []string{f.GetDay(), f.GetMarket(), f.GetMerchantId(), f.GetSku()}
		for _, n := range counts {
			line = append(line, strconv.FormatInt(n, 10))
		}
		line = append(line, a.GetCurrencyCode())
		for _, n := range []int64{a.GetSoldMinor(), a.GetCancelledMinor(), a.GetCapturedMinor(), a.GetRefundedMinor()} {
			line = append(line, strconv.FormatInt(n, 10))
		}
		out = append(out, line)
		clear(counts)
	}
	return out
}

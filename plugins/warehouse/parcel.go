package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/label"
	"github.com/entrepot/entrepot/sdk/store"
)

// sscc is the n-th number of a logistic unit: extension digit 0, company
// prefix, serial, check digit (GS1 General Specifications 3.3.1).
func (f *floor) sscc(n int64) (string, error) {
	room := 16 - len(f.company)
	serial := fmt.Sprintf("%0*d", room, n)
	if len(serial) > room {
		return "", errors.New("the company prefix has no serials left for parcels")
	}
	s, err := gs1.Append("0" + f.company + serial)
	if err != nil {
		return "", fmt.Errorf("gs1_company_prefix: %w", err)
	}
	return s, nil
}

// PutBoxes sets what a site packs into.
func (f *floor) PutBoxes(ctx context.Context, req *warehousev1.PutBoxesRequest) (*warehousev1.PutBoxesResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.PutBoxesResponse, error) {
		if _, err := tx.Do(ctx, `DELETE FROM box WHERE site = $1`, site(req.GetSite())); err != nil {
			return nil, err
		}
		for _, b := range req.GetBoxes() {
			done, err := tx.Do(ctx, `INSERT INTO box VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
				site(req.GetSite()), b.GetName(), b.GetLengthMm(), b.GetWidthMm(), b.GetHeightMm(), b.GetTareGrams(), b.GetMaxWeightGrams())
			if err != nil {
				return nil, err
			}
			if n, err := done.RowsAffected(); err != nil || n == 0 {
				return nil, errors.Join(err, fault.Field("boxes", "each name once"))
			}
		}
		return &warehousev1.PutBoxesResponse{}, nil
	})
}

// weighed is what a parcel should weigh; known tells whether the catalog says
// so of all of it. most is what its box bears, 0 where it has no name; -1 where
// the site has no box of that name.
func weighed(ctx context.Context, tx *store.Tx, lines []*warehousev1.ParcelLine, at, box string) (grams, most int64, known bool, err error) {
	var skus []string
	var quantities []int64
	for _, l := range lines {
		skus, quantities = append(skus, l.GetSku()), append(quantities, l.GetQuantity())
	}
	err = tx.Row(ctx, `WITH b AS (SELECT tare, max_grams FROM box WHERE site = $3 AND name = $4)
		SELECT coalesce(sum(u.quantity * coalesce(g.grams, 0)), 0)::bigint + coalesce((SELECT tare FROM b), 0),
		  CASE WHEN $4 = '' THEN 0 ELSE coalesce((SELECT max_grams FROM b), -1) END, bool_and(coalesce(g.grams, 0) > 0)
		  FROM unnest($1::text[], $2::bigint[]) u(sku, quantity) LEFT JOIN goods_fact g ON g.sku = u.sku`,
		skus, quantities, at, box).Scan(&grams, &most, &known)
	return grams, most, known, err
}

// PackParcel puts picked goods into a parcel.
func (f *floor) PackParcel(ctx context.Context, req *warehousev1.PackParcelRequest) (*warehousev1.PackParcelResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.PackParcelResponse, error) {
		one, err := lockOne(ctx, tx, req.GetFulfilmentId())
		if err != nil {
			return nil, err
		}
		for i, p := range one.parcels {
			if p.ID == req.GetParcelId() {
				return &warehousev1.PackParcelResponse{Parcel: one.parcelsProto()[i]}, nil
			}
		}
		if one.state != statePicked {
			return nil, wrongState(one, "picked and waiting to be packed")
		}
		lines, all, err := one.packing(req.GetLines())
		if err != nil {
			return nil, err
		}
		grams, most, known, err := weighed(ctx, tx, req.GetLines(), one.site, req.GetBox())
		if err != nil {
			return nil, err
		}
		weighs := int64(req.GetWeightGrams())
		switch off := weighs - grams; {
		case most < 0:
			return nil, fault.New(connect.CodeFailedPrecondition, "BOX_UNKNOWN", "the site has no box of this name", "box", req.GetBox())
		case most > 0 && weighs > most:
			return nil, fault.New(connect.CodeFailedPrecondition, "BOX_OVERLOADED", "the box does not bear this much", "max_grams", fmt.Sprint(most))
		case known && max(off, -off) > max(grams/5, 500):
			return nil, fault.New(connect.CodeFailedPrecondition, "WEIGHT_IMPLAUSIBLE", "these goods do not weigh this much; look into the parcel",
				"expected_grams", fmt.Sprint(grams))
		}
		if err := f.insertParcel(ctx, tx, req, lines); err != nil {
			return nil, err
		}
		if _, err := post(ctx, tx, way{reason: "pack", from: "picked", to: "packed"}, all...); err != nil {
			return nil, err
		}
		if one, err = lockOne(ctx, tx, req.GetFulfilmentId()); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(one.parcels, func(p fparcel) bool { return p.ID == req.GetParcelId() })
		return &warehousev1.PackParcelResponse{Parcel: one.parcelsProto()[i]}, nil
	})
}

// packing finds what goes into a parcel among what is picked and not packed.
func (f *fulfilment) packing(asked []*warehousev1.ParcelLine) (lines []fline, all []goods, err error) {
	for _, a := range asked {
		units, want := a.GetUnitIds(), a.GetQuantity()
		for i := range f.lines {
			l := &f.lines[i]
			if l.SKU != a.GetSku() || l.Lot != a.GetLot() || want == 0 || l.Authenticated != (len(units) > 0) {
				continue
			}
			n := min(want, l.Picked-l.Packed)
			if n == 0 {
				continue
			}
			g := goods{key: key{sku: l.SKU, site: f.site, lot: l.Lot, authenticated: l.Authenticated}, quantity: n, units: units, reference: f.id}
			for _, unit := range units {
				if !slices.ContainsFunc(f.units, func(u funit) bool { return u.Unit == unit && u.Parcel == "" && u.SKU == l.SKU }) {
					return nil, nil, fault.New(connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", "this serial was not picked for the fulfilment, or is packed", "unit", unit)
				}
			}
			if l.Authenticated && int64(len(units)) != want {
				return nil, nil, fault.New(connect.CodeInvalidArgument, "UNITS_NOT_SCANNED", "each of these goods is scanned", "sku", l.SKU)
			}
			l.Packed, want = l.Packed+n, want-n
			lines, all = append(lines, fline{SKU: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated, Quantity: n}), append(all, g)
		}
		if want > 0 {
			return nil, nil, fault.New(connect.CodeFailedPrecondition, "NOT_PICKED", "as much was not picked, or each of these goods is to be scanned", "sku", a.GetSku())
		}
	}
	return lines, all, nil
}

func (f *floor) insertParcel(ctx context.Context, tx *store.Tx, req *warehousev1.PackParcelRequest, lines []fline) error {
	var n int64
	if err := tx.Row(ctx, `SELECT nextval('sscc_serial')`).Scan(&n); err != nil {
		return err
	}
	number, err := f.sscc(n)
	if err != nil {
		return err
	}
	done, err := tx.Do(ctx, `INSERT INTO parcel (id, fulfilment_id, sscc, box, grams, length_mm, width_mm, height_mm)
		SELECT $1, $2, $3, $4, $5, coalesce(nullif($6, 0), b.length_mm, 0), coalesce(nullif($7, 0), b.width_mm, 0), coalesce(nullif($8, 0), b.height_mm, 0)
		  FROM fulfilment f LEFT JOIN box b ON b.site = f.site AND b.name = $4 WHERE f.id = $2 ON CONFLICT (id) DO NOTHING`,
		req.GetParcelId(), req.GetFulfilmentId(), number, req.GetBox(), req.GetWeightGrams(), req.GetLengthMm(), req.GetWidthMm(), req.GetHeightMm())
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fault.New(connect.CodeAlreadyExists, "PARCEL_DIFFERS", "this parcel is another fulfilment's"))
	}
	var skus, lots, units []string
	var kinds []bool
	var quantities []int64
	for _, l := range lines {
		skus, lots, kinds, quantities = append(skus, l.SKU), append(lots, l.Lot), append(kinds, l.Authenticated), append(quantities, l.Quantity)
	}
	for _, l := range req.GetLines() {
		units = append(units, l.GetUnitIds()...)
	}
	_, err = tx.Do(ctx, `WITH x AS (INSERT INTO parcel_line (parcel_id, sku, lot, authenticated, quantity)
		  SELECT $1, u.sku, u.lot, u.kind, sum(u.quantity)::bigint FROM unnest($3::text[], $4::text[], $5::boolean[], $6::bigint[]) u(sku, lot, kind, quantity)
		   GROUP BY u.sku, u.lot, u.kind RETURNING *),
		s AS (UPDATE fulfilment_unit SET parcel_id = $1 WHERE fulfilment_id = $2 AND unit = ANY ($7))
		UPDATE fulfilment_line l SET packed = l.packed + x.quantity FROM x
		 WHERE l.fulfilment_id = $2 AND l.sku = x.sku AND l.lot = x.lot AND l.authenticated = x.authenticated`,
		req.GetParcelId(), req.GetFulfilmentId(), skus, lots, kinds, quantities, units)
	return err
}

// FinishPacking closes the parcels.
func (f *floor) FinishPacking(ctx context.Context, req *warehousev1.FinishPackingRequest) (*warehousev1.FinishPackingResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.FinishPackingResponse, error) {
		one, err := lockOne(ctx, tx, req.GetFulfilmentId())
		if err != nil {
			return nil, err
		}
		switch {
		case one.state >= statePacked && one.state <= stateDelivered:
			return &warehousev1.FinishPackingResponse{Fulfilment: one.proto()}, nil
		case one.state != statePicked || len(one.parcels) == 0:
			return nil, wrongState(one, "picked, with a parcel")
		}
		res := &warehousev1.FinishPackingResponse{}
		var left []fline
		for _, l := range one.lines {
			if l.Picked > l.Packed {
				left = append(left, fline{SKU: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated, Quantity: l.Picked - l.Packed, Picked: l.Picked - l.Packed})
			}
		}
		if len(left) > 0 && !req.GetPartial() {
			return nil, fault.New(connect.CodeFailedPrecondition, "UNPACKED", "something picked is in no parcel; pack it, or say partial", "sku", left[0].SKU)
		}
		if len(left) > 0 {
			if res.Rest, err = one.splitPicked(ctx, tx, left); err != nil {
				return nil, err
			}
		}
		if _, err := tx.Do(ctx, `WITH l AS (UPDATE fulfilment_line SET quantity = packed, picked = packed WHERE fulfilment_id = $1 AND packed > 0),
			d AS (DELETE FROM fulfilment_line WHERE fulfilment_id = $1 AND packed = 0)
			UPDATE fulfilment SET state = 4 WHERE id = $1`, one.id); err != nil {
			return nil, err
		}
		if one, err = lockOne(ctx, tx, one.id); err != nil {
			return nil, err
		}
		res.Fulfilment = one.proto()
		return res, tx.Publish(&warehousev1.FulfilmentPacked{
			FulfilmentId: one.id, RequestId: one.request, Reference: one.reference, MerchantId: one.merchant, Market: one.market, Site: one.site,
			Parcels: one.parcelsProto(),
		})
	})
}

// splitPicked makes what is picked and not packed a fulfilment of its own.
func (f *fulfilment) splitPicked(ctx context.Context, tx *store.Tx, left []fline) (*warehousev1.Fulfilment, error) {
	rest := *f
	rest.id, rest.state, rest.splitFrom, rest.lines, rest.units, rest.parcels = id.New("ful"), statePicked, f.id, left, nil, nil
	if err := rest.insert(ctx, tx); err != nil {
		return nil, err
	}
	if _, err := tx.Do(ctx, `UPDATE fulfilment_unit SET fulfilment_id = $2 WHERE fulfilment_id = $1 AND parcel_id = ''`, f.id, rest.id); err != nil {
		return nil, err
	}
	again, err := lockOne(ctx, tx, rest.id)
	if err != nil {
		return nil, err
	}
	return again.proto(), tx.Publish(&warehousev1.FulfilmentSplit{
		FulfilmentId: f.id, RestId: rest.id, RequestId: f.request, Reference: f.reference, Lines: again.linesProto(),
	})
}

// GetParcelLabel draws the logistic label: what, how many, how heavy, and its
// number. It names nobody.
func (f *floor) GetParcelLabel(ctx context.Context, req *warehousev1.GetParcelLabelRequest) (*warehousev1.GetParcelLabelResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var number, reference string
	var grams int64
	err = f.db.Row(ctx, `SELECT p.sscc, p.grams, f.reference FROM parcel p JOIN fulfilment f ON f.id = p.fulfilment_id
		WHERE p.id = $1 AND ($2 = '' OR f.merchant = $2)`, req.GetParcelId(), merchant).Scan(&number, &grams, &reference)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(connect.CodeNotFound, "PARCEL_UNKNOWN", "there is no such parcel, or it is not yours")
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	l := label.Label{
		Title: "SSCC",
		Blocks: []label.Block{
			{Heading: "ORDER", Lines: []string{reference}},
			{Heading: "GROSS WEIGHT", Lines: []string{fmt.Sprintf("%d.%03d kg", grams/1000, grams%1000)}},
		},
		Codes: []label.Code{{Symbology: label.GS1128, Data: "(00)" + number, Text: "(00) " + strings.Join([]string{number[:1], number[1:8], number[8:17], number[17:]}, " ")}},
	}
	res := &warehousev1.GetParcelLabelResponse{MediaType: label.MediaPDF}
	if req.GetFormat() == warehousev1.GetParcelLabelRequest_FORMAT_ZPL {
		res.MediaType = label.MediaZPL
		res.Content, err = label.ZPL(l)
	} else {
		res.Content, err = label.PDF(l)
	}
	return res, err
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// PutPlace seals a place's address.
func (s *service) PutPlace(ctx context.Context, req *logisticsv1.PutPlaceRequest) (*logisticsv1.PutPlaceResponse, error) {
	merchant, p := "", call.From(ctx).Principal
	if name, ok := strings.CutPrefix(req.GetPlaceId(), "merchant/"); ok {
		merchant = name
	}
	if p.Kind == call.Merchant && merchant != p.Merchant {
		return nil, fault.New(connect.CodePermissionDenied, "NOT_YOUR_PLACE", "members set their own merchant's place")
	}
	address, err := proto.Marshal(req.GetAddress())
	if err != nil {
		return nil, err
	}
	sealed, err := s.host.Vault.Seal(ctx, &kernelv1.SealRequest{Items: []*kernelv1.SealItem{{Kind: "address", Plaintext: address}}})
	if err != nil {
		return nil, err
	}
	if len(sealed.GetItems()) != 1 {
		return nil, errors.New("the vault sealed another number of items")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.PutPlaceResponse, error) {
		tx.Keep(sealed)
		_, err := tx.Do(ctx, `INSERT INTO place (id, merchant, country, address_ref) VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET country = EXCLUDED.country, address_ref = EXCLUDED.address_ref`,
			req.GetPlaceId(), merchant, req.GetAddress().GetCountryCode(), sealed.GetItems()[0].GetRef())
		return &logisticsv1.PutPlaceResponse{}, err
	})
}

// ListPlaces tells the caller's own places, and the marketplace's.
func (s *service) ListPlaces(ctx context.Context, _ *logisticsv1.ListPlacesRequest) (*logisticsv1.ListPlacesResponse, error) {
	res := &logisticsv1.ListPlacesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT id, country, address_ref FROM place WHERE $1 = '' OR merchant IN ('', $1) ORDER BY id LIMIT 10000`, owner(ctx))
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		p := &logisticsv1.Place{}
		res.Places = append(res.Places, p)
		return rows.Scan(&p.PlaceId, &p.CountryCode, &p.AddressRef)
	}))
}

// scan reads every row of an answer and closes it.
func scan(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// end is a party with what is known of it: the address only while a carrier is
// asked.
type end struct {
	country, postal string
	address         *typev1.Address
}

// whole tells whether a carrier can go there.
func (e end) whole() bool { return e.address != nil }

// ends finds both parties of a way. A merchant's own place is for that merchant
// and the marketplace only.
func (s *service) ends(ctx context.Context, parties ...*logisticsv1.Party) ([]end, error) {
	refs := make([]string, len(parties))
	out := make([]end, len(parties))
	var ids []string
	for i, p := range parties {
		switch {
		case p.GetPlaceId() != "":
			ids = append(ids, p.GetPlaceId())
		case p.GetAddressRef() != "":
			refs[i] = p.GetAddressRef()
		case p.GetCountryCode() != "":
			out[i].country = p.GetCountryCode()
		default:
			return nil, fault.Field("from, to", "a place, an address or a country is wanted")
		}
	}
	if len(ids) > 0 {
		type place struct{ country, ref string }
		known := make(map[string]place, len(ids))
		rows, err := s.db.Rows(ctx, `SELECT id, country, address_ref FROM place WHERE id = ANY ($1) AND ($2 = '' OR merchant IN ('', $2))`, ids, owner(ctx))
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var id string
			var p place
			err := rows.Scan(&id, &p.country, &p.ref)
			known[id] = p
			return err
		}); err != nil {
			return nil, store.Wrap(err)
		}
		for i, p := range parties {
			if p.GetPlaceId() == "" {
				continue
			}
			at, ok := known[p.GetPlaceId()]
			if !ok {
				return nil, fault.New(connect.CodeFailedPrecondition, "PLACE_UNKNOWN", "nobody has said where this place is", "place", p.GetPlaceId())
			}
			out[i].country, refs[i] = at.country, at.ref
		}
	}
	return out, s.reveal(ctx, refs, out)
}

// reveal reads addresses for the moment of asking.
func (s *service) reveal(ctx context.Context, refs []string, out []end) error {
	var want []string
	for _, r := range refs {
		if r != "" {
			want = append(want, r)
		}
	}
	if len(want) == 0 {
		return nil
	}
	res, err := s.host.Vault.Reveal(ctx, &kernelv1.RevealRequest{Purpose: "label", Refs: want})
	if err != nil {
		return err
	}
	by := map[string][]byte{}
	for _, it := range res.GetItems() {
		by[it.GetRef()] = it.GetPlaintext()
	}
	for i, r := range refs {
		if r == "" {
			continue
		}
		if len(by[r]) == 0 {
			return fault.New(connect.CodeFailedPrecondition, "ADDRESS_GONE", "the address was erased, or never was")
		}
		a := &typev1.Address{}
		if err := proto.Unmarshal(by[r], a); err != nil {
			return err
		}
		out[i] = end{country: a.GetCountryCode(), postal: a.GetPostalCode(), address: a}
	}
	return nil
}

package shop

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// piece is one serialised good on its way to inspection, and what only who
// plays it knows: whether it is what it is said to be.
type piece struct {
	article trade.Article
	serial  string
	fake    bool
	// url is what the chip on it tells when it is tapped.
	url string
	// unit and its case, once it is received.
	unit, caseID string
}

// pieces are the goods of an article that a merchant sends: as many genuine as
// will be sold, and among them what a dishonest supplier mixed in.
func (s *Shop) pieces(a trade.Article) ([]*piece, error) {
	var out []*piece
	for n := int64(1); n <= a.Sold; n++ {
		out = append(out, &piece{article: a, serial: serial(n)})
	}
	fake := func() *piece {
		p := &piece{article: a, serial: "9" + serial(int64(len(out)))[1:], fake: true}
		out = append(out, p)
		return p
	}
	if a.Proof != trade.Tag {
		// A serial that the maker never gave; a purse with a crooked seam.
		fake()
		return out, nil
	}
	for _, p := range out {
		var err error
		if p.url, err = s.Tap(a.GTIN, p.serial, false); err != nil {
			return nil, err
		}
	}
	// A chip with keys of the forger's own, and a chip's words that were copied
	// from a genuine piece.
	forged, copied := fake(), fake()
	copied.url = out[0].url
	var err error
	forged.url, err = s.Tap(a.GTIN, forged.serial, true)
	return out, err
}

// Consignments are merchants' goods at the inspection.
type Consignments struct {
	// Genuine and Fakes count pieces.
	Genuine, Fakes int64
	pieces         []*piece
}

// Follow names a genuine piece and a fake, for who wants to look them up.
func (c *Consignments) Follow() string {
	var genuine, fake string
	for _, p := range c.pieces {
		if p.fake {
			fake = fmt.Sprintf("fake unit %s, case %s", p.unit, p.caseID)
		} else {
			genuine = fmt.Sprintf("genuine unit %s, case %s", p.unit, p.caseID)
		}
	}
	return genuine + "; " + fake
}

// Consign has each merchant announce the goods that must pass inspection, and
// send them there by a carrier; an inspector receives them. step is told of
// each piece.
func (s *Shop) Consign(ctx context.Context, m *Market, articles []trade.Article, staff *Staff, step func(n int)) (*Consignments, error) {
	out := &Consignments{}
	var mu sync.Mutex
	for _, name := range []string{"inspection/" + site, "warehouse/" + site} {
		if err := s.place(ctx, staff.Floor, name, "Entrepot"); err != nil {
			return nil, err
		}
	}
	shares := ByMerchant(articles)
	return out, side(ctx, len(m.Owners), 2, func(ctx context.Context, i int) error {
		all, lines, err := s.announce(m.Goods, shares[i])
		if err != nil || len(all) == 0 {
			return err
		}
		if err := s.send(ctx, m.Owners[i], staff.Inspectors[0], all, lines); err != nil {
			return fmt.Errorf("consignment of merchant %d: %w", i, err)
		}
		mu.Lock()
		defer mu.Unlock()
		out.pieces = append(out.pieces, all...)
		for _, p := range all {
			if p.fake {
				out.Fakes++
			} else {
				out.Genuine++
			}
		}
		step(len(all))
		return nil
	})
}

func (s *Shop) announce(goods *Goods, articles []trade.Article) (all []*piece, lines []*inspectionv1.ConsignmentLine, err error) {
	for _, a := range articles {
		if a.Proof == trade.Unproven {
			continue
		}
		of, err := s.pieces(a)
		if err != nil {
			return nil, nil, err
		}
		line := &inspectionv1.ConsignmentLine{Sku: goods.SKU(a.Code), Gtin: a.GTIN, Quantity: int64(len(of)), Serialised: true, Category: a.Category}
		for _, p := range of {
			line.Serials = append(line.Serials, p.serial)
		}
		all, lines = append(all, of...), append(lines, line)
	}
	return all, lines, nil
}

// send announces a consignment, has a carrier bring it, and has it received.
func (s *Shop) send(ctx context.Context, owner, inspector *Person, all []*piece, lines []*inspectionv1.ConsignmentLine) error {
	merchant := owner.Self.GetMerchantId()
	if err := s.place(ctx, owner, "merchant/"+merchant, "Stock room"); err != nil {
		return err
	}
	consignments := inspectionv1connect.NewConsignmentServiceClient(owner.Client())
	open := &inspectionv1.OpenConsignmentRequest{ConsignmentId: id.New("csg"), Site: site, Destination: site, Lines: lines}
	if _, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.OpenConsignmentResponse, error) {
		return consignments.OpenConsignment(ctx, open)
	}); err != nil {
		return err
	}
	if err := s.carry(ctx, owner, open.GetConsignmentId(), "merchant/"+merchant, all); err != nil {
		return err
	}
	desk := inspectionv1connect.NewConsignmentServiceClient(inspector.Client())
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		res, err := desk.GetConsignment(ctx, &inspectionv1.GetConsignmentRequest{ConsignmentId: open.GetConsignmentId()})
		return res.GetConsignment().GetState() == inspectionv1.Consignment_STATE_ARRIVED, err
	}); err != nil {
		return fmt.Errorf("arrival: %w", err)
	}
	res, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.ReceiveConsignmentResponse, error) {
		return desk.ReceiveConsignment(ctx, &inspectionv1.ReceiveConsignmentRequest{ConsignmentId: open.GetConsignmentId(), Lines: lines})
	})
	if err != nil {
		return err
	}
	units := make(map[string]string, len(all))
	for _, u := range res.GetUnits() {
		units[u.GetSku()+" "+u.GetSerial()] = u.GetUnitId()
	}
	opened, err := s.cases(ctx, inspector, open.GetConsignmentId())
	if err != nil {
		return err
	}
	at := 0
	for _, l := range lines {
		for range l.GetSerials() {
			p := all[at]
			p.unit = units[l.GetSku()+" "+p.serial]
			p.caseID = opened[p.unit]
			at++
		}
	}
	return nil
}

// cases are those of a consignment, by the piece that each is about.
func (s *Shop) cases(ctx context.Context, inspector *Person, consignment string) (map[string]string, error) {
	c := inspectionv1connect.NewCaseServiceClient(inspector.Client())
	out := make(map[string]string)
	for token := ""; ; {
		page, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.ListCasesResponse, error) {
			return c.ListCases(ctx, &inspectionv1.ListCasesRequest{Reference: consignment, PageSize: 200, PageToken: token})
		})
		if err != nil {
			return nil, err
		}
		for _, one := range page.GetCases() {
			for _, u := range one.GetUnitIds() {
				out[u] = one.GetCaseId()
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return out, nil
		}
	}
}

// carry books a parcel to the inspection with the merchant's carrier and hands
// it over.
func (s *Shop) carry(ctx context.Context, owner *Person, reference, from string, all []*piece) error {
	c := logisticsv1connect.NewShipmentServiceClient(owner.Client())
	var grams int32
	var value int64
	for _, p := range all {
		grams += p.article.WeightGrams()
		value += p.article.Price.Minor
	}
	book := &logisticsv1.BookShipmentRequest{
		ShipmentId: id.New("shp"), Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, From: &logisticsv1.Party{PlaceId: from},
		To: &logisticsv1.Party{PlaceId: "inspection/" + site}, Reference: reference, MerchantId: owner.Self.GetMerchantId(),
		Rule: &logisticsv1.Rule{Prefer: logisticsv1.Rule_PREFER_FASTEST},
		Parcels: []*logisticsv1.Parcel{{ParcelId: "box-1", WeightGrams: min(max(grams, 100), 25_000), Items: []*logisticsv1.Item{{
			Description: "Jewellery and purses", Quantity: int64(len(all)), Value: &typev1.Money{CurrencyCode: "GBP", MinorUnits: value},
		}}}},
	}
	booked, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.BookShipmentResponse, error) { return c.BookShipment(ctx, book) })
	if err != nil {
		return err
	}
	shipment := booked.GetShipment()
	if _, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.CreateManifestResponse, error) {
		return c.CreateManifest(ctx, &logisticsv1.CreateManifestRequest{
			ManifestId: "to-" + reference, Instance: shipment.GetInstance(), PlaceId: from, ShipmentIds: []string{shipment.GetShipmentId()},
		})
	}); err != nil {
		return err
	}
	if !strings.HasPrefix(shipment.GetInstance(), "post-") {
		return nil
	}
	return s.sort(shipment.GetParcels()[0].GetTrackingNumber())
}

// place says where somebody is.
func (s *Shop) place(ctx context.Context, who *Person, name, recipient string) error {
	_, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.PutPlaceResponse, error) {
		return logisticsv1connect.NewPlaceServiceClient(who.Client()).PutPlace(ctx, &logisticsv1.PutPlaceRequest{PlaceId: name, Address: &typev1.Address{
			Recipient: recipient, Lines: []string{"1 Placeholder Dock"}, Locality: "Exampleton", PostalCode: "ZZ1 1ZZ", CountryCode: "GB",
		}})
	})
	return err
}

// until asks until something is so: the API tells of it to whoever asks.
func until(ctx context.Context, so func(context.Context) (bool, error)) error {
	for {
		ok, err := Patient(ctx, so)
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

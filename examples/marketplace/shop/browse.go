package shop

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// Browse has every consumer look around, with consent, and be recommended
// something: what fits them, and what goes with what they looked at. It
// answers how many recommendations were shown.
func (s *Shop) Browse(ctx context.Context, m *Market, step func(n int)) (shown int64, err error) {
	for _, people := range m.Consumers {
		for _, p := range people {
			n, err := s.browse(ctx, p)
			if err != nil {
				return shown, err
			}
			shown += n
			step(1)
		}
	}
	return shown, nil
}

func (s *Shop) browse(ctx context.Context, p *Person) (int64, error) {
	listings := catalogv1connect.NewStorefrontServiceClient(p.Client())
	found, err := Patient(ctx, func(ctx context.Context) (*catalogv1.SearchListingsResponse, error) {
		return listings.SearchListings(ctx, &catalogv1.SearchListingsRequest{Query: "heart", InStockOnly: true, PageSize: 3})
	})
	if err != nil {
		return 0, err
	}
	views := &analyticsv1.RecordViewsRequest{BatchId: id.New("bat"), SessionId: id.New("ses"), Consent: analyticsv1.Consent_CONSENT_PERSONALISATION}
	var skus []string
	for _, l := range found.GetListings() {
		skus = append(skus, l.GetSku())
		views.Views = append(views.Views, &analyticsv1.View{Kind: analyticsv1.View_KIND_LISTING, Sku: l.GetSku(), At: timestamppb.New(time.Now())})
	}
	if len(skus) > 0 {
		beacon := analyticsv1connect.NewBeaconServiceClient(p.Client())
		if _, err := Patient(ctx, func(ctx context.Context) (*analyticsv1.RecordViewsResponse, error) {
			return beacon.RecordViews(ctx, views)
		}); err != nil {
			return 0, err
		}
	}
	var shown int64
	c := analyticsv1connect.NewRecommendationServiceClient(p.Client())
	for _, ask := range []*analyticsv1.RecommendRequest{
		{Kind: analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL, Limit: 5},
		{Kind: analyticsv1.RecommendationKind_RECOMMENDATION_KIND_BOUGHT_TOGETHER, Skus: skus, Limit: 5},
	} {
		res, err := Patient(ctx, func(ctx context.Context) (*analyticsv1.RecommendResponse, error) { return c.Recommend(ctx, ask) })
		if err != nil {
			return shown, err
		}
		shown += int64(len(res.GetRecommendations()))
	}
	return shown, nil
}

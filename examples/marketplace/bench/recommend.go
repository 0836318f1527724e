package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"connectrpc.com/connect/v2"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
)

// invoices names the variable with the file of invoices that recommendations
// are measured on; without it, the excerpt in the repository.
const invoices = "ENTREPOT_TRANSACTIONS"

// recommendations measures what is recommended by what people came to buy: the
// last tenth of a shop's invoices, of which each model sees the nine before.
func (b *bench) recommendations(ctx context.Context, _ int) ([]figure, error) {
	model, err := learned(ctx, b.shop.Root)
	if err != nil {
		return nil, err
	}
	whole, err := b.recommended(ctx)
	return append(model, whole...), err
}

// learned is what the recommender's own benchmark says.
func learned(ctx context.Context, root string) ([]figure, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkQuality", "-benchtime", "2s", "./plugins/analytics/recommend")
	cmd.Dir = root
	source := "the excerpt in the repository"
	if file := os.Getenv(invoices); file != "" {
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		source = filepath.Base(path)
		cmd.Env = append(os.Environ(), invoices+"="+path)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	got := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkQuality") {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			var v float64
			if _, err := fmt.Sscan(f[i], &v); err == nil {
				got[f[i+1]] = v
			}
		}
	}
	if got["people"] == 0 {
		return nil, fmt.Errorf("the recommender's benchmark printed no figures: %s", out)
	}
	quality := func(of string) string { return fmt.Sprintf("%.3f / %.3f", got[of+"HR@20"], got[of+"NDCG@20"]) }
	return []figure{
		{"recommended, HR@20 / NDCG@20, new goods only", quality(""), ">= cosine"},
		{"  item-item cosine, 50 neighbours", quality("cosine-"), ""},
		{"  what is popular", quality("popular-"), ""},
		{fmt.Sprintf("  people; lines of %s", source), fmt.Sprintf("%.0f; %.0f", got["people"], got["lines"]), ""},
		{"  learning all of them", fmt.Sprintf("%.1f s, %.0f MiB", got["learn-s"], got["MiB"]), ""},
		{"CPU of an answer to one consumer, of the model", fmt.Sprintf("%.2f ms", got["cpu-ms"]), "< 5 ms"},
	}, nil
}

// recommended measures whole answers of the shop that runs, if it has the
// module.
func (b *bench) recommended(ctx context.Context) ([]figure, error) {
	c := analyticsv1connect.NewRecommendationServiceClient(b.shop.Guest("GB").Client())
	ask := func(ctx context.Context, i int) error {
		_, err := c.Recommend(ctx, &analyticsv1.RecommendRequest{
			Kind: analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL, Skus: []string{b.goods.SKU(b.articles[i%len(b.articles)].Code)},
		})
		return err
	}
	switch err := ask(ctx, 0); connect.CodeOf(err) {
	case connect.CodeUnimplemented, connect.CodeNotFound:
		return nil, nil
	}
	per, client, _, _, err := b.measured(ctx, 2000, ask)
	if err != nil {
		return nil, fmt.Errorf("recommend: %w", err)
	}
	return []figure{
		{"CPU per recommendation, all processes and PostgreSQL", fmt.Sprintf("%.2f ms", ms(per)), "< 5 ms"},
		{"  of the client beside it", fmt.Sprintf("%.2f ms", ms(client)), ""},
	}, nil
}

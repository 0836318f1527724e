package shop

import (
	"context"
	"fmt"
	"time"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// Shelve puts away what comes into receiving, until so many pieces are on the
// shelf. Only inspection lets goods in there that were away or in doubt.
func (f *Floor) Shelve(ctx context.Context, pieces int64, step func(n int)) error {
	for pieces > 0 {
		res, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ListPutAwaysResponse, error) {
			return f.purchasing.ListPutAways(ctx, &warehousev1.ListPutAwaysRequest{Site: site, PageSize: 100})
		})
		if err != nil {
			return err
		}
		var n int64
		for i, l := range res.GetLines() {
			l.Location = fmt.Sprintf("J-%02d", i%20+1)
			n += l.GetQuantity()
		}
		if n == 0 {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%d pieces never came to be put away: %w", pieces, ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		req := &warehousev1.PutAwayRequest{PutAwayId: f.next("putaway"), Site: site, Lines: res.GetLines()}
		if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.PutAwayResponse, error) { return f.purchasing.PutAway(ctx, req) }); err != nil {
			return fmt.Errorf("put away: %w", err)
		}
		pieces -= n
		step(int(n))
	}
	return nil
}

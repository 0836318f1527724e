package main

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// missed is one attempt to buy what is not there.
type missed struct {
	market, account string
	lines           []line
}

// recordShort writes an attempt that was refused for want of stock, and answers
// that refusal. Other refusals are none of it.
func (s *service) recordShort(ctx context.Context, refusal error, m missed) error {
	info, ok := fault.Info(refusal)
	if !ok || info.GetReason() != "OUT_OF_STOCK" {
		return refusal
	}
	var merchants, skus, titles []string
	var asked, missing []int64
	for _, l := range m.lines {
		available, err := strconv.ParseInt(info.GetMetadata()[l.SKU], 10, 64)
		if err != nil || available >= l.Quantity {
			continue
		}
		merchants, skus, titles = append(merchants, l.Merchant), append(skus, l.SKU), append(titles, l.Title)
		asked, missing = append(asked, l.Quantity), append(missing, l.Quantity-available)
	}
	if len(skus) == 0 {
		return refusal
	}
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := tx.Rows(ctx, recordShort, m.market, merchants, skus, asked, missing, m.account, titles)
		return each(rows, err, func(rows *sql.Rows) error {
			e := &orderv1.ShortageReminder{Market: m.market, Number: 1}
			var since time.Time
			if err := rows.Scan(&e.MerchantId, &e.Sku, &since); err != nil {
				return err
			}
			e.ShortSince = timestamppb.New(since)
			return tx.Publish(e)
		})
	})
	if err != nil {
		return errors.Join(refusal, err)
	}
	return refusal
}

// recordShort sums attempts by day, and answers what was not known to be
// short. The rows are taken in one order.
const recordShort = `WITH u AS (SELECT * FROM ROWS FROM (unnest($2::text[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::bigint[]), unnest($7::text[])) u(merchant, sku, asked, missing, title)
   ORDER BY sku),
d AS (INSERT INTO shortage (merchant, market, sku, day, attempts, asked, missing)
  SELECT merchant, $1, sku, current_date, 1, asked, missing FROM u
  ON CONFLICT (merchant, market, sku, day) DO UPDATE SET attempts = shortage.attempts + 1, asked = shortage.asked + excluded.asked,
    missing = shortage.missing + excluded.missing),
w AS (INSERT INTO waiter (account, market, sku, quantity, title) SELECT $6, $1, sku, asked, title FROM u WHERE $6 <> ''
  ON CONFLICT (account, market, sku) DO UPDATE SET quantity = excluded.quantity, title = excluded.title)
INSERT INTO gap (merchant, market, sku, remind_at) SELECT merchant, $1, sku, now() + interval '1 day' FROM u
  ON CONFLICT DO NOTHING RETURNING merchant, sku, since`

// WatchStock asks to be told when a sku can be had.
func (s *service) WatchStock(ctx context.Context, req *orderv1.WatchStockRequest) (*orderv1.WatchStockResponse, error) {
	info := call.From(ctx)
	_, err := s.db.Do(ctx, `INSERT INTO waiter (account, market, sku, quantity, title) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (account, market, sku) DO UPDATE SET quantity = excluded.quantity, title = coalesce(nullif(excluded.title, ''), waiter.title)`,
		info.Principal.Account, info.Market, req.GetSku(), req.GetQuantity(), s.title(ctx, info.Market, req.GetSku()))
	return &orderv1.WatchStockResponse{}, store.Wrap(err)
}

// title is what the catalog calls a sku in a market. One that it does not show
// there, or cannot be asked about, has none: that is no reason to refuse.
func (s *service) title(ctx context.Context, market, sku string) string {
	res, err := s.quotes.QuotePrices(ctx, &catalogv1.QuotePricesRequest{Market: market, Skus: []string{sku}})
	if err != nil || len(res.GetQuotes()) == 0 {
		return ""
	}
	return res.GetQuotes()[0].GetTitle()
}

// UnwatchStock takes that back.
func (s *service) UnwatchStock(ctx context.Context, req *orderv1.UnwatchStockRequest) (*orderv1.UnwatchStockResponse, error) {
	info := call.From(ctx)
	_, err := s.db.Do(ctx, `DELETE FROM waiter WHERE account = $1 AND market = $2 AND sku = $3`, info.Principal.Account, info.Market, req.GetSku())
	return &orderv1.UnwatchStockResponse{}, store.Wrap(err)
}

// remindBatch keeps a tick's transaction short.
const remindBatch = 150

const remind = `WITH due AS (SELECT merchant, market, sku FROM gap WHERE remind_at <= now() ORDER BY remind_at LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE gap g SET remind_at = now() + interval '1 day', reminders = g.reminders + 1 FROM due
 WHERE g.merchant = due.merchant AND g.market = due.market AND g.sku = due.sku RETURNING g.merchant, g.sku, g.market, g.since, g.reminders`

// remindMerchants tells who is still short.
func remindMerchants(ctx context.Context, tx *store.Tx) error {
	rows, err := tx.Rows(ctx, remind, remindBatch)
	return each(rows, err, func(rows *sql.Rows) error {
		e := &orderv1.ShortageReminder{}
		var since time.Time
		if err := rows.Scan(&e.MerchantId, &e.Sku, &e.Market, &since, &e.Number); err != nil {
			return err
		}
		e.ShortSince = timestamppb.New(since)
		return tx.Publish(e)
	})
}

// toldBatch is how many waiters one event tells; a transaction publishes 500
// at most. The rest are told at the next tick.
const toldBatch = 150

// arrived are sku that can be sold again: they are short no more, and who waits
// for them is to be told.
const arrived = `WITH g AS (DELETE FROM gap WHERE sku = ANY ($1))
UPDATE waiter SET arrived = true WHERE sku = ANY ($1) AND NOT arrived`

const tell = `DELETE FROM waiter w USING (SELECT account, market, sku FROM waiter WHERE arrived ORDER BY account, market, sku LIMIT $1 FOR UPDATE SKIP LOCKED) d
 WHERE w.account = d.account AND w.market = d.market AND w.sku = d.sku RETURNING w.account, w.market, w.sku, w.quantity, w.title`

func tellWaiters(ctx context.Context, tx *store.Tx) error {
	rows, err := tx.Rows(ctx, tell, toldBatch)
	return each(rows, err, func(rows *sql.Rows) error {
		e := &orderv1.BackInStock{}
		if err := rows.Scan(&e.AccountId, &e.Market, &e.Sku, &e.Quantity, &e.Title); err != nil {
			return err
		}
		return tx.Publish(e)
	})
}

// leveled is what every event tells that brings goods onto shelves.
type leveled interface {
	proto.Message
	GetLevels() []*warehousev1.StockLevel
}

// onLevels ends shortages of what can be sold again.
func onLevels[M leveled]() event.Handler {
	return event.OnBatch(func(ctx context.Context, tx *store.Tx, events []event.Of[M]) error {
		var all []*warehousev1.StockLevel
		for _, e := range events {
			all = append(all, e.Body.GetLevels()...)
		}
		return onShelf(ctx, tx, all)
	})
}

func onAdjusted(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.StockAdjusted]) error {
	return onShelf(ctx, tx, []*warehousev1.StockLevel{e.Body.GetLevel()})
}

func onShelf(ctx context.Context, tx *store.Tx, levels []*warehousev1.StockLevel) error {
	var skus []string
	for _, l := range levels {
		if l.GetSellable() > 0 {
			skus = append(skus, l.GetSku())
		}
	}
	if len(skus) == 0 {
		return nil
	}
	if err := arrivals(ctx, tx, skus); err != nil {
		return err
	}
	res, err := tx.Do(ctx, arrived, skus)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return tellWaiters(ctx, tx)
}

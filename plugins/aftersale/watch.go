package main

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// bell wakes those of this process who wait for messages. Other processes look
// by the clock.
type bell struct {
	mu      sync.Mutex
	rung    chan struct{}
	waiting chan struct{}
}

const (
	// watchEvery is how often a watcher looks when no bell rings.
	watchEvery = time.Second
	// maxWatchers bounds streams of one process.
	maxWatchers = 1000
)

func newBell() *bell {
	return &bell{rung: make(chan struct{}), waiting: make(chan struct{}, maxWatchers)}
}

// next is closed at the next ring. Take it before looking.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

// WatchMessages streams messages as they are posted.
func (s *service) WatchMessages(ctx context.Context, req *aftersalev1.WatchMessagesRequest, stream aftersalev1connect.ConversationServiceWatchMessagesServerStream) error {
	read, err := s.watched(ctx, req)
	if err != nil {
		return err
	}
	select {
	case s.bell.waiting <- struct{}{}:
		defer func() { <-s.bell.waiting }()
	default:
		return fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_WATCH", "too many watch at this moment; ask again"), 5*time.Second)
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	after := req.GetAfter()
	for {
		rung := s.bell.next()
		all, err := read(after)
		if err != nil {
			return err
		}
		for _, m := range all {
			after = m.inFeed
			if err := stream.Send(&aftersalev1.WatchMessagesResponse{Message: m.Message, Position: after}); err != nil {
				return err
			}
		}
		if len(all) == pageOfMessages {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rung:
		case <-tick.C:
		}
	}
}

// watched is how the messages after a position are read that somebody watches:
// of one conversation by their positions in it, of all of a consumer's or a
// merchant's by those in the feed.
func (s *service) watched(ctx context.Context, req *aftersalev1.WatchMessagesRequest) (func(after int64) ([]posted, error), error) {
	if req.GetTopic() != nil {
		a, err := s.topic(ctx, req.GetTopic())
		if err != nil {
			return nil, err
		}
		return func(after int64) ([]posted, error) {
			all, err := s.of(ctx, a, after, pageOfMessages)
			for i := range all {
				all[i].inFeed = all[i].GetPosition()
			}
			return all, err
		}, nil
	}
	switch p := call.From(ctx).Principal; p.Kind {
	case call.Consumer:
		return func(after int64) ([]posted, error) {
			return s.messages(ctx, s.db, `m.account = $1 AND m.account_at > $2 ORDER BY m.account_at LIMIT $3`, p.Account, after, pageOfMessages)
		}, nil
	case call.Merchant:
		return func(after int64) ([]posted, error) {
			return s.messages(ctx, s.db, `m.merchant = $1 AND m.merchant_at > $2 ORDER BY m.merchant_at LIMIT $3`, p.Merchant, after, pageOfMessages)
		}, nil
	}
	return nil, fault.Field("topic", "say which conversation")
}

package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	sideConsumer = int16(aftersalev1.Side_SIDE_CONSUMER)
	sideMerchant = int16(aftersalev1.Side_SIDE_MERCHANT)
)

// conversation is what is said about a case, or about a merchant's part of an
// order.
type conversation struct {
	bun.BaseModel `bun:"table:conversation,alias:v"`

	ID             string `bun:"id,pk"`
	OrderID        string
	Merchant       string
	CaseID         string
	Account        string
	Last           int64
	LastAt         time.Time
	ReadByConsumer int64
	ReadByMerchant int64
	ReadByStaff    int64
	WaitingSince   time.Time `bun:",nullzero"`
	RespondBy      time.Time `bun:",nullzero"`
	Overdue        bool
	Answers        int64
	WaitedSeconds  int64
}

// conversationID follows from what a conversation is about: it has a name
// before anybody wrote.
func conversationID(order, merchant, caseID string) string {
	return id.Derive("cnv", order+"/"+merchant+"/"+caseID)
}

func errNoConversation() error {
	return fault.New(connect.CodeNotFound, "CONVERSATION_UNKNOWN", "there is no such conversation, or it is not yours")
}

func (v *conversation) proto() *aftersalev1.Conversation {
	return &aftersalev1.Conversation{
		ConversationId: v.ID, OrderId: v.OrderID, MerchantId: v.Merchant, CaseId: v.CaseID, Last: v.Last, LastAt: timestamppb.New(v.LastAt),
		ReadByConsumer: v.ReadByConsumer, ReadByMerchant: v.ReadByMerchant, ReadByStaff: v.ReadByStaff, WaitingSince: stamp(v.WaitingSince),
		RespondBy: stamp(v.RespondBy), Answers: v.Answers, WaitedSeconds: v.WaitedSeconds,
	}
}

// readBy is how far a side has read.
func (v *conversation) readBy(side aftersalev1.Side) *int64 {
	switch side {
	case aftersalev1.Side_SIDE_CONSUMER:
		return &v.ReadByConsumer
	case aftersalev1.Side_SIDE_MERCHANT:
		return &v.ReadByMerchant
	default:
		return &v.ReadByStaff
	}
}

// about is a topic that is found, and who asks.
type about struct {
	order, merchant, caseID, account, market string
	placed                                   time.Time
	who                                      party
}

func (a *about) id() string { return conversationID(a.order, a.merchant, a.caseID) }

// topic finds what a conversation is about and who the caller is in it.
func (s *service) topic(ctx context.Context, t *aftersalev1.Topic) (*about, error) {
	a := &about{order: t.GetOrderId(), merchant: t.GetMerchantId(), caseID: t.GetCaseId()}
	if (t.GetCaseId() == "") == (t.GetOrderId() == "") {
		return nil, fault.Field("topic", "name a case, or an order and its merchant")
	}
	var err error
	if t.GetCaseId() != "" {
		var c *caseFile
		if c, a.who, err = s.ofCase(ctx, t.GetCaseId(), t.GetCartSecret()); err != nil {
			return nil, err
		}
		a.order, a.merchant = c.OrderID, c.Merchant
	} else {
		if p := call.From(ctx).Principal; p.Kind == call.Merchant {
			if a.merchant != "" && a.merchant != p.Merchant {
				return nil, errNoOrder()
			}
			a.merchant = p.Merchant
		}
		if a.merchant == "" {
			return nil, fault.Field("topic.merchant_id", "name the merchant")
		}
		if a.who, err = s.party(ctx, a.order, a.merchant, t.GetCartSecret()); err != nil {
			return nil, err
		}
	}
	var sells bool
	err = s.db.Row(ctx, `SELECT p.account, p.market, p.placed_at, EXISTS (SELECT FROM purchase_line l WHERE l.order_id = p.order_id AND l.merchant = $2)
		FROM purchase p WHERE p.order_id = $1`, a.order, a.merchant).Scan(&a.account, &a.market, &a.placed, &sells)
	if err == nil && !sells {
		err = errNoOrder()
	}
	return a, store.Wrap(noRows(err, errNoOrder()))
}

// lockConversation makes a conversation where there is none, and locks it.
func lockConversation(ctx context.Context, tx *store.Tx, a *about) (*conversation, error) {
	if _, err := tx.Do(ctx, `INSERT INTO conversation (id, order_id, merchant, case_id, account) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		a.id(), a.order, a.merchant, a.caseID, a.account); err != nil {
		return nil, err
	}
	v := &conversation{}
	return v, tx.NewSelect().Model(v).Where("v.id = ?", a.id()).For("UPDATE").Scan(ctx)
}

// clock keeps who waits for whom: the consumer's first message that is not
// answered starts it, an answer of the other sides stops it.
func (v *conversation) clock(tx *store.Tx, side int16, internal bool, within time.Duration, at time.Time) error {
	switch {
	case internal:
		return nil
	case side != sideConsumer:
		if v.WaitingSince.IsZero() {
			return nil
		}
		v.Answers++
		v.WaitedSeconds += int64(at.Sub(v.WaitingSince).Seconds())
		v.WaitingSince, v.RespondBy, v.Overdue = time.Time{}, time.Time{}, false
		tx.CancelTimer(v.ID + "/" + deadlineRespond)
		return nil
	case !v.WaitingSince.IsZero():
		return nil
	}
	v.WaitingSince, v.RespondBy = at, at.Add(within)
	return tx.SetTimer(v.ID+"/"+deadlineRespond, v.RespondBy,
		&aftersalev1.DeadlineReached{SubjectId: v.ID, What: deadlineRespond, Due: timestamppb.New(v.RespondBy)})
}

// overdue tells, once, that a consumer waits for too long.
func overdue(ctx context.Context, tx *store.Tx, conversationID string, due time.Time) error {
	v := &conversation{}
	err := tx.NewSelect().Model(v).Where("v.id = ?", conversationID).For("UPDATE").Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (v.WaitingSince.IsZero() || v.Overdue || !v.RespondBy.Equal(due)) {
		return nil
	}
	if err != nil {
		return err
	}
	v.Overdue = true
	if _, err := tx.NewUpdate().Model(v).Column("overdue").WherePK().Exec(ctx); err != nil {
		return err
	}
	return tx.Publish(&aftersalev1.ResponseOverdue{
		ConversationId: v.ID, OrderId: v.OrderID, MerchantId: v.Merchant, CaseId: v.CaseID, WaitingSince: timestamppb.New(v.WaitingSince),
	})
}

// ListConversations pages through the caller's own, latest first.
func (s *service) ListConversations(ctx context.Context, req *aftersalev1.ListConversationsRequest) (*aftersalev1.ListConversationsResponse, error) {
	at, after, err := conversationToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = 50
	}
	var found []*conversation
	q := s.db.NewSelect().Model(&found).OrderExpr("v.last_at DESC, v.id DESC").Limit(int64(size) + 1)
	switch p := call.From(ctx).Principal; p.Kind {
	case call.Consumer:
		q = q.Where("v.account = ?", p.Account)
	case call.Merchant:
		q = q.Where("v.merchant = ?", p.Merchant)
	}
	if req.GetWaiting() {
		q = q.Where("v.waiting_since IS NOT NULL")
	}
	if after != "" {
		q = q.Where("(v.last_at, v.id) < (?, ?)", at, after)
	}
	if err := q.Scan(ctx); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, store.Wrap(err)
	}
	res := &aftersalev1.ListConversationsResponse{}
	if len(found) > size {
		found = found[:size]
		l := found[size-1]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%s", l.LastAt.UnixMicro(), l.ID))
	}
	for _, v := range found {
		res.Conversations = append(res.Conversations, v.proto())
	}
	return res, nil
}

func conversationToken(token string) (at time.Time, after string, err error) {
	if token == "" {
		return time.Time{}, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	micros, after, ok := strings.Cut(string(b), "/")
	n, err2 := strconv.ParseInt(micros, 10, 64)
	if err != nil || err2 != nil || !ok {
		return time.Time{}, "", fault.Field("page_token", "is not one that this method gave")
	}
	return time.UnixMicro(n), after, nil
}

// MarkRead says how far a side has read.
func (s *service) MarkRead(ctx context.Context, req *aftersalev1.MarkReadRequest) (*aftersalev1.MarkReadResponse, error) {
	v := &conversation{}
	err := s.db.NewSelect().Model(v).Where("v.id = ?", req.GetConversationId()).Scan(ctx)
	if err != nil {
		return nil, store.Wrap(noRows(err, errNoConversation()))
	}
	who, err := s.party(ctx, v.OrderID, v.Merchant, req.GetCartSecret())
	if fault.Reason(err) == "ORDER_UNKNOWN" {
		err = errNoConversation()
	}
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.MarkReadResponse, error) {
		if err := tx.NewSelect().Model(v).WherePK().For("UPDATE").Scan(ctx); err != nil {
			return nil, err
		}
		read := v.readBy(who.side)
		*read = max(*read, min(req.GetPosition(), v.Last))
		_, err := tx.NewUpdate().Model(v).Column("read_by_consumer", "read_by_merchant", "read_by_staff").WherePK().Exec(ctx)
		return &aftersalev1.MarkReadResponse{Conversation: v.proto()}, err
	})
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// stringList reads a JSON list of texts.
type stringList []string

// Scan implements sql.Scanner.
func (l *stringList) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*l = nil
		return nil
	case []byte:
		return json.Unmarshal(v, (*[]string)(l))
	case string:
		return json.Unmarshal([]byte(v), (*[]string)(l))
	}
	return fmt.Errorf("a list of texts as %T", src)
}

// nextInFeed counts on in the feeds of a message's readers. Their rows are
// locked in the order of their names, to the commit: whoever reads a feed up
// to a position has read everything before it.
const nextInFeed = `WITH up AS (INSERT INTO feed AS f (party, last) SELECT u.party, 1 FROM unnest($1::text[]) u(party) ORDER BY u.party
  ON CONFLICT (party) DO UPDATE SET last = f.last + 1 RETURNING party, last)
SELECT (SELECT last FROM up WHERE party = $2), (SELECT last FROM up WHERE party = $3)`

// maxPerHour is how many things a consumer says in a conversation.
const maxPerHour = 60

// PostMessage says something in a conversation.
func (s *service) PostMessage(ctx context.Context, req *aftersalev1.PostMessageRequest) (*aftersalev1.PostMessageResponse, error) {
	if strings.TrimSpace(req.GetText()) == "" && len(req.GetBlobIds()) == 0 {
		return nil, fault.Field("text", "say or attach something")
	}
	a, err := s.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	if req.GetInternal() && a.who.side == aftersalev1.Side_SIDE_CONSUMER {
		return nil, fault.Field("internal", "notes are of the merchant and the marketplace")
	}
	if err := s.sent(ctx, req.GetBlobIds()); err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, a.order, text(req.GetText())...)
	if err != nil {
		return nil, err
	}
	author := "consumer"
	if a.who.side != aftersalev1.Side_SIDE_CONSUMER {
		author = call.From(ctx).Principal.String()
	}
	messageID := id.Derive("msg", fmt.Sprintf("%s/%d/%s", a.id(), a.who.side, req.GetMessageKey()))
	fresh := false
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		fresh = false
		v, err := lockConversation(ctx, tx, a)
		if err != nil {
			return err
		}
		var known bool
		var lately int
		if err := tx.Row(ctx, `SELECT EXISTS (SELECT FROM message WHERE id = $1),
			(SELECT count(*) FROM (SELECT FROM message WHERE conversation_id = $2 AND side = 1 AND at > now() - interval '1 hour' ORDER BY position DESC LIMIT $3) m)`,
			messageID, v.ID, maxPerHour).Scan(&known, &lately); err != nil || known {
			return err
		}
		if a.who.side == aftersalev1.Side_SIDE_CONSUMER && lately >= maxPerHour {
			return fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_MESSAGES", "you said a lot; the others will read it"), time.Minute)
		}
		fresh = true
		return s.post(ctx, tx, v, a, req, messageID, author, sealed)
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	if fresh {
		s.bell.ring()
	}
	all, err := s.messages(ctx, s.db, `m.id = $1 LIMIT $2`, messageID, 1)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &aftersalev1.PostMessageResponse{Message: all[0].Message}, nil
}

func (s *service) post(ctx context.Context, tx *store.Tx, v *conversation, a *about, req *aftersalev1.PostMessageRequest,
	messageID, author string, sealed *kernelv1.SealResponse,
) error {
	ref, err := keep(ctx, tx, a.order, sealed)
	if err != nil {
		return err
	}
	t, err := readTerms(ctx, tx, a.market, a.placed, a.merchant)
	if err != nil {
		return err
	}
	at, side := now().Truncate(time.Microsecond), int16(a.who.side)
	if err := v.clock(tx, side, req.GetInternal(), time.Duration(t.policy.GetRespondHours())*time.Hour, at); err != nil {
		return err
	}
	feeds := []string{a.merchant}
	if a.account != "" && !req.GetInternal() {
		feeds = append(feeds, a.account)
	}
	var accountAt *int64
	var merchantAt int64
	if err := tx.Row(ctx, nextInFeed, feeds, a.account, a.merchant).Scan(&accountAt, &merchantAt); err != nil {
		return err
	}
	v.Last, v.LastAt = v.Last+1, at
	*v.readBy(a.who.side) = v.Last
	if _, err := tx.NewUpdate().Model(v).WherePK().Exec(ctx); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `INSERT INTO message (id, conversation_id, position, side, author, language, text_ref, blobs, internal, account_at, merchant_at, account, merchant, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, messageID, v.ID, v.Last, side, author, req.GetLanguage(), ref,
		append([]string{}, req.GetBlobIds()...), req.GetInternal(), accountAt, merchantAt, a.account, a.merchant, at); err != nil {
		return err
	}
	return tx.Publish(&aftersalev1.MessagePosted{
		ConversationId: v.ID, MessageId: messageID, OrderId: a.order, MerchantId: a.merchant, CaseId: a.caseID,
		Author: strings.ToLower(strings.TrimPrefix(a.who.side.String(), "SIDE_")), Internal: req.GetInternal(), AccountId: a.account,
	})
}

// posted is a message with its position in the feed that it was read from.
type posted struct {
	*aftersalev1.Message
	inFeed int64
}

// messages reads messages with their translations and opens their texts. The
// condition ends with a limit.
func (s *service) messages(ctx context.Context, db reader, where string, args ...any) ([]posted, error) {
	var out []posted
	var refs []string
	type sealedText struct {
		ref  string
		into *string
	}
	var texts []sealedText
	rows, err := db.Rows(ctx, `SELECT m.id, m.conversation_id, m.position, m.side, m.language, m.text_ref, to_json(m.blobs), m.internal, m.at, v.order_id, v.case_id,
		coalesce(m.account_at, 0), m.merchant_at,
		coalesce((SELECT json_agg(json_build_array(t.language, t.text_ref) ORDER BY t.language) FROM translation t WHERE t.message_id = m.id), '[]')
		FROM message m JOIN conversation v ON v.id = m.conversation_id WHERE `+where, args...)
	err = scan(rows, err, func(rows *sql.Rows) error {
		m := &aftersalev1.Message{}
		var side int32
		var ref string
		var blobs stringList
		var at time.Time
		var accountAt, merchantAt int64
		var doc []byte
		if err := rows.Scan(&m.MessageId, &m.ConversationId, &m.Position, &side, &m.Language, &ref, &blobs, &m.Internal, &at, &m.OrderId, &m.CaseId,
			&accountAt, &merchantAt, &doc); err != nil {
			return err
		}
		m.Author, m.BlobIds, m.At = aftersalev1.Side(side), blobs, timestamppb.New(at)
		var beside [][2]string
		if err := json.Unmarshal(doc, &beside); err != nil {
			return err
		}
		texts, refs = append(texts, sealedText{ref, &m.Text}), append(refs, ref)
		for _, t := range beside {
			tr := &aftersalev1.Translation{Language: t[0]}
			m.Translations = append(m.Translations, tr)
			texts, refs = append(texts, sealedText{t[1], &tr.Text}), append(refs, t[1])
		}
		feed := merchantAt
		if call.From(ctx).Principal.Kind != call.Merchant {
			feed = accountAt
		}
		out = append(out, posted{m, feed})
		return nil
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	open, err := s.reveal(ctx, refs...)
	if err != nil {
		return nil, err
	}
	for _, t := range texts {
		*t.into = open[t.ref]
	}
	return out, nil
}

// pageOfMessages is how many are read at once.
const pageOfMessages = 32

// of reads a conversation's messages after a position, as a side may see them.
func (s *service) of(ctx context.Context, a *about, after int64, size int) ([]posted, error) {
	return s.messages(ctx, s.db, `m.conversation_id = $1 AND m.position > $2 AND (NOT m.internal OR $3) ORDER BY m.position LIMIT $4`,
		a.id(), after, a.who.side != aftersalev1.Side_SIDE_CONSUMER, size)
}

// ListMessages pages through a conversation.
func (s *service) ListMessages(ctx context.Context, req *aftersalev1.ListMessagesRequest) (*aftersalev1.ListMessagesResponse, error) {
	a, err := s.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	res := &aftersalev1.ListMessagesResponse{}
	v := &conversation{}
	switch err := s.db.NewSelect().Model(v).Where("v.id = ?", a.id()).Scan(ctx); {
	case errors.Is(err, sql.ErrNoRows):
		return res, nil
	case err != nil:
		return nil, store.Wrap(err)
	}
	res.Conversation = v.proto()
	size := int(req.GetPageSize())
	if size == 0 {
		size = pageOfMessages
	}
	all, err := s.of(ctx, a, req.GetAfter(), size+1)
	if err != nil {
		return nil, err
	}
	if len(all) > size {
		all, res.More = all[:size], true
	}
	for _, m := range all {
		res.Messages = append(res.Messages, m.Message)
	}
	return res, nil
}

// PutTranslation keeps a translation beside the original.
func (s *service) PutTranslation(ctx context.Context, req *aftersalev1.PutTranslationRequest) (*aftersalev1.PutTranslationResponse, error) {
	order, _, err := s.mayReadMessage(ctx, req.GetMessageId(), "")
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, order, text(req.GetText())...)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.PutTranslationResponse, error) {
		ref, err := keep(ctx, tx, order, sealed)
		if err != nil {
			return nil, err
		}
		_, err = tx.Do(ctx, `INSERT INTO translation (message_id, language, text_ref, made_by) VALUES ($1, $2, $3, $4)
			ON CONFLICT (message_id, language) DO UPDATE SET text_ref = EXCLUDED.text_ref, made_by = EXCLUDED.made_by, at = now()`,
			req.GetMessageId(), req.GetLanguage(), ref, call.From(ctx).Principal.String())
		return &aftersalev1.PutTranslationResponse{}, err
	})
}

// mayReadMessage finds the order of a message that the caller may read, and
// its attachments.
func (s *service) mayReadMessage(ctx context.Context, messageID, secret string) (order string, blobs stringList, err error) {
	unknown := fault.New(connect.CodeNotFound, "MESSAGE_UNKNOWN", "there is no such message, or it is not yours")
	var merchant string
	var internal bool
	err = s.db.Row(ctx, `SELECT v.order_id, v.merchant, m.internal, to_json(m.blobs) FROM message m JOIN conversation v ON v.id = m.conversation_id WHERE m.id = $1`, messageID).
		Scan(&order, &merchant, &internal, &blobs)
	if err != nil {
		return "", nil, store.Wrap(noRows(err, unknown))
	}
	who, err := s.party(ctx, order, merchant, secret)
	if fault.Reason(err) == "ORDER_UNKNOWN" || err == nil && internal && who.side == aftersalev1.Side_SIDE_CONSUMER {
		err = unknown
	}
	return order, blobs, err
}

// GetAttachment answers an attachment, or a photo of an application, as a path.
func (s *service) GetAttachment(ctx context.Context, req *aftersalev1.GetAttachmentRequest) (*aftersalev1.GetAttachmentResponse, error) {
	var blobs []string
	switch {
	case (req.GetMessageId() == "") == (req.GetCaseId() == ""):
		return nil, fault.Field("message_id, case_id", "name one of them")
	case req.GetCaseId() != "":
		c, _, err := s.ofCase(ctx, req.GetCaseId(), req.GetCartSecret())
		if err != nil {
			return nil, err
		}
		blobs = c.Blobs
	default:
		_, attached, err := s.mayReadMessage(ctx, req.GetMessageId(), req.GetCartSecret())
		if err != nil {
			return nil, err
		}
		blobs = attached
	}
	if !contains(blobs, req.GetBlobId()) {
		return nil, fault.New(connect.CodeNotFound, "ATTACHMENT_UNKNOWN", "there is no such attachment")
	}
	res, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: req.GetBlobId(), Seconds: 300})
	return &aftersalev1.GetAttachmentResponse{Path: res.GetPath()}, host.Relay(err)
}

package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// inboxBatch bounds what one transaction puts into inboxes.
const inboxBatch = 200

// entry is a notification on its way into an inbox.
type entry struct {
	notice
	delivery, recipient string
}

// post puts what waits into the inboxes, and answers how much that was. One
// transaction of the database does so at a time, and holds on to its numbers
// until they can be seen: they become visible in their order.
func (s *service) post(ctx context.Context) (int, error) {
	posted, some := 0, false
	if err := s.db.Row(ctx, `SELECT EXISTS (SELECT FROM delivery WHERE channel = 1 AND state = 1)`).Scan(&some); err != nil || !some {
		return 0, store.Wrap(err)
	}
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		posted = 0
		var mine bool
		if err := tx.Row(ctx, `SELECT pg_try_advisory_xact_lock(7204)`).Scan(&mine); err != nil || !mine {
			return err // somebody else is at it
		}
		entries, err := readEntries(ctx, tx)
		if err != nil || len(entries) == 0 {
			return err
		}
		var names []string
		for _, e := range entries {
			if !slices.Contains(names, e.topic) {
				names = append(names, e.topic)
			}
		}
		v, err := readVocabulary(ctx, tx, names)
		if err != nil {
			return err
		}
		var deliveries, codes, recipients, ids, titles, bodies, said []string
		for _, e := range entries {
			r, language, err := s.say(&e.notice, v, nil)
			code := ""
			if err != nil {
				s.in.Log.WarnContext(ctx, "a notification cannot be said", "notification", e.id, "topic", e.topic, "error", err)
				code = "TEMPLATE_BROKEN"
			}
			deliveries, codes = append(deliveries, e.delivery), append(codes, code)
			recipients, ids = append(recipients, e.recipient), append(ids, e.id)
			titles, bodies, said = append(titles, r.subject), append(bodies, r.text), append(said, language)
		}
		posted = len(entries)
		_, err = tx.Do(ctx, `WITH u AS (SELECT * FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),
				unnest($5::text[]), unnest($6::text[]), unnest($7::text[])) WITH ORDINALITY u(delivery, code, recipient, id, title, body, language, n)),
			d AS (UPDATE delivery d SET state = CASE u.code WHEN '' THEN 4 ELSE 5 END, code = u.code, tries = 1, ended_at = now() FROM u WHERE d.id = u.delivery)
			INSERT INTO inbox (seq, recipient, notification_id, title, body, language)
			SELECT nextval('inbox_seq'), o.recipient, o.id, o.title, o.body, o.language FROM (SELECT * FROM u WHERE u.code = '' ORDER BY u.n) o
			ON CONFLICT DO NOTHING`, deliveries, codes, recipients, ids, titles, bodies, said)
		return err
	})
	return posted, err
}

func readEntries(ctx context.Context, tx *store.Tx) ([]*entry, error) {
	var out []*entry
	rows, err := tx.Rows(ctx, `SELECT d.id, d.recipient, `+noticeColumns+` FROM delivery d JOIN notification n ON n.id = d.notification_id
		WHERE d.channel = 1 AND d.state = 1 ORDER BY d.due_at, d.id LIMIT $1`, inboxBatch)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		e := &entry{}
		to, done := e.targets()
		if err := rows.Scan(append([]any{&e.delivery, &e.recipient}, to...)...); err != nil {
			return err
		}
		out = append(out, e)
		return done()
	})
}

const shownColumns = `i.seq, i.title, i.body, i.language, i.read_at, ` + noticeColumns

func readShown(rows *sql.Rows) (*notificationv1.Notification, error) {
	out := &notificationv1.Notification{}
	var n notice
	var read *time.Time
	to, done := n.targets()
	if err := rows.Scan(append([]any{&out.Sequence, &out.Title, &out.Body, &out.Language, &read}, to...)...); err != nil {
		return nil, err
	}
	if err := done(); err != nil {
		return nil, err
	}
	out.NotificationId, out.Topic, out.Category, out.Reference, out.At = n.id, n.topic, n.category, n.reference, timestamppb.New(n.at)
	if read != nil {
		out.ReadAt = timestamppb.New(*read)
	}
	var err error
	out.Data, err = structpb.NewStruct(n.facts)
	return out, err
}

// mostUnread is how far unread ones are counted.
const mostUnread = 1000

func unread(ctx context.Context, db reader, recipient string) (n int32, err error) {
	err = db.Row(ctx, `SELECT count(*) FROM (SELECT 1 FROM inbox WHERE recipient = $1 AND read_at IS NULL LIMIT $2) u`, recipient, mostUnread).Scan(&n)
	return n, err
}

// ListNotifications pages by falling number.
func (s *service) ListNotifications(ctx context.Context, req *notificationv1.ListNotificationsRequest) (*notificationv1.ListNotificationsResponse, error) {
	me, err := own(ctx)
	if err != nil {
		return nil, err
	}
	before, err := sequenceOf(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := sizeOf(req.GetPageSize())
	res := &notificationv1.ListNotificationsResponse{}
	rows, err := s.db.Rows(ctx, `SELECT `+shownColumns+` FROM inbox i JOIN notification n ON n.id = i.notification_id
		WHERE i.recipient = $1 AND i.seq < $2 AND ($3 = false OR i.read_at IS NULL) AND (cardinality($4::text[]) = 0 OR n.topic = ANY ($4))
		ORDER BY i.seq DESC LIMIT $5`, me, before, req.GetUnread(), append([]string{}, req.GetTopics()...), size+1)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		n, err := readShown(rows)
		res.Notifications = append(res.Notifications, n)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetNotifications()) > size {
		res.Notifications = res.GetNotifications()[:size]
		res.NextPageToken = sequenceToken(res.GetNotifications()[size-1].GetSequence())
	}
	res.Unread, err = unread(ctx, s.db, me)
	return res, store.Wrap(err)
}

// MarkRead marks the caller's own.
func (s *service) MarkRead(ctx context.Context, req *notificationv1.MarkReadRequest) (*notificationv1.MarkReadResponse, error) {
	me, err := own(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.GetNotificationIds()) == 0 && req.GetThrough() == 0 {
		return nil, fault.Field("notification_ids", "name some, or through")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.MarkReadResponse, error) {
		// In one order of rows, as two members may do this at once.
		if _, err := tx.Do(ctx, `UPDATE inbox SET read_at = now() WHERE seq IN (SELECT seq FROM inbox WHERE recipient = $1 AND read_at IS NULL
			AND (notification_id = ANY ($2) OR seq <= $3) ORDER BY seq FOR UPDATE)`,
			me, append([]string{}, req.GetNotificationIds()...), req.GetThrough()); err != nil {
			return nil, err
		}
		n, err := unread(ctx, tx, me)
		return &notificationv1.MarkReadResponse{Unread: n}, err
	})
}

// sizeOf is that of a page of which nobody says how long it is.
func sizeOf(asked int32) int {
	if asked == 0 {
		return 50
	}
	return int(asked)
}

// sequenceToken is where a page ended: opaque, and no secret.
func sequenceToken(n int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte("s" + strconv.FormatInt(n, 10)))
}

func sequenceOf(token string) (int64, error) {
	if token == "" {
		return 1<<63 - 1, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(b) > 1 && b[0] == 's' {
		if n, err := strconv.ParseInt(string(b[1:]), 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, fault.Field("page_token", "not one of this list")
}

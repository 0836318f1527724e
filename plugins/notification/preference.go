package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// chooser is an account as it looks at its preferences.
type chooser struct {
	person
	contact *notificationv1.Contact
	// brought are topics that came with words.
	brought []topic
}

// topicsFor are those that an account may be told of.
func (c *chooser) topics(merchant bool) []topic {
	var out []topic
	for _, t := range append(append([]topic(nil), catalogue...), c.brought...) {
		if t.merchant == merchant && t.name != "contact.confirm" && t.name != "endpoint.ping" {
			out = append(out, t)
		}
	}
	return out
}

func (c *chooser) preferences(merchant bool) []*notificationv1.Preference {
	var out []*notificationv1.Preference
	for _, t := range c.topics(merchant) {
		for _, channel := range []notificationv1.Channel{inbox, mail} {
			out = append(out, &notificationv1.Preference{
				Topic: t.name, Category: t.category, Channel: channel, Enabled: t.goes(channel, c.chosen), Changeable: !t.fixed(channel),
			})
		}
	}
	return out
}

func readChooser(ctx context.Context, db reader, account string) (*chooser, error) {
	c := &chooser{person: person{account: account, chosen: make(map[choice]bool)}}
	var contact int32
	var chosen []byte
	var confirmed *time.Time
	err := db.Row(ctx, `SELECT a.language, a.contact, a.confirmed_at,
			(SELECT coalesce(json_agg(json_build_array(p.topic, p.channel, p.enabled)), '[]') FROM preference p WHERE p.account = a.id)
		FROM account a WHERE a.id = $1`, account).Scan(&c.language, &contact, &confirmed, &chosen)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return nil, err
	default:
		if err := c.choose(chosen); err != nil {
			return nil, err
		}
		c.contact = contactProto(account, contact, confirmed)
	}
	rows, err := db.Rows(ctx, `SELECT name, category, merchant FROM topic ORDER BY name LIMIT 500`)
	return c, scan(rows, err, func(rows *sql.Rows) error {
		var name string
		var category int32
		var merchant bool
		err := rows.Scan(&name, &category, &merchant)
		c.brought = append(c.brought, brought(name, notificationv1.Category(category), merchant))
		return err
	})
}

func contactProto(account string, state int32, confirmed *time.Time) *notificationv1.Contact {
	if state == 0 {
		return nil
	}
	c := &notificationv1.Contact{AccountId: account, State: notificationv1.Contact_State(state)}
	if confirmed != nil {
		c.ConfirmedAt = timestamppb.New(*confirmed)
	}
	return c
}

// GetPreferences tells every topic that the caller may be told of.
func (s *service) GetPreferences(ctx context.Context, _ *notificationv1.GetPreferencesRequest) (*notificationv1.GetPreferencesResponse, error) {
	p := call.From(ctx).Principal
	c, err := readChooser(ctx, s.db, p.Account)
	if err != nil {
		return nil, store.Wrap(err)
	}
	return &notificationv1.GetPreferencesResponse{Preferences: c.preferences(p.Kind == call.Merchant), Language: c.language, Contact: c.contact}, nil
}

// SetPreferences changes all that is named, or nothing.
func (s *service) SetPreferences(ctx context.Context, req *notificationv1.SetPreferencesRequest) (*notificationv1.SetPreferencesResponse, error) {
	p := call.From(ctx).Principal
	merchant := p.Kind == call.Merchant
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.SetPreferencesResponse, error) {
		if err := touch(ctx, tx, p); err != nil {
			return nil, err
		}
		c, err := readChooser(ctx, tx, p.Account)
		if err != nil {
			return nil, err
		}
		known := make(map[string]topic)
		for _, t := range c.topics(merchant) {
			known[t.name] = t
		}
		var names []string
		var channels []int16
		var enabled []bool
		last := make(map[choice]bool)
		for i, change := range req.GetChanges() {
			if err := allow(known, change, req.GetConfirmTransactional(), fmt.Sprintf("changes[%d]", i)); err != nil {
				return nil, err
			}
			last[choice{change.GetTopic(), change.GetChannel()}] = change.GetEnabled()
		}
		for what, on := range last {
			names, channels, enabled = append(names, what.topic), append(channels, int16(what.channel)), append(enabled, on)
			c.chosen[what] = on
		}
		if _, err := tx.Do(ctx, `INSERT INTO preference SELECT $1, u.* FROM unnest($2::text[], $3::smallint[], $4::bool[]) u ON CONFLICT (account, topic, channel)
			DO UPDATE SET enabled = EXCLUDED.enabled`, p.Account, names, channels, enabled); err != nil {
			return nil, err
		}
		if req.GetLanguage() != "" {
			if _, err := tx.Do(ctx, `UPDATE account SET language = $2 WHERE id = $1`, p.Account, req.GetLanguage()); err != nil {
				return nil, err
			}
		}
		return &notificationv1.SetPreferencesResponse{Preferences: c.preferences(merchant)}, nil
	})
}

// allow tells whether a change may be made.
func allow(known map[string]topic, change *notificationv1.SetPreferencesRequest_Change, confirmed bool, field string) error {
	t, ok := known[change.GetTopic()]
	switch {
	case !ok:
		return unknownTopic(field+".topic", change.GetTopic())
	case !t.fixed(change.GetChannel()):
		if t.category == transactional && !change.GetEnabled() && t.byDefault(change.GetChannel()) && !confirmed {
			return fault.New(connect.CodeFailedPrecondition, "CONFIRM_TRANSACTIONAL", "this tells of what is under way: say confirm_transactional to go without", "topic", t.name)
		}
		return nil
	case t.byDefault(change.GetChannel()) == change.GetEnabled():
		return nil // it is so
	case t.category == legal && change.GetChannel() == mail:
		return fault.New(connect.CodeFailedPrecondition, "LEGAL_ALWAYS", "this mail is owed to you and is always sent", "topic", t.name)
	}
	return fault.New(connect.CodeInvalidArgument, "CHANNEL_FIXED", field+": this channel of the topic cannot be chosen", "topic", t.name)
}

// touch makes the account's row, and locks it.
func touch(ctx context.Context, tx *store.Tx, p call.Principal) error {
	merchant := ""
	if p.Kind == call.Merchant {
		merchant = p.Merchant
	}
	_, err := tx.Do(ctx, `INSERT INTO account (id, merchant) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET merchant = EXCLUDED.merchant`, p.Account, merchant)
	return err
}

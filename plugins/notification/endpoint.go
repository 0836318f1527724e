package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// mostEndpoints bounds those of a merchant.
	mostEndpoints = 20
	// replaced is how long a secret signs beside the one that replaced it.
	replaced = 24 * time.Hour
	// failuresBefore an endpoint is disabled: days of silence alone are not
	// enough where nearly nothing was sent.
	failuresBefore = 10
	// restAfter is how long an endpoint rests after its first failure; each
	// further one in a row doubles it, up to longestRest.
	restAfter   = 5 * time.Second
	longestRest = time.Hour
)

// checkURL takes what may be told: https, a name or a public address, nothing
// secret that we would show again. What a name resolves to is looked at by who
// connects, when it connects.
func (s *service) checkURL(raw string) error {
	forbidden := func(why string) error {
		return fault.New(connect.CodeInvalidArgument, "URL_FORBIDDEN", "url: "+why)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return forbidden("is no URL; write one like https://shop.example/hooks")
	case u.User != nil:
		return forbidden("holds a user name; the signature proves who calls")
	case u.Fragment != "":
		return forbidden("holds a fragment, which no server gets")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	addr, err := netip.ParseAddr(host)
	literal := err == nil
	if s.cfg.LoopbackEndpoints && (host == "localhost" || literal && addr.IsLoopback()) && (u.Scheme == "http" || u.Scheme == "https") {
		return nil
	}
	switch {
	case u.Scheme != "https":
		return forbidden("is not https")
	case literal && (!addr.IsGlobalUnicast() || addr.IsPrivate() || addr.Is4In6()), host == "localhost", strings.HasSuffix(host, ".localhost"),
		strings.HasSuffix(host, ".local"), strings.HasSuffix(host, ".internal"):
		return forbidden("is not a place on the public internet")
	case !literal && !strings.Contains(host, "."):
		return forbidden("has no domain; write the server's whole name")
	}
	return nil
}

const endpointColumns = `name, url, to_json(topics), description, state, reason, failing_since, created_at`

func scanEndpoint(row interface{ Scan(...any) error }) (*notificationv1.Endpoint, error) {
	e := &notificationv1.Endpoint{}
	var list []byte
	var state int32
	var failing *time.Time
	var created time.Time
	if err := row.Scan(&e.EndpointId, &e.Url, &list, &e.Description, &state, &e.Reason, &failing, &created); err != nil {
		return nil, err
	}
	e.State, e.CreatedAt = notificationv1.Endpoint_State(state), timestamppb.New(created)
	if failing != nil {
		e.FailingSince = timestamppb.New(*failing)
	}
	return e, json.Unmarshal(list, &e.Topics)
}

// newSecret is one of Standard Webhooks, sealed for the vault.
func (s *service) newSecret(ctx context.Context) (string, *kernelv1.SealResponse, error) {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails
	secret := "whsec_" + base64.StdEncoding.EncodeToString(raw)
	sealed, err := s.host.Vault.Seal(ctx, &kernelv1.SealRequest{Items: []*kernelv1.SealItem{{Kind: "webhook_secret", Plaintext: []byte(secret)}}})
	if err == nil && len(sealed.GetItems()) != 1 {
		err = errors.New("the vault sealed another number of items")
	}
	return secret, sealed, err
}

// PutEndpoint makes or changes one of the caller's merchant.
func (s *service) PutEndpoint(ctx context.Context, req *notificationv1.PutEndpointRequest) (*notificationv1.PutEndpointResponse, error) {
	if err := s.checkURL(req.GetUrl()); err != nil {
		return nil, err
	}
	for i, name := range req.GetTopics() {
		if t, ok := topics[name]; ok && !t.merchant || !ok && !s.broughtFor(ctx, name) {
			return nil, unknownTopic(fmt.Sprintf("topics[%d]", i), name)
		}
	}
	secret, sealed, err := s.newSecret(ctx)
	if err != nil {
		return nil, err
	}
	merchant := call.From(ctx).Principal.Merchant
	state, reason := notificationv1.Endpoint_STATE_ENABLED, ""
	if req.GetDisabled() {
		state, reason = notificationv1.Endpoint_STATE_DISABLED, "BY_MERCHANT"
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.PutEndpointResponse, error) {
		if _, err := tx.Do(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('endpoint ' || $1, 7204))`, merchant); err != nil {
			return nil, err
		}
		var was string
		var others int
		if err := tx.Row(ctx, `SELECT coalesce(max(id) FILTER (WHERE name = $2), ''), count(*) FILTER (WHERE name <> $2) FROM endpoint WHERE merchant = $1`,
			merchant, req.GetEndpointId()).Scan(&was, &others); err != nil {
			return nil, err
		}
		if was == "" && others >= mostEndpoints {
			return nil, fault.New(connect.CodeResourceExhausted, "TOO_MANY_ENDPOINTS", fmt.Sprintf("a merchant has at most %d endpoints", mostEndpoints))
		}
		key := was
		if was == "" {
			key = id.New("whk")
		}
		res := &notificationv1.PutEndpointResponse{}
		var err error
		res.Endpoint, err = scanEndpoint(tx.Row(ctx, `INSERT INTO endpoint AS e (id, merchant, name, url, topics, description, state, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (merchant, name) DO UPDATE SET url = EXCLUDED.url, topics = EXCLUDED.topics, description = EXCLUDED.description, state = EXCLUDED.state,
			  reason = EXCLUDED.reason, failures = 0, failing_since = NULL, blocked_until = '-infinity' RETURNING `+endpointColumns,
			key, merchant, req.GetEndpointId(), req.GetUrl(), append([]string{}, req.GetTopics()...), req.GetDescription(), int16(state), reason))
		if err != nil || was != "" {
			return res, err
		}
		res.Secret = secret
		tx.Keep(sealed)
		_, err = tx.Do(ctx, `INSERT INTO endpoint_secret (endpoint, ref) VALUES ($1, $2)`, key, sealed.GetItems()[0].GetRef())
		return res, err
	})
}

// broughtFor tells whether a topic came with its own words, for merchants.
func (s *service) broughtFor(ctx context.Context, name string) bool {
	var merchant bool
	return s.db.Row(ctx, `SELECT merchant FROM topic WHERE name = $1`, name).Scan(&merchant) == nil && merchant
}

func unknownTopic(field, name string) error {
	return fault.New(connect.CodeInvalidArgument, "TOPIC_UNKNOWN", field+": there is no topic "+name, "topic", name)
}

// mine finds an endpoint of the caller's merchant.
func mine(ctx context.Context, tx *store.Tx, name string) (key string, err error) {
	err = tx.Row(ctx, `SELECT id FROM endpoint WHERE merchant = $1 AND name = $2 FOR UPDATE`, call.From(ctx).Principal.Merchant, name).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fault.New(connect.CodeNotFound, "ENDPOINT_UNKNOWN", "there is no such endpoint, or it is not yours")
	}
	return key, err
}

// RotateSecret lets the secrets before end in a day.
func (s *service) RotateSecret(ctx context.Context, req *notificationv1.RotateSecretRequest) (*notificationv1.RotateSecretResponse, error) {
	secret, sealed, err := s.newSecret(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.RotateSecretResponse, error) {
		key, err := mine(ctx, tx, req.GetEndpointId())
		if err != nil {
			return nil, err
		}
		tx.Keep(sealed)
		// Three sign beside the new one: also who rotates twice in a day, not
		// having got the first answer, is heard by those who know the oldest.
		if _, err = tx.Do(ctx, `UPDATE endpoint_secret SET until = least(until, now() + $2 * interval '1 microsecond') WHERE endpoint = $1`, key, replaced.Microseconds()); err != nil {
			return nil, err
		}
		if _, err = tx.Do(ctx, `DELETE FROM endpoint_secret WHERE endpoint = $1 AND (until <= now() OR ref NOT IN
			(SELECT ref FROM endpoint_secret WHERE endpoint = $1 ORDER BY until, created_at LIMIT 3))`, key); err != nil {
			return nil, err
		}
		_, err = tx.Do(ctx, `INSERT INTO endpoint_secret (endpoint, ref) VALUES ($1, $2)`, key, sealed.GetItems()[0].GetRef())
		return &notificationv1.RotateSecretResponse{Secret: secret}, err
	})
}

// ListEndpoints tells the merchant's, by name.
func (s *service) ListEndpoints(ctx context.Context, _ *notificationv1.ListEndpointsRequest) (*notificationv1.ListEndpointsResponse, error) {
	res := &notificationv1.ListEndpointsResponse{}
	rows, err := s.db.Rows(ctx, `SELECT `+endpointColumns+` FROM endpoint WHERE merchant = $1 ORDER BY name`, call.From(ctx).Principal.Merchant)
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		e, err := scanEndpoint(rows)
		res.Endpoints = append(res.Endpoints, e)
		return err
	}))
}

// DeleteEndpoint ends it, and what waits for it.
func (s *service) DeleteEndpoint(ctx context.Context, req *notificationv1.DeleteEndpointRequest) (*notificationv1.DeleteEndpointResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.DeleteEndpointResponse, error) {
		key, err := mine(ctx, tx, req.GetEndpointId())
		if connect.CodeOf(err) == connect.CodeNotFound {
			return &notificationv1.DeleteEndpointResponse{}, nil // it is no more
		}
		if err != nil {
			return nil, err
		}
		_, err = tx.Do(ctx, `WITH d AS (UPDATE delivery SET state = 5, code = 'ENDPOINT_DELETED', ended_at = now() WHERE recipient = $1 AND channel = 3 AND state IN (1, 6))
			DELETE FROM endpoint WHERE id = $1`, key)
		return &notificationv1.DeleteEndpointResponse{}, err
	})
}

// PingEndpoint tells one endpoint that it is told.
func (s *service) PingEndpoint(ctx context.Context, req *notificationv1.PingEndpointRequest) (*notificationv1.PingEndpointResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.PingEndpointResponse, error) {
		key, err := mine(ctx, tx, req.GetEndpointId())
		if err != nil {
			return nil, err
		}
		n := &news{
			Source: "endpoint.ping/" + key + "/" + req.GetPingId(), Topic: "endpoint.ping", Merchant: call.From(ctx).Principal.Merchant, Endpoint: key,
			Reference: req.GetEndpointId(), At: time.Now(), Facts: facts{"endpoint_id": req.GetEndpointId()},
		}
		return &notificationv1.PingEndpointResponse{NotificationId: n.id()}, s.file(ctx, tx, []*news{n})
	})
}

// failing notes that an endpoint took nothing: it rests, and is disabled when
// that has gone on for days.
func (s *service) failing(ctx context.Context, tx *store.Tx, endpoint string) error {
	var since time.Time
	var failures int
	err := tx.Row(ctx, `UPDATE endpoint SET failures = failures + 1, failing_since = coalesce(failing_since, now()),
		blocked_until = now() + least($2 * 2 ^ least(failures, 20), $3) * interval '1 microsecond' WHERE id = $1 RETURNING failing_since, failures`,
		endpoint, restAfter.Microseconds(), longestRest.Microseconds()).Scan(&since, &failures)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // deleted meanwhile
	}
	if err != nil || failures < failuresBefore || time.Since(since) < s.patience {
		return err
	}
	return s.disable(ctx, tx, endpoint, "FAILED_LONG")
}

// recovered notes that an endpoint took something.
func recovered(ctx context.Context, tx *store.Tx, endpoint string) error {
	_, err := tx.Do(ctx, `UPDATE endpoint SET failures = 0, failing_since = NULL, blocked_until = '-infinity' WHERE id = $1 AND failures > 0`, endpoint)
	return err
}

// disable tells an endpoint nothing any more, and its merchant so.
func (s *service) disable(ctx context.Context, tx *store.Tx, endpoint, reason string) error {
	var merchant, name string
	err := tx.Row(ctx, `WITH d AS (UPDATE delivery SET state = 5, code = 'ENDPOINT_DISABLED', ended_at = now()
			WHERE recipient = $1 AND channel = 3 AND state IN (1, 6))
		UPDATE endpoint SET state = 2, reason = $2 WHERE id = $1 AND state = 1 RETURNING merchant, name`, endpoint, reason).Scan(&merchant, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it was before
	}
	if err != nil {
		return err
	}
	if err := s.file(ctx, tx, []*news{{
		Source: "endpoint.disabled/" + id.New("why"), Topic: "endpoint.disabled", Merchant: merchant, Reference: name, At: time.Now(),
		Facts: facts{"endpoint_id": name, "reason": reason},
	}}); err != nil {
		return err
	}
	return tx.Publish(&notificationv1.EndpointDisabled{MerchantId: merchant, EndpointId: name, Reason: reason})
}

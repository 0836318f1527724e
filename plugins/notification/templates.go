package main

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

func wordsOf(t *notificationv1.Template) words {
	return words{Language: t.GetLanguage(), Subject: t.GetSubject(), Text: t.GetText(), HTML: t.GetHtml()}
}

// dry renders words with a topic's sample.
func (s *service) dry(t *notificationv1.Template, f facts) (rendered, error) {
	if _, ok := topics[t.GetTopic()]; !ok {
		return rendered{}, unknownTopic("template.topic", t.GetTopic())
	}
	if f == nil {
		f = samples[t.GetTopic()]
	}
	r, err := wordsOf(t).render(s.cfg.Marketplace, f)
	if err != nil {
		return r, broken("template", err)
	}
	return r, nil
}

// PutTemplate replaces words once they render.
func (s *service) PutTemplate(ctx context.Context, req *notificationv1.PutTemplateRequest) (*notificationv1.PutTemplateResponse, error) {
	t := req.GetTemplate()
	if _, err := s.dry(t, nil); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.PutTemplateResponse, error) {
		out := &notificationv1.Template{Topic: t.GetTopic(), Language: t.GetLanguage(), Subject: t.GetSubject(), Text: t.GetText(), Html: t.GetHtml()}
		var at time.Time
		err := tx.Row(ctx, `INSERT INTO template (topic, language, subject, body, html, changed_by) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (topic, language) DO UPDATE SET subject = EXCLUDED.subject, body = EXCLUDED.body, html = EXCLUDED.html, changed_by = EXCLUDED.changed_by,
			changed_at = now() RETURNING changed_at`, t.GetTopic(), t.GetLanguage(), t.GetSubject(), t.GetText(), t.GetHtml(), call.From(ctx).Principal.String()).Scan(&at)
		out.ChangedAt = timestamppb.New(at)
		return &notificationv1.PutTemplateResponse{Template: out}, err
	})
}

// DeleteTemplate brings the module's words back.
func (s *service) DeleteTemplate(ctx context.Context, req *notificationv1.DeleteTemplateRequest) (*notificationv1.DeleteTemplateResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.DeleteTemplateResponse, error) {
		_, err := tx.Do(ctx, `DELETE FROM template WHERE topic = $1 AND language = $2`, req.GetTopic(), req.GetLanguage())
		return &notificationv1.DeleteTemplateResponse{}, err
	})
}

// ListTemplates tells every topic, by name, with the words that hold.
func (s *service) ListTemplates(ctx context.Context, _ *notificationv1.ListTemplatesRequest) (*notificationv1.ListTemplatesResponse, error) {
	own := make(map[string][]*notificationv1.Template)
	rows, err := s.db.Rows(ctx, `SELECT topic, language, subject, body, html, changed_at FROM template`)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		t := &notificationv1.Template{}
		var at time.Time
		err := rows.Scan(&t.Topic, &t.Language, &t.Subject, &t.Text, &t.Html, &at)
		t.ChangedAt = timestamppb.New(at)
		own[t.GetTopic()] = append(own[t.GetTopic()], t)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &notificationv1.ListTemplatesResponse{}
	for _, t := range catalogue {
		sample, err := structpb.NewStruct(samples[t.name])
		if err != nil {
			return nil, err
		}
		all := own[t.name]
		for language, w := range house[t.name] {
			if !slices.ContainsFunc(all, func(o *notificationv1.Template) bool { return o.GetLanguage() == language }) {
				all = append(all, &notificationv1.Template{Topic: t.name, Language: language, Subject: w.Subject, Text: w.Text, BuiltIn: true})
			}
		}
		slices.SortFunc(all, func(a, b *notificationv1.Template) int { return cmp.Compare(a.GetLanguage(), b.GetLanguage()) })
		res.Topics = append(res.Topics, &notificationv1.Topic{Topic: t.name, Category: t.category, Merchant: t.merchant, Sample: sample, Templates: all})
	}
	slices.SortFunc(res.GetTopics(), func(a, b *notificationv1.Topic) int { return cmp.Compare(a.GetTopic(), b.GetTopic()) })
	return res, nil
}

// RenderTemplate shows words and stores nothing.
func (s *service) RenderTemplate(_ context.Context, req *notificationv1.RenderTemplateRequest) (*notificationv1.RenderTemplateResponse, error) {
	var f facts
	if req.GetData() != nil {
		doc, err := req.GetData().MarshalJSON()
		if err == nil {
			f, err = readFacts(doc)
		}
		if err != nil {
			return nil, fault.New(connect.CodeInvalidArgument, "DATA_INVALID", "data: is no JSON object")
		}
	}
	r, err := s.dry(req.GetTemplate(), f)
	if err != nil {
		return nil, err
	}
	return &notificationv1.RenderTemplateResponse{Subject: r.subject, Text: r.text, Html: r.html}, nil
}

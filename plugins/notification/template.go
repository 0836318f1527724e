package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	htmltemplate "html/template"
	"io"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
	"time"

	"github.com/entrepot/entrepot/sdk/money"
)

//go:embed templates
var builtIn embed.FS

// words are a topic's templates in one language.
type words struct {
	Language string `json:"language"`
	Subject  string `json:"subject"`
	Text     string `json:"text"`
	// HTML may be empty: it is then made of the text.
	HTML string `json:"html,omitempty"`
}

// facts are what templates see.
type facts map[string]any

// rendered is a message as a recipient gets it.
type rendered struct{ subject, text, html string }

const (
	// maxSubject and maxText bound what a template may make of its facts.
	maxSubject = 300
	maxText    = 64 << 10
)

// house are the module's own words, by topic and language, and samples the
// facts that each topic has.
var house, samples = readHouse()

func readHouse() (map[string]map[string]words, map[string]facts) {
	all := make(map[string]map[string]words)
	for _, language := range []string{"en", "de", "ja"} {
		b, err := builtIn.ReadFile("templates/" + language + ".txt")
		if err != nil {
			panic(err) // embedded above
		}
		for _, one := range strings.Split("\n"+string(b), "\n== ")[1:] {
			name, rest, _ := strings.Cut(one, "\n")
			subject, text, _ := strings.Cut(rest, "\n")
			if all[name] == nil {
				all[name] = make(map[string]words)
			}
			all[name][language] = words{Language: language, Subject: subject, Text: strings.TrimSpace(text) + "\n"}
		}
	}
	b, err := builtIn.ReadFile("templates/samples.json")
	if err != nil {
		panic(err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		panic(err)
	}
	made := make(map[string]facts, len(raw))
	for name, r := range raw {
		if made[name], err = readFacts(r); err != nil {
			panic(err)
		}
	}
	return all, made
}

// readFacts reads JSON so that whole numbers are whole.
func readFacts(b []byte) (facts, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var raw map[string]any
	if err := d.Decode(&raw); err != nil {
		return nil, err
	}
	out, _ := whole(raw).(map[string]any)
	if out == nil {
		out = map[string]any{}
	}
	return out, nil
}

func whole(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err == nil && f == float64(int64(f)) {
			return int64(f) // as protobuf's Struct writes what is large
		}
		return f
	case map[string]any:
		for k, e := range v {
			v[k] = whole(e)
		}
	case []any:
		for i, e := range v {
			v[i] = whole(e)
		}
	}
	return v
}

// render makes a message. marketplace is a fact of every topic.
func (w words) render(marketplace string, f facts) (rendered, error) {
	all := make(facts, len(f)+1)
	for k, v := range f {
		all[k] = v
	}
	all["marketplace"] = marketplace
	var out rendered
	var err error
	if out.subject, err = renderText("subject", w.Language, w.Subject, all, maxSubject); err != nil {
		return out, err
	}
	// A title of goods may hold anything; a subject is one line.
	out.subject = strings.Join(strings.Fields(out.subject), " ")
	if out.text, err = renderText("text", w.Language, w.Text, all, maxText); err != nil {
		return out, err
	}
	if w.HTML == "" {
		out.html = layout(w.Language, out.subject, out.text)
		return out, nil
	}
	out.html, err = renderHTML(w.Language, w.HTML, all)
	return out, err
}

func renderText(name, language, text string, f facts, most int) (string, error) {
	t, err := texttemplate.New(name).Option("missingkey=error").Funcs(functions(language)).Parse(text)
	if err == nil {
		err = plain(t.Tree, len(t.Templates()))
	}
	if err != nil {
		return "", err
	}
	b := &bounded{most: most}
	if err := t.Execute(b, map[string]any(f)); err != nil {
		return "", err
	}
	return b.String(), nil
}

func renderHTML(language, text string, f facts) (string, error) {
	t, err := htmltemplate.New("html").Option("missingkey=error").Funcs(functions(language)).Parse(text)
	if err == nil {
		err = plain(t.Tree, len(t.Templates()))
	}
	if err != nil {
		return "", err
	}
	b := &bounded{most: 4 * maxText}
	if err := t.Execute(b, map[string]any(f)); err != nil {
		return "", err
	}
	return b.String(), nil
}

// bounded is a buffer with an end.
type bounded struct {
	bytes.Buffer
	most int
}

var errLong = errors.New("it makes too long a message")

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, errLong
	}
	return b.Buffer.Write(p)
}

var _ io.Writer = (*bounded)(nil)

// known are the functions that words may use: none that builds long texts, and
// none that leaves HTML's escaping.
var known = map[string]bool{
	"and": true, "or": true, "not": true, "eq": true, "ne": true, "lt": true, "gt": true, "len": true, "index": true, "money": true, "date": true,
}

// plain refuses what words do not need and a queue should not run: templates
// in templates, functions beside those that are known, loops over a number.
func plain(t *parse.Tree, templates int) error {
	if t == nil {
		return errors.New("is empty")
	}
	if templates > 1 {
		return errors.New("define and block are not taken")
	}
	var walk func(parse.Node) error
	list := func(l *parse.ListNode) error {
		if l == nil {
			return nil
		}
		for _, n := range l.Nodes {
			if err := walk(n); err != nil {
				return err
			}
		}
		return nil
	}
	branch := func(b *parse.BranchNode) error { return errors.Join(walk(b.Pipe), list(b.List), list(b.ElseList)) }
	walk = func(n parse.Node) error {
		switch n := n.(type) {
		case *parse.ListNode:
			return list(n)
		case *parse.ActionNode:
			return walk(n.Pipe)
		case *parse.IfNode:
			return branch(&n.BranchNode)
		case *parse.WithNode:
			return branch(&n.BranchNode)
		case *parse.RangeNode:
			for _, c := range n.Pipe.Cmds {
				if len(c.Args) != 1 || !ranges(c.Args[0]) {
					return errors.New("range goes over a fact: {{range .lines}}")
				}
			}
			return branch(&n.BranchNode)
		case *parse.PipeNode:
			for _, c := range n.Cmds {
				for _, a := range c.Args {
					if err := walk(a); err != nil {
						return err
					}
				}
			}
		case *parse.ChainNode:
			return walk(n.Node)
		case *parse.IdentifierNode:
			if !known[n.Ident] {
				return fmt.Errorf("the function %s is not taken", n.Ident)
			}
		case *parse.TemplateNode:
			return errors.New("template is not taken")
		}
		return nil
	}
	return list(t.Root)
}

func ranges(n parse.Node) bool {
	switch n.(type) {
	case *parse.FieldNode, *parse.VariableNode, *parse.DotNode:
		return true
	}
	return false
}

// functions of words in a language.
func functions(language string) map[string]any {
	base, _, _ := strings.Cut(language, "-")
	return map[string]any{
		"money": func(v any) (string, error) { return amount(base, v) },
		"date":  func(v any) (string, error) { return day(base, v) },
	}
}

// amount writes {"currency": ..., "minor": ...} as a language does.
func amount(language string, v any) (string, error) {
	m, _ := v.(map[string]any)
	currency, ok := m["currency"].(string)
	minor, whole := m["minor"].(int64)
	if !ok || !whole {
		return "", errors.New(`money wants {"currency": ..., "minor": ...}`)
	}
	exact, err := money.New(minor, currency)
	if err != nil {
		return "", err
	}
	number, _, _ := strings.Cut(exact.String(), " ")
	group, point := ",", "."
	if language == "de" {
		group, point = ".", ","
	}
	digits, fraction, _ := strings.Cut(strings.TrimPrefix(number, "-"), ".")
	var b strings.Builder
	if strings.HasPrefix(number, "-") {
		b.WriteByte('-')
	}
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteString(group)
		}
		b.WriteRune(d)
	}
	if fraction != "" {
		b.WriteString(point + fraction)
	}
	if language == "de" {
		return b.String() + " " + currency, nil
	}
	return currency + " " + b.String(), nil
}

// day writes an RFC 3339 time as a language writes a day, in UTC.
func day(language string, v any) (string, error) {
	text, _ := v.(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return "", errors.New("date wants a time like 2026-11-23T09:00:00Z")
	}
	form := map[string]string{"de": "02.01.2006", "ja": "2006年1月2日"}[language]
	if form == "" {
		form = "2 January 2006"
	}
	return at.UTC().Format(form), nil
}

// layout is the HTML of a text: its paragraphs, and nothing that is loaded from
// elsewhere.
func layout(language, title, text string) string {
	var b strings.Builder
	b.WriteString(`<!DOCTYPE html><html lang="` + html.EscapeString(language) + `"><head><meta charset="utf-8"><title>` + html.EscapeString(title) +
		`</title></head><body style="font-family:sans-serif;line-height:1.5;max-width:40em;margin:1em auto;padding:0 1em">`)
	for _, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if p = strings.TrimSpace(p); p != "" {
			b.WriteString("<p>" + strings.ReplaceAll(html.EscapeString(p), "\n", "<br>") + "</p>")
		}
	}
	b.WriteString("</body></html>")
	return b.String()
}

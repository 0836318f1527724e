package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryTopicHasWordsInThreeLanguages(t *testing.T) {
	t.Parallel()
	for _, topic := range catalogue {
		for _, language := range []string{"en", "de", "ja"} {
			w, ok := house[topic.name][language]
			require.True(t, ok, "%s in %s", topic.name, language)
			r, err := w.render("Albion", samples[topic.name])
			require.NoError(t, err, "%s in %s", topic.name, language)
			require.NotEmpty(t, strings.TrimSpace(r.subject))
			require.NotEmpty(t, strings.TrimSpace(r.text))
			require.NotContains(t, r.text+r.subject, "<no value>")
			require.Contains(t, r.html, `<html lang="`+language+`">`)
		}
	}
	for name := range house {
		_, ok := topics[name]
		require.True(t, ok, "words of %s, which is no topic", name)
	}
}

func TestWordsSayMoneyAndDaysAsTheirLanguageDoes(t *testing.T) {
	t.Parallel()
	f, err := readFacts([]byte(`{"a": {"currency": "EUR", "minor": 123456789}, "b": {"currency": "JPY", "minor": -1500}, "d": "2026-11-03T23:59:59Z"}`))
	require.NoError(t, err)
	for language, want := range map[string]string{
		"en":    "EUR 1,234,567.89|JPY -1,500|3 November 2026",
		"de-AT": "1.234.567,89 EUR|-1.500 JPY|03.11.2026",
		"ja":    "EUR 1,234,567.89|JPY -1,500|2026年11月3日",
	} {
		r, err := words{Language: language, Subject: "s", Text: "{{money .a}}|{{money .b}}|{{date .d}}"}.render("", f)
		require.NoError(t, err)
		require.Equal(t, want, r.text)
	}
}

func TestWordsThatAQueueShouldNotRunAreRefused(t *testing.T) {
	t.Parallel()
	f := facts{"lines": []any{"a", "b"}, "n": int64(3)}
	for name, text := range map[string]string{
		"a fact that is not there": "{{.nobody}}",
		"an unknown function":      `{{printf "%1000000d" 1}}`,
		"a call":                   "{{call .n}}",
		"escaping left":            `{{.n | html}}`,
		"a template in a template": `{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`,
		"a block":                  `{{block "x" .}}{{end}}`,
		"a loop over a number":     "{{range 1000000000}}{{end}}",
		"a loop over a sum":        "{{range len .lines}}{{end}}",
		"what does not parse":      "{{if}}",
		"a long message":           strings.Repeat(strings.Repeat("{{range .lines}}", 8)+strings.Repeat("x", 500)+strings.Repeat("{{end}}", 8), 2),
	} {
		_, err := words{Language: "en", Subject: "s", Text: text}.render("", f)
		require.Error(t, err, name)
		_, err = words{Language: "en", Subject: "s", Text: "t", HTML: text + text + text + text}.render("", f)
		require.Error(t, err, name+" in HTML")
	}
}

func TestWhatGoodsAreCalledIsNoMarkup(t *testing.T) {
	t.Parallel()
	f := facts{"title": "<script>x</script>\r\nBcc: all@example.com"}
	r, err := words{Language: "en", Subject: "{{.title}}", Text: "{{.title}}"}.render("", f)
	require.NoError(t, err)
	require.NotContains(t, r.html, "<script>")
	require.NotContains(t, r.subject, "\n")
	r, err = words{Language: "en", Subject: "s", Text: "t", HTML: "<p>{{.title}}</p>"}.render("", f)
	require.NoError(t, err)
	require.NotContains(t, r.html, "<script>")
}

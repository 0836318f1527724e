package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
)

const (
	// maxWord is how much of a word counts, in characters.
	maxWord = 40
	// maxWords bounds the words of one listing, and of one query.
	maxWords      = 4000
	maxQueryWords = 20
)

// word is a run of letters and digits, lower case. Scripts that are written
// without spaces give a run of characters instead, which is searched in pairs.
type word struct {
	text   string
	dense  bool
	letter []rune
}

func words(s string) []word {
	var out []word
	var run []rune
	dense := false
	end := func() {
		if len(run) > 0 {
			if !dense && len(run) > maxWord {
				run = run[:maxWord]
			}
			out = append(out, word{text: string(run), dense: dense, letter: run})
		}
		run = nil
	}
	for _, r := range strings.ToLower(s) {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			end()
			continue
		}
		if d := isDense(r); d != dense {
			end()
			dense = d
		}
		run = append(run, r)
	}
	end()
	return out
}

// isDense tells the characters of scripts without spaces between words. The
// prolonged sound mark belongs to no script of its own.
func isDense(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar) || r == 'ー'
}

// terms are what a word is found by: itself, or its pairs of characters and
// its last one.
func (w word) terms() []string {
	if !w.dense {
		return []string{w.text}
	}
	out := make([]string, 0, len(w.letter))
	for i := range len(w.letter) - 1 {
		out = append(out, string(w.letter[i:i+2]))
	}
	return append(out, string(w.letter[len(w.letter)-1]))
}

// document is the tsvector of a listing, written out: title in every
// language, brand, category and attributes, descriptions, weighted A to D.
func document(l *catalogv1.Listing, p *product) string {
	d := &tsvector{at: make(map[string][]string)}
	for _, t := range p.Titles {
		d.add(t.Text, "A")
	}
	d.add(l.GetBrand(), "B")
	d.add(l.GetCategory(), "C")
	d.add(l.GetGtin(), "C")
	for _, name := range slices.Sorted(maps.Keys(l.GetAttributes())) {
		d.add(l.GetAttributes()[name], "C")
	}
	for _, t := range p.Descriptions {
		d.add(t.Text, "D")
	}
	return d.String()
}

type tsvector struct {
	at map[string][]string
	n  int
}

func (d *tsvector) add(s, weight string) {
	for _, w := range words(s) {
		for _, t := range w.terms() {
			if d.n == maxWords {
				return
			}
			d.n++
			d.at[t] = append(d.at[t], strconv.Itoa(d.n)+weight)
		}
	}
}

func (d *tsvector) String() string {
	var b strings.Builder
	for _, t := range slices.Sorted(maps.Keys(d.at)) {
		b.WriteString("'" + t + "':" + strings.Join(d.at[t], ",") + " ")
	}
	return b.String()
}

// tsquery is a query for all words, of which the last may be the beginning of
// one; empty when there are none.
func tsquery(s string) string {
	all := words(s)
	if len(all) > maxQueryWords {
		all = all[:maxQueryWords]
	}
	var out []string
	for i, w := range all {
		terms := w.terms()
		if w.dense && len(terms) > 1 {
			// Inside a text the last character is only part of a pair.
			terms = terms[:len(terms)-1]
		}
		for _, t := range terms {
			t = "'" + t + "'"
			if i == len(all)-1 && !w.dense || w.dense && len(terms) == 1 && len(w.letter) == 1 {
				t += ":*"
			}
			out = append(out, t)
		}
	}
	return strings.Join(out, " & ")
}

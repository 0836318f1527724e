package main

import (
	"encoding/json"
	"fmt"
	"slices"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// document is what an inspector handed in, as it is kept: it can be read
// without this program, and without the checklist of its day.
type document struct {
	Task      string    `json:"task"`
	Case      string    `json:"case,omitempty"`
	Unit      string    `json:"unit,omitempty"`
	SKU       string    `json:"sku,omitempty"`
	GTIN      string    `json:"gtin,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	Inspector string    `json:"inspector"`
	Result    string    `json:"result"`
	Note      string    `json:"note,omitempty"`
	Answers   []answers `json:"answers"`
}

type answers struct {
	Question string   `json:"question"`
	Text     string   `json:"text"`
	Finding  string   `json:"finding"`
	Note     string   `json:"note,omitempty"`
	Photos   []string `json:"photos,omitempty"`
}

// maxPhotos is of one checklist: each is looked for.
const maxPhotos = 20

// fill answers the questions, each once and all of them. The photos are each
// named once.
func fill(questions []*benchv1.Question, given []*benchv1.Answer) (filled []answers, photos []string, err error) {
	byID := make(map[string]*benchv1.Answer, len(given))
	for i, a := range given {
		field := fmt.Sprintf("answers[%d].question_id", i)
		if byID[a.GetQuestionId()] != nil {
			return nil, nil, fault.Field(field, "is answered twice")
		}
		if !slices.ContainsFunc(questions, func(q *benchv1.Question) bool { return q.GetId() == a.GetQuestionId() }) {
			return nil, nil, fault.Field(field, "is no question of this task")
		}
		byID[a.GetQuestionId()] = a
	}
	for _, q := range questions {
		a := byID[q.GetId()]
		switch {
		case a == nil:
			return nil, nil, fault.Field("answers", "the question "+q.GetId()+" is not answered")
		case q.GetPhoto() && len(a.GetBlobIds()) == 0:
			return nil, nil, fault.Field("answers", "the question "+q.GetId()+" wants a photo")
		}
		filled = append(filled, answers{Question: q.GetId(), Text: q.GetText(), Finding: a.GetFinding().String(), Note: a.GetNote(), Photos: a.GetBlobIds()})
		for _, p := range a.GetBlobIds() {
			if !slices.Contains(photos, p) {
				photos = append(photos, p)
			}
		}
	}
	if len(photos) > maxPhotos {
		return nil, nil, fault.Field("answers", fmt.Sprintf("at most %d photos", maxPhotos))
	}
	return filled, photos, nil
}

// read puts a kept document into a checklist.
func read(content []byte, into *benchv1.Checklist) error {
	var d document
	if err := json.Unmarshal(content, &d); err != nil {
		return fmt.Errorf("checklist: %w", err)
	}
	into.Note = d.Note
	for _, a := range d.Answers {
		into.Answers = append(into.Answers, &benchv1.Answer{
			QuestionId: a.Question, Finding: benchv1.Answer_Finding(benchv1.Answer_Finding_value[a.Finding]), Note: a.Note, BlobIds: a.Photos,
		})
	}
	return nil
}

func (t *task) document(id, inspector string, result providerv1.Result, note string, filled []answers) ([]byte, error) {
	return json.Marshal(document{
		Task: id, Case: t.Case, Unit: t.Unit, SKU: t.SKU, GTIN: t.GTIN, Serial: t.Serial,
		Inspector: inspector, Result: result.String(), Note: note, Answers: filled,
	})
}

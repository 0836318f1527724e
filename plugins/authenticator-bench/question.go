package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// settings are an instance's configuration; the manifest describes it.
type settings struct {
	Checklist []string `json:"checklist"`
}

// usual is asked where the operator says nothing.
var usual = []string{
	"packaging|Packaging, seals and printing are the manufacturer's|photo",
	"markings|Logos, labels and engravings are sharp and in their place|photo",
	"serial|The serial on the goods is the one they are presented under",
	"material|Material, weight and finish are as they should be",
	"function|Everything that moves, lights up or closes does so",
	"condition|The goods are whole and unused|photo",
}

// checklists are questions by category; "" is of those that have none.
type checklists map[string][]*benchv1.Question

const (
	// maxQuestions is of one list: what a submission may answer.
	maxQuestions = 100
	maxText      = 300
)

var questionID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// readChecklists reads the configuration.
func readChecklists(lines []string) (checklists, error) {
	all := make(checklists)
	for _, l := range lines {
		category := ""
		if before, after, ok := strings.Cut(l, "="); ok && !strings.Contains(before, "|") {
			category, l = strings.Trim(before, "/"), after
		}
		f := strings.Split(l, "|")
		switch {
		case len(f) < 2 || len(f) > 3 || len(f) == 3 && f[2] != "photo":
			return nil, fmt.Errorf("%q is no question; write \"id|text\" or \"id|text|photo\"", l)
		case !questionID.MatchString(f[0]):
			return nil, fmt.Errorf("%q: an id is of small letters, digits and -", l)
		case f[1] == "" || len(f[1]) > maxText:
			return nil, fmt.Errorf("%q: a text has 1 to %d characters", l, maxText)
		case len(all[category]) == maxQuestions:
			return nil, fmt.Errorf("more than %d questions in one list", maxQuestions)
		}
		for _, q := range all[category] {
			if q.GetId() == f[0] {
				return nil, fmt.Errorf("%q: the id stands twice in its list", l)
			}
		}
		all[category] = append(all[category], &benchv1.Question{Id: f[0], Text: f[1], Photo: len(f) == 3})
	}
	if len(all[""]) > 0 {
		return all, nil
	}
	rest, err := readChecklists(usual)
	if err != nil {
		return nil, err
	}
	all[""] = rest[""]
	return all, nil
}

// of are the questions of a category: of its longest prefix, by whole parts of
// the path, that has a list.
func (c checklists) of(category string) []*benchv1.Question {
	for category = strings.Trim(category, "/"); category != ""; {
		if list := c[category]; list != nil {
			return list
		}
		category = category[:max(strings.LastIndexByte(category, '/'), 0)]
	}
	return c[""]
}

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) []*pluginv1.Diagnostic {
	var s settings
	var err error
	if len(config) > 0 {
		err = json.Unmarshal(config, &s)
	}
	if err == nil {
		_, err = readChecklists(s.Checklist)
	}
	if err == nil {
		return nil
	}
	return []*pluginv1.Diagnostic{{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: "checklist", Message: err.Error()}}
}

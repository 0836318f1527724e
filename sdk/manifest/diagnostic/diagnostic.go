// Package diagnostic is what is wrong with a file a person wrote: where, what,
// and what to write instead, one line each.
package diagnostic

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Finding is one thing that is wrong.
type Finding struct {
	Range hcl.Range
	// What is wrong, then the remedy, as sentences without a final newline.
	What   string
	Remedy string
}

// String is "file:line:column: what. Remedy."
func (f Finding) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", f.Range.Filename, f.Range.Start.Line, f.Range.Start.Column, sentence(f.What))
	if f.Remedy != "" {
		s += " " + sentence(f.Remedy)
	}
	return s
}

func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsRune(".?!", rune(s[len(s)-1])) {
		return s
	}
	return s + "."
}

// List collects findings. The zero value is empty and ready. As an error it
// reads one finding a line, in the order of the file.
type List []Finding

// Add adds a finding.
func (l *List) Add(at hcl.Range, what, remedy string, args ...any) {
	*l = append(*l, Finding{Range: at, What: what, Remedy: fmt.Sprintf(remedy, args...)})
}

// AddHCL adds what the parser found.
func (l *List) AddHCL(diags hcl.Diagnostics) {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		f := Finding{What: d.Summary, Remedy: d.Detail}
		if d.Subject != nil {
			f.Range = *d.Subject
		}
		*l = append(*l, f)
	}
}

// Err is the list as an error, nil when it is empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	slices.SortStableFunc(l, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Range.Filename, b.Range.Filename), cmp.Compare(a.Range.Start.Byte, b.Range.Start.Byte))
	})
	return l
}

// Error implements error.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, f := range l {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

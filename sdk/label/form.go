package label

import (
	"fmt"
	"slices"

	"github.com/go-pdf/fpdf"
)

// Form is a document of fields and a table, on A4.
type Form struct {
	Title, Subtitle string
	Fields          []Field
	// Columns of the table, with their share of the width, and its rows.
	Columns []Column
	Rows    [][]string
	// Totals stand below the table.
	Totals []Field
	// Signature is a line with a name and a date below it; empty is none.
	Signature string
	Codes     []Code
}

// Field is a named value; long ones are broken into lines.
type Field struct{ Name, Value string }

// Column of a form's table.
type Column struct {
	Name  string
	Share float64
	Right bool
}

const (
	formMargin, formWidth = 15.0, 180.0
	formBottom            = 280.0
	maxRows               = 2000
)

// PDF draws the form, on as many pages as its rows want.
func (f *Form) PDF() ([]byte, error) {
	if len(f.Rows) > maxRows || len(f.Fields) > 60 || len(f.Codes) > maxCodes {
		return nil, fmt.Errorf("form: %d rows, %d fields: %w", len(f.Rows), len(f.Fields), ErrTooMuch)
	}
	pdf := newSheet(fpdf.SizeType{Wd: 210, Ht: 297}, f.texts())
	pdf.SetMargins(formMargin, formMargin, formMargin)
	pdf.AddPage()
	pdf.font("B", 16)
	pdf.CellFormat(formWidth, 8, fit(pdf, f.Title, formWidth), "", 1, "L", false, 0, "")
	pdf.font("", 9)
	pdf.CellFormat(formWidth, 5, fit(pdf, f.Subtitle, formWidth), "B", 1, "L", false, 0, "")
	pdf.Ln(2)
	for i, c := range f.Codes {
		bottom := pdf.GetY() + 24
		if c.Symbology == QR {
			bottom += 8
		}
		if _, err := drawCode(pdf, c, fmt.Sprintf("form-%d", i), bottom); err != nil {
			return nil, fmt.Errorf("form: %w", err)
		}
		pdf.SetY(bottom + 1)
	}
	for _, v := range f.Fields {
		f.field(pdf, v)
	}
	pdf.Ln(2)
	f.table(pdf)
	pdf.Ln(2)
	for _, v := range f.Totals {
		f.field(pdf, v)
	}
	if f.Signature != "" {
		room(pdf, 20)
		pdf.Ln(10)
		pdf.font("", 8)
		pdf.MultiCell(formWidth, 4, pdf.set(f.Signature), "T", "L", false)
	}
	return pdf.output()
}

func (f *Form) texts() []string {
	texts := []string{f.Title, f.Subtitle, f.Signature}
	for _, v := range slices.Concat(f.Fields, f.Totals) {
		texts = append(texts, v.Name, v.Value)
	}
	for _, c := range f.Columns {
		texts = append(texts, c.Name)
	}
	for _, r := range f.Rows {
		texts = append(texts, r...)
	}
	for _, c := range f.Codes {
		texts = append(texts, c.Text)
	}
	return texts
}

func room(pdf *sheet, mm float64) {
	if pdf.GetY()+mm > formBottom {
		pdf.AddPage()
	}
}

func (f *Form) field(pdf *sheet, v Field) {
	room(pdf, 10)
	pdf.font("", 7)
	y := pdf.GetY()
	pdf.CellFormat(50, 4.5, fit(pdf, v.Name, 50), "", 0, "L", false, 0, "")
	pdf.font("", 9)
	pdf.SetXY(formMargin+50, y)
	pdf.MultiCell(formWidth-50, 4.5, pdf.set(v.Value), "", "L", false)
}

func (f *Form) table(pdf *sheet) {
	var all float64
	for _, c := range f.Columns {
		all += c.Share
	}
	row := func(style string, cells func(i int) string) {
		room(pdf, 5)
		pdf.font(style, 8)
		for i, c := range f.Columns {
			w, align := formWidth*c.Share/all, "L"
			if c.Right {
				align = "R"
			}
			pdf.CellFormat(w, 5, fit(pdf, cells(i), w), "1", 0, align, false, 0, "")
		}
		pdf.Ln(5)
	}
	if len(f.Columns) == 0 {
		return
	}
	row("B", func(i int) string { return f.Columns[i].Name })
	for _, cells := range f.Rows {
		row("", func(i int) string {
			if i < len(cells) {
				return cells[i]
			}
			return ""
		})
	}
}

package label

import (
	"fmt"

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
	pdf := newPDF(fpdf.SizeType{Wd: 210, Ht: 297})
	pdf.SetMargins(formMargin, formMargin, formMargin)
	pdf.AddPage()
	pdf.SetFont("go", "B", 16)
	pdf.CellFormat(formWidth, 8, fit(pdf, f.Title, formWidth), "", 1, "L", false, 0, "")
	pdf.SetFont("go", "", 9)
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
		pdf.SetFont("go", "", 8)
		pdf.MultiCell(formWidth, 4, f.Signature, "T", "L", false)
	}
	return output(pdf)
}

func room(pdf *fpdf.Fpdf, mm float64) {
	if pdf.GetY()+mm > formBottom {
		pdf.AddPage()
	}
}

func (f *Form) field(pdf *fpdf.Fpdf, v Field) {
	room(pdf, 10)
	pdf.SetFont("go", "", 7)
	y := pdf.GetY()
	pdf.CellFormat(50, 4.5, fit(pdf, v.Name, 50), "", 0, "L", false, 0, "")
	pdf.SetFont("go", "", 9)
	pdf.SetXY(formMargin+50, y)
	pdf.MultiCell(formWidth-50, 4.5, v.Value, "", "L", false)
}

func (f *Form) table(pdf *fpdf.Fpdf) {
	var all float64
	for _, c := range f.Columns {
		all += c.Share
	}
	row := func(style string, cells func(i int) string) {
		room(pdf, 5)
		pdf.SetFont("go", style, 8)
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

// Package label draws what is stuck on goods and put beside them: parcel and
// logistic labels, and forms, as PDF and, for label printers, as ZPL II. What it
// draws shows the same for the same input, so that a document can be drawn again
// instead of kept; ZPL is the same bytes, PDF is not: the glyphs of its font
// stand in any order.
//
// Text that Windows-1252 cannot hold is set in a face with Latin, Greek and Cyrillic letters: international
// mail is addressed in Latin script (UPU Convention Manual, 17-107.3). A letter
// that the face lacks is drawn as a box, visibly.
package label

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"time"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/code128"
	"github.com/boombuler/barcode/qr"
	"github.com/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/text/encoding/charmap"
)

// Media types of what is drawn.
const (
	MediaPDF = "application/pdf"
	MediaZPL = "application/zpl"
)

// Symbology is a kind of barcode.
type Symbology int

// Symbologies.
const (
	// Code128 carries ASCII.
	Code128 Symbology = iota
	// GS1128 carries element strings in brackets: "(00)106141411234567897".
	// Elements of a predefined length need no separator; of others only the
	// last may be (GS1 General Specifications 7.8.5).
	GS1128
	// QR carries any text, with error correction M.
	QR
)

// Code is a barcode with the text that stands below it; empty is none.
type Code struct {
	Symbology  Symbology
	Data, Text string
}

// Block is some lines under a small heading.
type Block struct {
	Heading string
	Lines   []string
}

// Label is one label of 105 by 148 mm (A6).
type Label struct {
	// Title stands on top, large: the carrier or the service.
	Title  string
	Blocks []Block
	Codes  []Code
	// Foot is a line at the bottom.
	Foot string
}

// Bounds of what is drawn: what does not fit is refused, never cut off
// silently.
const (
	maxBlocks = 8
	maxLines  = 8
	maxCodes  = 3
	maxText   = 200
)

// ErrTooMuch is wrapped by errors about what does not fit on a label.
var ErrTooMuch = errors.New("does not fit on the label")

func (l *Label) check() error {
	if len(l.Blocks) > maxBlocks || len(l.Codes) > maxCodes {
		return fmt.Errorf("%d blocks and %d codes: %w", len(l.Blocks), len(l.Codes), ErrTooMuch)
	}
	for _, b := range l.Blocks {
		if len(b.Lines) > maxLines {
			return fmt.Errorf("%q has %d lines: %w", b.Heading, len(b.Lines), ErrTooMuch)
		}
	}
	for _, t := range l.texts() {
		if len(t) > maxText || strings.ContainsAny(t, "\n\r\x00") {
			return fmt.Errorf("text of %d bytes, or with line breaks: %w", len(t), ErrTooMuch)
		}
	}
	return nil
}

// texts are everything that is written on it.
func (l *Label) texts() []string {
	texts := []string{l.Title, l.Foot}
	for _, b := range l.Blocks {
		texts = append(append(texts, b.Heading), b.Lines...)
	}
	for _, c := range l.Codes {
		texts = append(texts, c.Data, c.Text)
	}
	return texts
}

// epoch dates every document: when it was drawn says nothing.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// sheet is a document being drawn. Where all of its text is in Windows-1252 it
// is set in a face that every reader has: to embed one costs fifty times the
// drawing.
type sheet struct {
	*fpdf.Fpdf
	face string
	// set makes a text fit for the face.
	set func(string) string
}

func newSheet(size fpdf.SizeType, texts []string) *sheet {
	pdf := fpdf.NewCustom(&fpdf.InitType{UnitStr: "mm", Size: size})
	pdf.SetCreationDate(epoch)
	pdf.SetModificationDate(epoch)
	pdf.SetCatalogSort(true)
	pdf.SetAutoPageBreak(false, 0)
	for _, t := range texts {
		if _, err := charmap.Windows1252.NewEncoder().String(t); err != nil {
			pdf.AddUTF8FontFromBytes("go", "", goregular.TTF)
			pdf.AddUTF8FontFromBytes("go", "B", gobold.TTF)
			return &sheet{pdf, "go", func(s string) string { return s }}
		}
	}
	return &sheet{pdf, "Helvetica", func(s string) string {
		out, _ := charmap.Windows1252.NewEncoder().String(s) // looked at above
		return out
	}}
}

func (s *sheet) font(style string, size float64) { s.SetFont(s.face, style, size) }

func (s *sheet) output() ([]byte, error) {
	var b bytes.Buffer
	if err := s.Output(&b); err != nil {
		return nil, fmt.Errorf("label: %w", err)
	}
	return b.Bytes(), nil
}

// PDF draws labels, one a page.
func PDF(labels ...Label) ([]byte, error) {
	if len(labels) == 0 || len(labels) > 100 {
		return nil, fmt.Errorf("label: %d pages: %w", len(labels), ErrTooMuch)
	}
	var texts []string
	for i := range labels {
		if err := labels[i].check(); err != nil {
			return nil, fmt.Errorf("label: %w", err)
		}
		texts = append(texts, labels[i].texts()...)
	}
	pdf := newSheet(fpdf.SizeType{Wd: 105, Ht: 148}, texts)
	for i := range labels {
		if err := page(pdf, &labels[i], i); err != nil {
			return nil, fmt.Errorf("label: %w", err)
		}
	}
	return pdf.output()
}

const margin, width = 5.0, 95.0

func page(pdf *sheet, l *Label, n int) error {
	pdf.AddPage()
	pdf.font("B", 14)
	pdf.SetXY(margin, margin)
	pdf.CellFormat(width, 7, fit(pdf, l.Title, width), "B", 1, "L", false, 0, "")
	y := margin + 9
	for _, b := range l.Blocks {
		pdf.SetXY(margin, y)
		pdf.font("", 6)
		pdf.CellFormat(width, 3, fit(pdf, b.Heading, width), "", 1, "L", false, 0, "")
		y += 3
		pdf.font("", 10)
		for _, line := range b.Lines {
			pdf.SetXY(margin, y)
			pdf.CellFormat(width, 4.4, fit(pdf, line, width), "", 1, "L", false, 0, "")
			y += 4.4
		}
		y += 1.5
	}
	// Codes stand from the bottom up, so that they are where scanners look.
	bottom := 148 - margin
	if l.Foot != "" {
		pdf.font("", 6)
		pdf.SetXY(margin, bottom-3)
		pdf.CellFormat(width, 3, fit(pdf, l.Foot, width), "", 1, "L", false, 0, "")
		bottom -= 4
	}
	for i := len(l.Codes) - 1; i >= 0; i-- {
		var err error
		if bottom, err = drawCode(pdf, l.Codes[i], fmt.Sprintf("code-%d-%d", n, i), bottom); err != nil {
			return err
		}
	}
	if y > bottom {
		return fmt.Errorf("%.0f mm of text and codes: %w", y-bottom+148, ErrTooMuch)
	}
	return nil
}

// drawCode draws a code with its text ending at bottom and answers where what
// is above it must end.
func drawCode(pdf *sheet, c Code, name string, bottom float64) (float64, error) {
	if c.Text != "" {
		pdf.font("", 9)
		pdf.SetXY(margin, bottom-4)
		pdf.CellFormat(width, 4, fit(pdf, c.Text, width), "", 1, "C", false, 0, "")
		bottom -= 4.5
	}
	w, h := 85.0, 18.0
	if c.Symbology == QR {
		w, h = 26, 26
	}
	img, err := picture(c)
	if err != nil {
		return 0, err
	}
	pdf.RegisterImageOptionsReader(name, fpdf.ImageOptions{ImageType: "PNG"}, bytes.NewReader(img))
	pdf.ImageOptions(name, margin+(width-w)/2, bottom-h, w, h, false, fpdf.ImageOptions{ImageType: "PNG"}, 0, "")
	return bottom - h - 2, pdf.Error()
}

// fit shortens a text visibly to a width.
func fit(pdf *sheet, s string, w float64) string {
	if pdf.GetStringWidth(pdf.set(s)) <= w-2 {
		return pdf.set(s)
	}
	r := []rune(s)
	for len(r) > 0 && pdf.GetStringWidth(pdf.set(string(r)+"…")) > w-2 {
		r = r[:len(r)-1]
	}
	return pdf.set(string(r) + "…")
}

// picture draws a code as PNG, in whole pixels for each module, with its quiet
// zone. Bars are as low as a reader of pictures wants them: a document stretches
// them.
func picture(c Code) ([]byte, error) {
	code, err := encode(c)
	if err != nil {
		return nil, fmt.Errorf("code %q: %w", c.Data, err)
	}
	scale, quiet, rows := 2, 10, 12
	if c.Symbology == QR {
		scale, quiet, rows = 4, 4, 0
	}
	b := code.Bounds()
	w, h := (b.Dx()+2*quiet)*scale, rows
	if rows == 0 {
		h = (b.Dy() + 2*quiet) * scale
	}
	img := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.White, color.Black})
	for y := range h {
		from := b.Min.Y
		if rows == 0 {
			from += y/scale - quiet
		}
		for x := range w {
			at := image.Pt(b.Min.X+x/scale-quiet, from)
			if at.In(b) && code.At(at.X, at.Y) == color.Black {
				img.Pix[y*img.Stride+x] = 1
			}
		}
	}
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&out, img)
	return out.Bytes(), err
}

func encode(c Code) (barcode.Barcode, error) {
	if c.Data == "" {
		return nil, errors.New("nothing to encode")
	}
	switch c.Symbology {
	case QR:
		return qr.Encode(c.Data, qr.M, qr.Auto)
	case GS1128:
		data, err := elements(c.Data)
		if err != nil {
			return nil, err
		}
		return code128.Encode(string(code128.FNC1) + data)
	default:
		return code128.Encode(c.Data)
	}
}

// elements takes the brackets off element strings.
func elements(s string) (string, error) {
	if !strings.HasPrefix(s, "(") || strings.Count(s, "(") != strings.Count(s, ")") {
		return "", errors.New("want element strings like (00)106141411234567897")
	}
	return strings.NewReplacer("(", "", ")", "").Replace(s), nil
}

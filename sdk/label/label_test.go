package label

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/oned"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/stretchr/testify/require"
)

var parcel = Label{
	Title: "Post · Priority",
	Blocks: []Block{
		{Heading: "FROM", Lines: []string{"Albion Gifts", "1 Quay Street", "LONDON E1 6AN", "GREAT BRITAIN"}},
		{Heading: "TO", Lines: []string{"Jürgen Groß", "Straße des 17. Juni 1", "10623 BERLIN", "GERMANY"}},
	},
	Codes: []Code{
		{Symbology: QR, Data: "https://id.example/01/04006381333931/21/A1"},
		{Symbology: Code128, Data: "RB123456785GB", Text: "RB 123 456 785 GB"},
		{Symbology: GS1128, Data: "(00)106141411234567897", Text: "(00) 1 0614141 123456789 7"},
	},
}

func TestCodesAreReadBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code   Code
		reader gozxing.Reader
		want   string
	}{
		"Code 128": {Code{Symbology: Code128, Data: "RB123456785GB"}, oned.NewCode128Reader(), "RB123456785GB"},
		"GS1-128":  {Code{Symbology: GS1128, Data: "(00)106141411234567897"}, oned.NewCode128Reader(), "00106141411234567897"},
		"QR":       {Code{Symbology: QR, Data: "https://id.example/01/04006381333931/21/A1"}, qrcode.NewQRCodeReader(), "https://id.example/01/04006381333931/21/A1"},
	} {
		b, err := picture(c.code)
		require.NoError(t, err, name)
		img, err := png.Decode(bytes.NewReader(b))
		require.NoError(t, err, name)
		require.Equal(t, c.want, read(t, img, c.reader), name)
	}
	for _, bad := range []Code{{}, {Symbology: GS1128, Data: "00106"}, {Symbology: Code128, Data: "日本"}} {
		_, err := picture(bad)
		require.Error(t, err, bad.Data)
	}
}

func read(t *testing.T, img image.Image, r gozxing.Reader) string {
	t.Helper()
	bmp, err := gozxing.NewBinaryBitmapFromImage(img)
	require.NoError(t, err)
	res, err := r.Decode(bmp, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	require.NoError(t, err)
	return strings.TrimLeft(res.GetText(), "\x1d")
}

func TestAnIndependentReaderReadsTheLabel(t *testing.T) {
	t.Parallel()
	b, err := PDF(parcel)
	require.NoError(t, err)
	text := run(t, b, "pdftotext", "-layout", "{}", "-")
	for _, s := range []string{"Jürgen Groß", "Straße des 17. Juni 1", "RB 123 456 785 GB"} {
		require.Contains(t, text, s)
	}
	codes := scan(t, b)
	for _, c := range []string{"RB123456785GB", "00106141411234567897", "https://id.example/01/04006381333931/21/A1"} {
		require.Contains(t, codes, c)
	}
}

// scan reads every barcode of a PDF's first page as a scanner would.
func scan(t *testing.T, pdf []byte) string {
	t.Helper()
	dir := t.TempDir()
	run(t, pdf, "pdftoppm", "-r", "200", "-png", "-f", "1", "-l", "1", "{}", filepath.Join(dir, "page"))
	pages, err := filepath.Glob(filepath.Join(dir, "page*.png"))
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	return run(t, nil, "zbarimg", "-q", "--raw", pages[0])
}

// run gives a document to a program of the machine.
func run(t *testing.T, doc []byte, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not on this machine: scripts/setup-readers installs it", program)
	}
	path := filepath.Join(t.TempDir(), "doc.pdf")
	require.NoError(t, os.WriteFile(path, doc, 0o600))
	for i, a := range args {
		if a == "{}" {
			args[i] = path
		}
	}
	out, err := exec.Command(program, args...).Output()
	require.NoError(t, err)
	return string(out)
}

// What Windows-1252 does not have is set in a face of the document's own.
func TestLettersOfOtherScriptsAreDrawn(t *testing.T) {
	t.Parallel()
	b, err := PDF(Label{Title: "Ταχυδρομείο", Blocks: []Block{{Heading: "КОМУ", Lines: []string{"Łódź, Ełk"}}}, Codes: parcel.Codes[1:2]})
	require.NoError(t, err)
	text := run(t, b, "pdftotext", "-layout", "{}", "-")
	for _, s := range []string{"Ταχυδρομείο", "КОМУ", "Łódź, Ełk"} {
		require.Contains(t, text, s)
	}
}

func BenchmarkPDF(b *testing.B) {
	for b.Loop() {
		if _, err := PDF(parcel); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTheSameLabelIsDrawnTheSame(t *testing.T) {
	t.Parallel()
	var zpl, text [2]string
	for i := range zpl {
		b, err := ZPL(parcel, parcel)
		require.NoError(t, err)
		zpl[i] = string(b)
		b, err = PDF(parcel, parcel)
		require.NoError(t, err)
		text[i] = run(t, b, "pdftotext", "-layout", "{}", "-")
	}
	require.Equal(t, zpl[0], zpl[1])
	require.Equal(t, text[0], text[1])
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	lines := func(n int) []string { return strings.Fields(strings.Repeat("x ", n)) }
	for name, l := range map[string]Label{
		"lines":      {Blocks: []Block{{Lines: lines(9)}}},
		"blocks":     {Blocks: make([]Block, 9)},
		"codes":      {Codes: make([]Code, 4)},
		"long text":  {Title: strings.Repeat("x", 201)},
		"line break": {Title: "a\nb"},
		"height":     {Blocks: []Block{{Lines: lines(8)}, {Lines: lines(8)}, {Lines: lines(8)}, {Lines: lines(8)}}, Codes: parcel.Codes},
	} {
		_, err := PDF(l)
		require.ErrorIs(t, err, ErrTooMuch, name)
		_, err = ZPL(l)
		require.ErrorIs(t, err, ErrTooMuch, name)
	}
}

// What people write cannot become a command of the printer.
func TestZPLHoldsTextAsText(t *testing.T) {
	t.Parallel()
	l := parcel
	l.Title = "^XZ~JA_"
	b, err := ZPL(l)
	require.NoError(t, err)
	s := string(b)
	require.True(t, strings.HasPrefix(s, "^XA") && strings.HasSuffix(s, "^XZ\n"))
	require.Equal(t, 1, strings.Count(s, "^XZ"))
	require.NotContains(t, s, "~")
	require.Contains(t, s, "^FD_5EXZ_7EJA_5F^FS")
	require.Contains(t, s, "^FD>;>800106141411234567897^FS")
	require.Contains(t, s, "Jürgen Groß")
}

func TestAFormGoesOnOverPages(t *testing.T) {
	t.Parallel()
	f := Form{
		Title: "CN 23", Subtitle: "Customs declaration", Fields: []Field{{"Sender", "Albion Gifts, London"}},
		Columns: []Column{{Name: "Description", Share: 3}, {Name: "Value", Share: 1, Right: true}}, Totals: []Field{{"Total value", "GBP 12.99"}},
		Signature: "Date and sender's signature", Codes: []Code{{Symbology: Code128, Data: "CP123456785GB", Text: "CP 123 456 785 GB"}},
	}
	for range 120 {
		f.Rows = append(f.Rows, []string{"Ceramic cup", "GBP 4.99"})
	}
	b, err := f.PDF()
	require.NoError(t, err)
	text := run(t, b, "pdftotext", "-layout", "{}", "-")
	require.Equal(t, 120, strings.Count(text, "Ceramic cup"))
	require.Contains(t, text, "Total value")
	require.Contains(t, scan(t, b), "CP123456785GB")
	f.Rows = make([][]string, maxRows+1)
	_, err = f.PDF()
	require.ErrorIs(t, err, ErrTooMuch)
}

package carriertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
)

// papers are demands on labels and forms.
var papers = []check{
	{"book", "draws a label that others can read", labels},
	{"label-zpl", "draws labels for label printers", zplLabels},
	{"customs-data", "draws forms that others can read", forms},
}

// document is one of a booking's papers; nil where there is none.
func document(b *providerv1.Booking, name string) *providerv1.Document {
	for _, d := range b.GetDocuments() {
		if d.GetName() == name {
			return d
		}
	}
	return nil
}

// labels requires a page for each parcel, whose number a scanner reads, with
// both addresses.
func labels(ctx context.Context, k *kit) error {
	b, err := k.booked(ctx)
	if err != nil {
		return err
	}
	d := document(b, "label-pdf")
	if d == nil || d.GetMediaType() != "application/pdf" {
		return errors.New("there is no label-pdf")
	}
	text, codes, err := Read(ctx, d.GetContent())
	if err != nil {
		return err
	}
	for parcel, number := range b.GetTrackingNumbers() {
		if !strings.Contains(codes, number) {
			return fmt.Errorf("parcel %s: no code of its label says %s: %s", parcel, number, codes)
		}
	}
	for _, want := range []string{sender, addressee, "E1 6AN"} {
		if n := strings.Count(text, want); n < len(b.GetTrackingNumbers()) {
			return fmt.Errorf("%q stands %d times on the labels of %d parcels", want, n, len(b.GetTrackingNumbers()))
		}
	}
	return nil
}

func zplLabels(ctx context.Context, k *kit) error {
	b, err := k.booked(ctx)
	if err != nil {
		return err
	}
	d := document(b, "label-zpl")
	if d == nil {
		return errors.New("there is no label-zpl")
	}
	zpl := string(d.GetContent())
	if n := len(b.GetTrackingNumbers()); strings.Count(zpl, "^XA") != n || strings.Count(zpl, "^XZ") != n {
		return fmt.Errorf("%d formats begin and %d end for %d parcels", strings.Count(zpl, "^XA"), strings.Count(zpl, "^XZ"), n)
	}
	for parcel, number := range b.GetTrackingNumbers() {
		if !strings.Contains(zpl, number) {
			return fmt.Errorf("parcel %s: %s is not on its label", parcel, number)
		}
	}
	return nil
}

// forms requires, of a carrier that draws customs forms itself, what a customs
// office reads on them. One that sends the data as data has none.
func forms(ctx context.Context, k *kit) error {
	b, err := k.book(ctx, k.booking(true))
	if err != nil {
		return err
	}
	for _, d := range b.GetDocuments() {
		if !strings.HasPrefix(d.GetName(), "cn") {
			continue
		}
		text, codes, err := Read(ctx, d.GetContent())
		if err != nil {
			return err
		}
		text = strings.Join(strings.Fields(text), " ")
		for _, want := range []string{"Sale of goods", "Ceramic cup", "691200", "CN", "19.98"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("%s does not say %q: %s", d.GetName(), want, text)
			}
		}
		if strings.Contains(text, "IM3720000224") {
			return fmt.Errorf("%s prints the IOSS number, which is sent as data and never printed", d.GetName())
		}
		read := false
		for _, number := range b.GetTrackingNumbers() {
			read = read || strings.Contains(codes, number)
		}
		if !read {
			return fmt.Errorf("%s: no code names a parcel: %s", d.GetName(), codes)
		}
	}
	return nil
}

// Read reads a PDF with programs that have nothing to do with who drew it: its
// text (poppler) and every bar code of every page (zbar).
func Read(ctx context.Context, pdf []byte) (text, codes string, err error) {
	for _, program := range []string{"pdftotext", "pdftoppm", "zbarimg"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", "", fmt.Errorf("%s: %w", program, ErrNoReader)
		}
	}
	dir, err := os.MkdirTemp("", "paper")
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "paper.pdf")
	if err := os.WriteFile(file, pdf, 0o600); err != nil {
		return "", "", err
	}
	if text, err = said(ctx, "pdftotext", "-layout", file, "-"); err != nil {
		return "", "", err
	}
	if _, err := said(ctx, "pdftoppm", "-r", "200", "-png", file, filepath.Join(dir, "page")); err != nil {
		return "", "", err
	}
	pages, err := filepath.Glob(filepath.Join(dir, "page*.png"))
	if err != nil || len(pages) == 0 {
		return "", "", errors.Join(err, errors.New("the document has no page"))
	}
	codes, err = said(ctx, "zbarimg", append([]string{"-q", "--raw"}, pages...)...)
	return text, codes, err
}

func said(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, trouble.String())
	}
	return string(out), nil
}

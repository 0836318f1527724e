package blob

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/image/webp"

	"github.com/entrepot/entrepot/sdk/fault"
)

// types are the media types that are kept, each with what tells whether
// content is of it. None of them is one that a browser runs scripts of.
var types = map[string]func(content []byte) error{
	"image/jpeg":       picture(jpeg.DecodeConfig),
	"image/png":        picture(png.DecodeConfig),
	"image/webp":       picture(webp.DecodeConfig),
	"application/pdf":  isPDF,
	"application/json": isJSON,
	"application/xml":  isXML,
	"application/zpl":  isZPL,
	"application/zip":  isZIP,
	"text/plain":       isText,
	"text/csv":         isText,
}

// check tells whether content is of the media type that it is said to be.
func check(mediaType string, content []byte) error {
	is, err := kind(mediaType)
	switch {
	case err != nil:
		return err
	case len(content) == 0:
		return fault.Field("content", "is empty")
	case len(content) > MaxBytes:
		return fault.Field("content", fmt.Sprintf("is larger than %d bytes", MaxBytes))
	}
	if err := is(content); err != nil {
		return fault.Field("media_type", "the content is no "+mediaType+": "+err.Error())
	}
	return nil
}

func kind(mediaType string) (func([]byte) error, error) {
	is := types[mediaType]
	if is == nil {
		return nil, fault.Field("media_type", "is none of "+strings.Join(slices.Sorted(maps.Keys(types)), ", "))
	}
	return is, nil
}

// maxSide and maxPixels bound what decoding a picture may cost whoever does.
const (
	maxSide   = 20_000
	maxPixels = 100_000_000
)

// picture reads a picture's head, never its pixels.
func picture(head func(io.Reader) (image.Config, error)) func([]byte) error {
	return func(content []byte) error {
		c, err := head(bytes.NewReader(content))
		switch {
		case err != nil:
			return errors.New("it does not begin like one")
		case c.Width < 1 || c.Height < 1:
			return errors.New("it has no size")
		case c.Width > maxSide || c.Height > maxSide || c.Width*c.Height > maxPixels:
			return fmt.Errorf("its sides are %d and %d; at most %d each and %d pixels are taken", c.Width, c.Height, maxSide, maxPixels)
		}
		return nil
	}
}

// isPDF looks at both ends (ISO 32000-1, sections 7.5.2 and 7.5.5; readers
// seek the end marker in the last 1024 bytes).
func isPDF(content []byte) error {
	if !bytes.HasPrefix(content, []byte("%PDF-")) {
		return errors.New("it does not begin with %PDF-")
	}
	if !bytes.Contains(content[max(0, len(content)-1024):], []byte("%%EOF")) {
		return errors.New("it does not end with %%EOF")
	}
	return nil
}

// maxDepth is how deep XML may be nested; JSON's bound is the parser's.
const maxDepth = 1000

func isJSON(content []byte) error {
	if !utf8.Valid(content) || !json.Valid(content) {
		return errors.New("it does not parse")
	}
	return nil
}

// isXML reads the whole of it. A document type is refused: entities and
// references to elsewhere are what attacks on readers of XML are made of.
func isXML(content []byte) error {
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(content, []byte("\ufeff"))))
	depth, roots := 0, 0
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.New("it does not parse as UTF-8")
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			if depth++; depth > maxDepth {
				return fmt.Errorf("it is nested deeper than %d", maxDepth)
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("it declares a document type")
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return errors.New("text stands outside of its root")
			}
		}
	}
	if roots != 1 {
		return errors.New("it has not one root")
	}
	return nil
}

// isZPL looks for a label's start and end (Zebra, ZPL II, commands ^XA, ^XZ).
func isZPL(content []byte) error {
	content = bytes.TrimSpace(content)
	if !bytes.HasPrefix(content, []byte("^XA")) {
		return errors.New("it does not begin with ^XA")
	}
	if !bytes.Contains(content, []byte("^XZ")) {
		return errors.New("it has no ^XZ")
	}
	return nil
}

// isZIP reads the directory of an archive, and unpacks nothing.
func isZIP(content []byte) error {
	z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil || !bytes.HasPrefix(content, []byte("PK")) {
		return errors.New("it does not read as one")
	}
	for _, f := range z.File {
		if !filepath.IsLocal(strings.TrimSuffix(f.Name, "/")) || strings.Contains(f.Name, `\`) {
			return errors.New("the name of an entry leads out of it")
		}
	}
	return nil
}

// isText also refuses text that a browser takes for something else.
func isText(content []byte) error {
	if !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0 {
		return errors.New("it is not UTF-8 without NUL")
	}
	if seen := http.DetectContentType(content); seen != "text/plain; charset=utf-8" {
		return errors.New("it looks like " + seen)
	}
	return nil
}

package blob

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"image"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/entrepot/entrepot/sdk/fault"
)

func pngOf(t testing.TB, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))))
	return b.Bytes()
}

func jpegOf(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8)), nil))
	return b.Bytes()
}

// huge is a picture whose head promises more pixels than anybody has memory.
func huge(t testing.TB) []byte {
	t.Helper()
	b := pngOf(t, 1, 1)
	binary.BigEndian.PutUint32(b[16:], 19_000)
	binary.BigEndian.PutUint32(b[20:], 19_000)
	// The head's checksum, over its name and content.
	binary.BigEndian.PutUint32(b[29:], crc(b[12:29]))
	return b
}

func zipOf(t testing.TB, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, n := range names {
		w, err := z.Create(n)
		require.NoError(t, err)
		if !strings.HasSuffix(n, "/") {
			_, err = w.Write([]byte("x"))
			require.NoError(t, err)
		}
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// onePixel is a lossless WebP picture.
func onePixel(t testing.TB) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
	require.NoError(t, err)
	return b
}

const pdf = "%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n"

func TestContentIsWhatItClaimsToBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, mediaType string
		content         []byte
		// want is empty for what is taken, else the field and the words of the
		// refusal.
		field, want string
	}{
		{"a JPEG", "image/jpeg", jpegOf(t), "", ""},
		{"a PNG", "image/png", pngOf(t, 3, 2), "", ""},
		{"a WebP", "image/webp", onePixel(t), "", ""},
		{"a PDF", "application/pdf", []byte(pdf), "", ""},
		{"JSON", "application/json", []byte(`{"a": [1, "ß"]}`), "", ""},
		{"XML", "application/xml", []byte(`<?xml version="1.0" encoding="UTF-8"?><a xmlns="urn:x"><b/>ß</a>`), "", ""},
		{"XML with a byte order mark", "application/xml", []byte("\ufeff<a/>\n"), "", ""},
		{"a label", "application/zpl", []byte("\n^XA^FO50,50^FDx^FS^XZ\n"), "", ""},
		{"an archive", "application/zip", zipOf(t, "a.txt", "b/", "b/c.txt"), "", ""},
		{"text", "text/plain", []byte("naïve\tüber\r\n"), "", ""},
		{"a table", "text/csv", []byte("sku,quantity\nsku_1,3\n"), "", ""},

		{"no content", "text/plain", nil, "content", "is empty"},
		{"too much", "text/plain", bytes.Repeat([]byte("x"), MaxBytes+1), "content", "larger than 8388608 bytes"},
		{"a type that is not kept", "text/html", []byte("<html>"), "media_type", "is none of application/json, application/pdf"},
		{"a picture with scripts", "image/svg+xml", []byte("<svg/>"), "media_type", "is none of"},
		{"no type", "", []byte("x"), "media_type", "is none of"},
		{"a type with a parameter", "text/plain; charset=utf-8", []byte("x"), "media_type", "is none of"},
		{"a type in capitals", "Text/Plain", []byte("x"), "media_type", "is none of"},
		{"a PNG as JPEG", "image/jpeg", pngOf(t, 1, 1), "media_type", "the content is no image/jpeg"},
		{"a web page as picture", "image/png", []byte("<html><script>alert(1)</script>"), "media_type", "it does not begin like one"},
		{"a picture of 361 million pixels", "image/png", huge(t), "media_type", "its sides are 19000 and 19000"},
		{"a program as PDF", "application/pdf", []byte("\x7fELF...."), "media_type", "it does not begin with %PDF-"},
		{"a web page before a PDF", "application/pdf", []byte("<html>" + pdf), "media_type", "it does not begin with %PDF-"},
		{"half a PDF", "application/pdf", []byte(pdf[:20]), "media_type", "it does not end with %%EOF"},
		{"half of JSON", "application/json", []byte(`{"a": `), "media_type", "it does not parse"},
		{"JSON in Latin-1", "application/json", []byte("\"\xfc\""), "media_type", "it does not parse"},
		{"XML with a document type", "application/xml", []byte(`<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`), "media_type", "it declares a document type"},
		{"XML with an unknown entity", "application/xml", []byte(`<a>&b;</a>`), "media_type", "it does not parse"},
		{"XML that does not end", "application/xml", []byte(`<a><b></a>`), "media_type", "it does not parse"},
		{"XML with two roots", "application/xml", []byte(`<a/><b/>`), "media_type", "it has not one root"},
		{"XML without a floor", "application/xml", []byte(strings.Repeat("<a>", 1001)), "media_type", "it is nested deeper than 1000"},
		{"text as XML", "application/xml", []byte(`a`), "media_type", "text stands outside of its root"},
		{"XML in Latin-1", "application/xml", []byte(`<?xml version="1.0" encoding="ISO-8859-1"?><a/>`), "media_type", "it does not parse as UTF-8"},
		{"text as a label", "application/zpl", []byte("hello ^XA^XZ"), "media_type", "it does not begin with ^XA"},
		{"half a label", "application/zpl", []byte("^XA^FDx"), "media_type", "it has no ^XZ"},
		{"an archive that leads out", "application/zip", zipOf(t, "../../etc/passwd"), "media_type", "leads out of it"},
		{"an archive from the root", "application/zip", zipOf(t, "/etc/passwd"), "media_type", "leads out of it"},
		{"an archive that leads out elsewhere", "application/zip", zipOf(t, `..\x`), "media_type", "leads out of it"},
		{"a program with an archive in it", "application/zip", append([]byte("\x7fELF"), zipOf(t, "a")...), "media_type", "it does not read as one"},
		{"text as archive", "application/zip", []byte("PK, he said"), "media_type", "it does not read as one"},
		{"text in Latin-1", "text/plain", []byte("\xfcber"), "media_type", "it is not UTF-8 without NUL"},
		{"text with NUL", "text/csv", []byte("a,\x00"), "media_type", "it is not UTF-8 without NUL"},
		{"a web page as text", "text/plain", []byte(" <!doctype HTML><script>"), "media_type", "it looks like text/html"},
		{"a PDF as table", "text/csv", []byte(pdf), "media_type", "it looks like application/pdf"},
		{"control characters as text", "text/plain", []byte("a\x01"), "media_type", "it looks like application/octet-stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := check(c.mediaType, c.content)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
			bad, ok := fault.Detail[*errdetails.BadRequest](err)
			require.True(t, ok)
			require.Equal(t, c.field, bad.GetFieldViolations()[0].GetField())
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Whatever bytes come, a check ends and never takes what it should not.
func FuzzCheck(f *testing.F) {
	for _, content := range [][]byte{jpegOf(f), pngOf(f, 1, 1), onePixel(f), []byte(pdf), []byte("<a/>"), []byte("^XA^XZ"), zipOf(f, "a"), []byte("x")} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for mediaType := range types {
			err := check(mediaType, content)
			if err == nil && strings.HasPrefix(mediaType, "text/") {
				require.NotContains(t, content, byte(0))
			}
		}
	})
}

package blob

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
)

// answered is what came back from the public port.
type answered struct {
	status int
	header http.Header
	body   string
}

// port is a store behind the public port, with a clock that a test turns.
type port struct {
	*Store
	url string
	// later is how far the clock was turned.
	later time.Duration
}

func listen(t testing.TB) *port {
	t.Helper()
	p := &port{Store: reopen(t, t.TempDir())}
	begin := time.Now().Truncate(time.Second)
	p.now = func() time.Time { return begin.Add(p.later) }
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *port) do(t testing.TB, method, path string, body io.Reader, header ...string) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, body)
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answered{res.StatusCode, res.Header, string(b)}
}

func (p *port) link(t testing.TB, id, fileName string, seconds int32) string {
	t.Helper()
	res, err := p.LinkBlob(as(t.Context(), "order"), &kernelv1.LinkBlobRequest{BlobId: id, FileName: fileName, Seconds: seconds})
	require.NoError(t, err)
	return res.GetPath()
}

func (p *port) grant(t testing.TB, most int64, types ...string) string {
	t.Helper()
	res, err := p.GrantUpload(as(t.Context(), "order"), &kernelv1.GrantUploadRequest{MediaTypes: types, MaxBytes: most})
	require.NoError(t, err)
	return res.GetPath()
}

func TestWhoHasALinkGetsTheBlob(t *testing.T) {
	t.Parallel()
	p := listen(t)
	id := put(t, p.Store, "order", "text/csv", "a,b\n")
	path := p.link(t, id, "orders.csv", 60)
	require.Regexp(t, `^/blobs/[A-Za-z0-9_-]+$`, path)
	got := p.do(t, http.MethodGet, path, nil)
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "a,b\n", got.body)
	for name, want := range map[string]string{
		"Content-Type":            "text/csv; charset=utf-8",
		"Content-Length":          "4",
		"Content-Disposition":     "attachment; filename=orders.csv",
		"X-Content-Type-Options":  "nosniff",
		"Content-Security-Policy": "default-src 'none'; sandbox",
		"Cache-Control":           "private, max-age=60",
		"Etag":                    `"` + id + `"`,
		"Referrer-Policy":         "no-referrer",
	} {
		require.Equal(t, want, got.header.Get(name), name)
	}
	head := p.do(t, http.MethodHead, path, nil)
	require.Equal(t, "4", head.header.Get("Content-Length"))
	require.Empty(t, head.body)
	require.Equal(t, http.StatusNotModified, p.do(t, http.MethodGet, path, nil, "If-None-Match", `"`+id+`"`).status)
	part := p.do(t, http.MethodGet, path, nil, "Range", "bytes=2-2")
	require.Equal(t, http.StatusPartialContent, part.status)
	require.Equal(t, "b", part.body)

	p.later = 50 * time.Second
	require.Equal(t, "private, max-age=10", p.do(t, http.MethodGet, path, nil).header.Get("Cache-Control"))
	_, err := p.DeleteBlob(as(t.Context(), "order"), &kernelv1.DeleteBlobRequest{BlobId: id})
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, p.do(t, http.MethodGet, path, nil).status, "links end with the blob")
}

func TestPicturesAndDocumentsAreShownTheRestIsSaved(t *testing.T) {
	t.Parallel()
	p := listen(t)
	for mediaType, c := range map[string]struct{ content, how string }{
		"image/png":        {string(pngOf(t, 1, 1)), "inline"},
		"application/pdf":  {pdf, "inline"},
		"application/json": {"{}", "attachment"},
		"application/xml":  {`<html xmlns="http://www.w3.org/1999/xhtml"><script/></html>`, "attachment"},
		"application/zpl":  {"^XA^XZ", "attachment"},
	} {
		got := p.do(t, http.MethodGet, p.link(t, put(t, p.Store, "order", mediaType, c.content), "", 0), nil)
		require.Equal(t, c.content, got.body)
		require.Equal(t, mediaType, got.header.Get("Content-Type"))
		require.Equal(t, c.how, got.header.Get("Content-Disposition"))
	}
}

func TestEveryBadPathIsNothingAlike(t *testing.T) {
	t.Parallel()
	p := listen(t)
	id := put(t, p.Store, "order", "text/plain", "hello")
	good, upload := p.link(t, id, "", 60), p.grant(t, 0, "text/plain")
	token := strings.TrimPrefix(good, "/blobs/")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	changed := func(f func([]byte) []byte) string {
		return "/blobs/" + base64.RawURLEncoding.EncodeToString(f(bytes.Clone(raw)))
	}
	stranger := signer(bytes.Repeat([]byte{7}, 32))
	later := p.now().Add(time.Hour)
	bad := map[string][2]string{
		"no token":              {http.MethodGet, "/blobs/"},
		"no token to write":     {http.MethodPut, "/blobs/upload/"},
		"no base64":             {http.MethodGet, "/blobs/***"},
		"a word":                {http.MethodGet, "/blobs/upload"},
		"one letter more":       {http.MethodGet, good + "A"},
		"padding":               {http.MethodGet, good + "="},
		"a slash after it":      {http.MethodGet, good + "/"},
		"a path":                {http.MethodGet, "/blobs/order/" + id},
		"a path out":            {http.MethodGet, "/blobs/..%2f..%2fkeys%2fblob.key"},
		"a path out in a token": {http.MethodGet, stranger.link(link{owner: "..", id: "keys/blob.key", until: later})},
		"too long":              {http.MethodGet, "/blobs/" + strings.Repeat("A", 4000)},
		"another blob":          {http.MethodGet, changed(func(b []byte) []byte { return bytes.Replace(b, []byte("2cf2"), []byte("2cf3"), 1) })},
		"another owner":         {http.MethodGet, changed(func(b []byte) []byte { return bytes.Replace(b, []byte("order"), []byte("stock"), 1) })},
		"another time":          {http.MethodGet, changed(func(b []byte) []byte { b[2]++; return b })},
		"another signature":     {http.MethodGet, changed(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		"half a signature":      {http.MethodGet, changed(func(b []byte) []byte { return b[:len(b)-16] })},
		"no signature":          {http.MethodGet, changed(func(b []byte) []byte { return b[:len(b)-32] })},
		"a signature alone":     {http.MethodGet, changed(func(b []byte) []byte { return b[len(b)-32:] })},
		"another key":           {http.MethodGet, stranger.link(link{owner: "order", id: id, until: later})},
		"a blob that is not":    {http.MethodGet, p.signer.link(link{owner: "order", id: name([]byte("x")), until: later})},
		"another owner's":       {http.MethodGet, p.signer.link(link{owner: "catalog", id: id, until: later})},
		"an upload to read":     {http.MethodGet, "/blobs/" + strings.TrimPrefix(upload, "/blobs/upload/")},
		"a link to write":       {http.MethodPut, "/blobs/upload/" + token},
	}
	gone := p.link(t, id, "", 1)
	p.later = time.Second
	bad["an ended link"] = [2]string{http.MethodGet, gone}
	first := answered{}
	for name, c := range bad {
		got := p.do(t, c[0], c[1], strings.NewReader("hello"), "Content-Type", "text/plain")
		require.Equal(t, http.StatusNotFound, got.status, name)
		got.header.Del("Date")
		if first.status == 0 {
			first = got
		}
		require.Equal(t, first, got, name)
	}
	require.Equal(t, http.StatusOK, p.do(t, http.MethodGet, good, nil).status)
	p.later = 16 * time.Minute
	require.Equal(t, first.body, p.do(t, http.MethodPut, upload, strings.NewReader("hello"), "Content-Type", "text/plain").body, "an ended grant")
}

func TestOtherMethodsAreNone(t *testing.T) {
	t.Parallel()
	p := listen(t)
	id := put(t, p.Store, "order", "text/plain", "hello")
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut, "PROPFIND"} {
		got := p.do(t, method, p.link(t, id, "", 0), nil)
		require.Equal(t, http.StatusMethodNotAllowed, got.status)
		require.Equal(t, "GET, HEAD", got.header.Get("Allow"))
	}
	got := p.do(t, http.MethodPost, p.grant(t, 0, "text/plain"), strings.NewReader("x"))
	require.Equal(t, http.StatusMethodNotAllowed, got.status)
	require.Equal(t, http.MethodPut, got.header.Get("Allow"))
}

func TestAGrantTakesOneBlobForWhoGranted(t *testing.T) {
	t.Parallel()
	p := listen(t)
	path := p.grant(t, 0, "image/png", "text/plain")
	require.Regexp(t, `^/blobs/upload/[A-Za-z0-9_-]+$`, path)
	lie := p.do(t, http.MethodPut, path, strings.NewReader("hello"), "Content-Type", "image/png")
	require.Equal(t, http.StatusBadRequest, lie.status, "what is refused does not use the grant up")
	require.Contains(t, lie.body, `"code":"invalid_argument"`)
	require.Contains(t, lie.body, "the content is no image/png")

	for range 2 {
		got := p.do(t, http.MethodPut, path, strings.NewReader("hello"), "Content-Type", "text/plain; charset=UTF-8")
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
		var answer struct {
			BlobID string `json:"blob_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(got.body), &answer))
		blob, err := p.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: answer.BlobID})
		require.NoError(t, err)
		require.Equal(t, "text/plain", blob.GetMediaType())
		require.Equal(t, "hello", string(blob.GetContent()))
	}
	got := p.do(t, http.MethodPut, path, strings.NewReader("another"), "Content-Type", "text/plain")
	require.Equal(t, http.StatusConflict, got.status)
	require.Contains(t, got.body, "a path takes one")
	_, err := p.GetBlob(as(t.Context(), "order"), &kernelv1.GetBlobRequest{BlobId: name([]byte("another"))})
	require.Error(t, err)
}

func TestAnUploadIsBounded(t *testing.T) {
	t.Parallel()
	p := listen(t)
	_ = put(t, p.Store, "order", "application/json", "[7]")
	// unsized hides a reader's length, so that it is sent in chunks.
	unsized := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
	for _, c := range []struct {
		name   string
		body   io.Reader
		header []string
		status int
	}{
		{"as much as it may", strings.NewReader("12345678"), []string{"Content-Type", "text/plain"}, http.StatusOK},
		{"a byte too many", strings.NewReader("123456789"), []string{"Content-Type", "text/plain"}, http.StatusRequestEntityTooLarge},
		{"a byte too many of unsaid length", unsized("123456789"), []string{"Content-Type", "text/plain"}, http.StatusRequestEntityTooLarge},
		{"nothing", nil, []string{"Content-Type", "text/plain"}, http.StatusBadRequest},
		{"a type that is not granted", strings.NewReader("{}"), []string{"Content-Type", "application/json"}, http.StatusUnsupportedMediaType},
		{"no type", strings.NewReader("x"), nil, http.StatusUnsupportedMediaType},
		{"no media type", strings.NewReader("x"), []string{"Content-Type", "text"}, http.StatusUnsupportedMediaType},
		{"another charset", strings.NewReader("x"), []string{"Content-Type", "text/plain; charset=latin1"}, http.StatusUnsupportedMediaType},
		{"a compressed content", strings.NewReader("x"), []string{"Content-Type", "text/plain", "Content-Encoding", "gzip"}, http.StatusUnsupportedMediaType},
		{"a part", strings.NewReader("x"), []string{"Content-Type", "text/plain", "Content-Range", "bytes 0-0/2"}, http.StatusBadRequest},
		{"bytes that are stored as another type", strings.NewReader("[7]"), []string{"Content-Type", "text/plain"}, http.StatusConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := p.do(t, http.MethodPut, p.grant(t, 8, "text/plain"), c.body, c.header...)
			require.Equal(t, c.status, got.status, got.body)
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
		})
	}
}

func TestOnlySoManyUploadsAtOnceAndOneAPath(t *testing.T) {
	t.Parallel()
	u := newUploads()
	at := time.Now()
	var dones []func(string)
	for i := range maxUploads {
		done, ok := u.begin(grant{nonce: string(rune('a' + i)), until: at}, at)
		require.True(t, ok)
		dones = append(dones, done)
	}
	_, ok := u.begin(grant{nonce: "one more"}, at)
	require.False(t, ok)
	dones[0]("")
	_, ok = u.begin(grant{nonce: "b"}, at)
	require.False(t, ok, "that path is in use")
	_, ok = u.begin(grant{nonce: "one more"}, at)
	require.True(t, ok)
}

func TestAPathInUseTellsTheNextToWait(t *testing.T) {
	t.Parallel()
	p := listen(t)
	path := p.grant(t, 0, "text/plain")
	body, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.url+path, body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "text/plain")
	first := make(chan int, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			first <- 0
			return
		}
		first <- res.StatusCode
		_ = res.Body.Close()
	}()
	_, err = writer.Write([]byte("hel"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p.uploads.mu.Lock()
		defer p.uploads.mu.Unlock()
		return p.uploads.now == 1
	}, 10*time.Second, time.Millisecond)
	got := p.do(t, http.MethodPut, path, strings.NewReader("hello"), "Content-Type", "text/plain")
	require.Equal(t, http.StatusTooManyRequests, got.status)
	require.Equal(t, "1", got.header.Get("Retry-After"))
	_, err = writer.Write([]byte("lo"))
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	require.Equal(t, http.StatusOK, <-first)
}

func TestAGrantIsForWhatIsKept(t *testing.T) {
	t.Parallel()
	p := listen(t)
	_, err := p.GrantUpload(as(t.Context(), "order"), &kernelv1.GrantUploadRequest{MediaTypes: []string{"image/png", "text/html"}})
	require.ErrorContains(t, err, "media_types[1]: text/html is not kept")
}

// No token but our own opens.
func FuzzToken(f *testing.F) {
	k := signer(bytes.Repeat([]byte{1}, 32))
	now := time.Unix(1_700_000_000, 0)
	good := k.link(link{owner: "order", id: "x", until: now.Add(time.Minute)})
	f.Add(strings.TrimPrefix(good, "/blobs/"))
	f.Add(strings.TrimPrefix(k.grant(grant{owner: "order", types: []string{"text/plain"}, until: now.Add(time.Minute)}), "/blobs/upload/"))
	f.Fuzz(func(t *testing.T, token string) {
		if l, ok := k.openLink(token, now); ok {
			require.Equal(t, good, "/blobs/"+token)
			require.Equal(t, "order", l.owner)
		}
		if _, ok := k.openGrant(token, now); ok {
			require.NotEqual(t, good, "/blobs/"+token)
		}
	})
}

package blob

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
)

// transferTime is the longest that a download or an upload may take: 8 MiB at
// a little more than half a megabit a second.
const transferTime = 2 * time.Minute

// ServeHTTP serves "/blobs/<token>" (GET, HEAD) and "/blobs/upload/<token>"
// (PUT). A token that is forged, has ended, is meant for something else, or
// whose blob is gone: all of them are 404, alike.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/blobs/")
	if !ok {
		nothing(w)
		return
	}
	control := http.NewResponseController(w)
	until := time.Now().Add(transferTime)
	// A writer that cannot set them has the server's own.
	_ = errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until))
	token, isUpload := strings.CutPrefix(path, "upload/")
	switch {
	case isUpload && r.Method != http.MethodPut:
		w.Header().Set("Allow", http.MethodPut)
		refuse(w, http.StatusMethodNotAllowed, connect.CodeUnimplemented, "send the content by PUT")
	case isUpload:
		s.serveUpload(w, r, token)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, connect.CodeUnimplemented, "read it by GET")
	default:
		s.serveLink(w, r, token)
	}
}

func (s *Store) serveLink(w http.ResponseWriter, r *http.Request, token string) {
	l, ok := s.signer.openLink(token, s.now())
	if !ok {
		nothing(w)
		return
	}
	content, err := s.open(r.Context(), l.owner, l.id)
	if err != nil {
		if connect.CodeOf(err) != connect.CodeNotFound {
			s.log.LogAttrs(r.Context(), slog.LevelError, "a linked blob cannot be read",
				slog.String("plugin", l.owner), slog.String("blob", l.id), slog.String("error", err.Error()))
		}
		nothing(w)
		return
	}
	defer func() { _ = content.Close() }()
	h := w.Header()
	h.Set("Content-Type", served(content.ContentType()))
	h.Set("Content-Disposition", disposition(content.ContentType(), l.fileName))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "private, max-age="+strconv.FormatInt(int64(l.until.Sub(s.now())/time.Second), 10))
	h.Set("ETag", `"`+l.id+`"`)
	http.ServeContent(w, r, "", time.Time{}, content)
}

// served is the header Content-Type of a media type: what text is kept is
// UTF-8.
func served(mediaType string) string {
	if strings.HasPrefix(mediaType, "text/") {
		return mediaType + "; charset=utf-8"
	}
	return mediaType
}

// disposition shows pictures and PDF in the browser; the rest is saved.
func disposition(mediaType, fileName string) string {
	how := "attachment"
	if strings.HasPrefix(mediaType, "image/") || mediaType == "application/pdf" {
		how = "inline"
	}
	if fileName == "" {
		return how
	}
	return mime.FormatMediaType(how, map[string]string{"filename": fileName})
}

func (s *Store) serveUpload(w http.ResponseWriter, r *http.Request, token string) {
	g, ok := s.signer.openGrant(token, s.now())
	if !ok {
		nothing(w)
		return
	}
	mediaType, ok := declared(r.Header)
	switch {
	case !ok || !slices.Contains(g.types, mediaType):
		w.Header().Set("Accept", strings.Join(g.types, ", "))
		refuse(w, http.StatusUnsupportedMediaType, connect.CodeInvalidArgument, "the header Content-Type must be one of "+strings.Join(g.types, ", ")+", without a Content-Encoding")
		return
	case r.Header.Get("Content-Range") != "":
		// RFC 9110, section 14.4.
		refuse(w, http.StatusBadRequest, connect.CodeInvalidArgument, "send the content whole, without a Content-Range")
		return
	case r.ContentLength > g.max:
		tooLarge(w, g.max)
		return
	}
	done, ok := s.uploads.begin(g, s.now())
	if !ok {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, connect.CodeResourceExhausted, "another upload is under way; wait a little")
		return
	}
	id := ""
	defer func() { done(id) }()
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.max))
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		tooLarge(w, g.max)
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, connect.CodeCanceled, "the content broke off")
		return
	}
	if !s.uploads.fits(g, name(content)) {
		refuse(w, http.StatusConflict, connect.CodeAlreadyExists, "another content was sent to this path; a path takes one")
		return
	}
	if id, err = s.put(r.Context(), g.owner, mediaType, content); err != nil {
		s.refusePut(w, r, g, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"blob_id": id})
}

// declared is the media type that a request says its body is of, if it says
// so in a way that can be believed.
func declared(h http.Header) (mediaType string, ok bool) {
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || len(h.Values("Content-Type")) != 1 || h.Get("Content-Encoding") != "" {
		return "", false
	}
	charset, has := params["charset"]
	return mediaType, len(params) == 0 || len(params) == 1 && has && strings.EqualFold(charset, "utf-8")
}

func (s *Store) refusePut(w http.ResponseWriter, r *http.Request, g grant, err error) {
	var authored *connect.Error
	if errors.As(err, &authored) {
		switch authored.Code() {
		case connect.CodeInvalidArgument:
			refuse(w, http.StatusBadRequest, authored.Code(), authored.Message())
			return
		case connect.CodeAlreadyExists:
			refuse(w, http.StatusConflict, authored.Code(), authored.Message())
			return
		}
	}
	s.log.LogAttrs(r.Context(), slog.LevelError, "an upload was not stored", slog.String("plugin", g.owner), slog.String("error", err.Error()))
	refuse(w, http.StatusInternalServerError, connect.CodeInternal, "internal error")
}

func nothing(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, connect.CodeNotFound, "there is nothing here, or no longer")
}

func tooLarge(w http.ResponseWriter, most int64) {
	refuse(w, http.StatusRequestEntityTooLarge, connect.CodeInvalidArgument, fmt.Sprintf("at most %d bytes are taken", most))
}

// refuse answers like a Connect error, which front ends read anyway.
func refuse(w http.ResponseWriter, status int, code connect.Code, message string) {
	answer(w, status, struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{code.String(), message})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A failed write means that the client is gone.
	_ = json.NewEncoder(w).Encode(v)
}

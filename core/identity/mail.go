package identity

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Mail is one message to one person.
type Mail struct {
	// ID is the same each time the same mail is sent: a crash between sending
	// and writing it down sends twice.
	ID string
	// At is when the reason for it arose.
	At      time.Time
	To      string
	Subject string
	// Body is plain text. A token stands alone on a line "token: ...".
	Body string
}

// Mailer carries mails out. Send returns when the mail is in safe hands; an
// error has it tried again later. It is called with a deadline, by one
// goroutine at a time.
type Mailer interface {
	Send(ctx context.Context, m Mail) error
}

// Discard is a Mailer that sends nothing.
type Discard struct{}

// Send implements Mailer.
func (Discard) Send(context.Context, Mail) error { return nil }

// FileDrop is a Mailer that writes each mail to a file "<time>-<id>.eml" in
// its directory, for development and demonstration. Only the owner may read
// the files: their tokens make accounts.
type FileDrop struct {
	// Dir is created when it is missing.
	Dir string
	// From is the sender's address. Default "entrepot@localhost".
	From string
}

// Send implements Mailer. The file appears whole; the same mail replaces it.
func (d FileDrop) Send(_ context.Context, m Mail) error {
	text, err := d.message(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	tmp, err := os.CreateTemp(d.Dir, ".mail-*") // mode 0600
	if err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	name := m.At.UTC().Format("20060102T150405.000000Z") + "-" + m.ID + ".eml"
	if err := os.Rename(tmp.Name(), filepath.Join(d.Dir, name)); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	return nil
}

// message writes RFC 5322 text.
func (d FileDrop) message(m Mail) (string, error) {
	from := d.From
	if from == "" {
		from = "entrepot@localhost"
	}
	if strings.ContainsAny(m.To+from, "\r\n") {
		return "", errors.New("mail: an address does not fit one line")
	}
	return "From: " + (&mail.Address{Name: "Entrepot", Address: from}).String() + "\r\n" +
		"To: " + (&mail.Address{Address: m.To}).String() + "\r\n" +
		"Subject: " + mime.QEncoding.Encode("utf-8", m.Subject) + "\r\n" +
		"Date: " + m.At.UTC().Format(time.RFC1123Z) + "\r\n" +
		"Message-ID: <" + m.ID + "@entrepot>\r\n" +
		"MIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"Content-Transfer-Encoding: 8bit\r\n\r\n" +
		strings.ReplaceAll(m.Body, "\n", "\r\n"), nil
}

// write makes the mail of an enrolment: the token, or to an address that has
// an account, the word that it has one.
func (l letter) write(token string) Mail {
	m := Mail{ID: l.id, At: l.createdAt, To: l.to}
	const ignore = "\n\nIf you did not ask for this, there is nothing to do.\n"
	switch {
	case l.known:
		m.Subject = "You have an account"
		m.Body = "Somebody, probably you, asked for an account with this address. It has one: please log in." + ignore
	case l.kind == enrolConsumer || l.kind == enrolMerchant:
		m.Subject = "Confirm your registration"
		m.Body = "Confirm your registration with this token. It works once, for 24 hours.\n\ntoken: " + token + ignore
	default:
		m.Subject = "You are invited"
		m.Body = "Accept the invitation with this token. It works once, for seven days.\n\ntoken: " + token + ignore
	}
	return m
}

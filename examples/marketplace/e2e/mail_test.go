package e2e_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// postOffice is a mail server that keeps what it is given.
type postOffice struct {
	port int

	mu    sync.Mutex
	mails []string
}

// openPostOffice opens one on this machine until the test ends.
func openPostOffice(t *testing.T) *postOffice {
	t.Helper()
	p := &postOffice{}
	server := smtp.NewServer(p)
	server.Domain = "localhost"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.port = listener.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Close
	}()
	t.Cleanup(func() {
		_ = listener.Close() // the server may not know it yet
		_ = server.Close()
		<-done
	})
	return p
}

// binding changes a shop's file so that British mails go to the post office.
func (p *postOffice) binding() []string {
	plugin := `plugin "notify-webhook" {`
	bound := "  bind \"entrepot.payment.provider.v1\" { instance = \"sandbox-gb\" }\n"
	return []string{
		plugin, fmt.Sprintf(`plugin "notify-smtp" {
  path = %q

  instance "mails" {
    config {
      host     = "127.0.0.1"
      port     = %d
      security = "none"
      from     = "Entrepot <shop@entrepot.example>"
    }
  }
}

`, filepath.Join(binaries, "notify-smtp"), p.port) + plugin,
		bound, bound + "  bind \"entrepot.notification.provider.v1\" {\n    instance = \"mails\"\n    priority = 1\n  }\n",
	}
}

// holds tells whether a mail has all of these texts.
func (p *postOffice) holds(texts ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
mails:
	for _, m := range p.mails {
		for _, text := range texts {
			if !strings.Contains(m, text) {
				continue mails
			}
		}
		return true
	}
	return false
}

func (p *postOffice) NewSession(*smtp.Conn) (smtp.Session, error) { return &counter{office: p}, nil }

// counter is where one client stands.
type counter struct{ office *postOffice }

func (*counter) Mail(string, *smtp.MailOptions) error { return nil }
func (*counter) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*counter) Reset()                               {}
func (*counter) Logout() error                        { return nil }

func (c *counter) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.office.mu.Lock()
	defer c.office.mu.Unlock()
	c.office.mails = append(c.office.mails, string(b))
	return nil
}

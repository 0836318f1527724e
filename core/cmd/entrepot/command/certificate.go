package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/sdk/credential"
)

// maxRead bounds what is read of a file or an address: the largest document
// that a credential may be, in base64.
const maxRead = 6 << 20

// certificateType is what certificates of authenticity say that they are: the
// issuer signs status lists with the same key.
const certificateType = "AuthenticityCertificate"

// issuerPath is where a marketplace answers its public key (GetIssuer, called
// by GET).
const issuerPath = "/entrepot.inspection.v1.CertificateService/GetIssuer?connect=v1&encoding=json&message=%7B%7D"

func newCertificate() *cobra.Command {
	return group("certificate", "Verify certificates of authenticity", newVerify())
}

func newVerify() *cobra.Command {
	v := verifying{now: time.Now}
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Tell whether a certificate is its issuer's, for which goods, and whether it was revoked", Args: between(1, 1),
		Long: `Verify reads a certificate of authenticity (a W3C verifiable credential) and
checks its signature with the key of the issuer that you trust: that of --key,
or the one that the marketplace at --url answers. With --key nothing is asked
of anybody.

Whether it was revoked tells the issuer's status list: that of --status, or the
one at --url. Without either the status is unknown, and the command says so. A
list is refused when it is older than it says that it may be used.

FILE, --key and --status may each be the document itself or the marketplace's
answer as it came, in JSON. --key may also hold the identifier "did:key:..."
alone.

  entrepot certificate verify certificate.json --key issuer.json
  entrepot certificate verify certificate.json --key issuer.json --status list.json
  entrepot certificate verify certificate.json --url https://shop.example

Exit code 0: the signature is the issuer's and the certificate is not known to
be revoked. 1: it does not verify, it was revoked, or what was asked for could
not be read. 4: nobody answers at --url.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := v.check(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			return v.run(ctx, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&v.key, "key", "", "the issuer's document or did:key, a file")
	cmd.Flags().StringVar(&v.status, "status", "", "the issuer's status list, a file")
	cmd.Flags().StringVar(&v.url, "url", "", "the marketplace's address: what is not given as a file is asked there")
	return cmd
}

// verifying is one use of the command.
type verifying struct {
	key, status, url string
	now              func() time.Time
}

// check refuses a command line that names nobody to trust. An address without
// TLS proves nothing, unless it is this machine.
func (v *verifying) check() error {
	if v.key == "" && v.url == "" {
		return usageError{errors.New("name whom you trust: --key FILE, or --url ADDRESS of the marketplace")}
	}
	if v.url == "" {
		return nil
	}
	u, err := url.Parse(v.url)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return usageError{fmt.Errorf("--url %q is no address; write it like https://shop.example", v.url)}
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usageError{errors.New("--url is https: whoever sits between could answer another key")}
	}
	v.url = strings.TrimSuffix(u.Scheme+"://"+u.Host+u.EscapedPath(), "/")
	return nil
}

func (v *verifying) run(ctx context.Context, file string, out io.Writer) error {
	document, err := readFile(file, "credential")
	if err != nil {
		return err
	}
	issuer, err := v.issuer(ctx)
	if err != nil {
		return err
	}
	now := v.now()
	c, err := credential.Verify(document, issuer, now)
	if err != nil {
		return fmt.Errorf("%s does not verify: %s", file, plain(err))
	}
	if !slices.Contains(c.Types, certificateType) {
		return fmt.Errorf("%s does not verify: it is signed by the issuer, and is no %s", file, certificateType)
	}
	tellCertificate(out, c)
	status, err := v.revoked(ctx, c, issuer, now)
	if err != nil {
		say(out, "status     unknown")
		return fmt.Errorf("whether %s was revoked is not known: %w", file, err)
	}
	say(out, "status     %s", status)
	if status == revoked {
		return fmt.Errorf("%s was revoked: it says nothing of the goods any more", file)
	}
	return nil
}

// What a status list tells.
const (
	inForce = "valid: not revoked"
	revoked = "revoked"
	unasked = "unknown: no status list was given; see --status and --url"
	forever = "valid: it names no status list, and cannot be revoked"
)

func (v *verifying) revoked(ctx context.Context, c *credential.Credential, issuer *credential.Issuer, now time.Time) (string, error) {
	if c.Status == nil {
		return forever, nil
	}
	var list []byte
	var err error
	switch {
	case v.status != "":
		list, err = readFile(v.status, "credential")
	case v.url != "":
		// The marketplace is asked at the address that the caller trusts, for
		// the list that the certificate names: what answers is verified by name.
		at, bad := url.Parse(c.Status.List)
		if bad != nil {
			return "", bad
		}
		list, err = fetch(ctx, v.url+at.EscapedPath()+"?"+at.RawQuery, "credential")
	default:
		return unasked, nil
	}
	if err != nil {
		return "", err
	}
	gone, err := credential.Revoked(c, list, issuer, now)
	if err != nil {
		return "", err
	}
	if gone {
		return revoked, nil
	}
	return inForce, nil
}

// issuer is who is trusted.
func (v *verifying) issuer(ctx context.Context) (*credential.Issuer, error) {
	read, from := readFile, v.key
	if v.key == "" {
		from = v.url + issuerPath
		read = func(at, member string) ([]byte, error) { return fetch(ctx, at, member) }
	}
	b, err := read(from, "document")
	if err != nil {
		return nil, err
	}
	issuer, err := credential.ParseIssuer(b)
	if err != nil {
		return nil, fmt.Errorf("key: %s", plain(err))
	}
	return issuer, nil
}

func tellCertificate(out io.Writer, c *credential.Credential) {
	text := func(name string) string { s, _ := c.Subject[name].(string); return oneLine(s) }
	say(out, "signature  valid")
	say(out, "id         %s", oneLine(c.ID))
	say(out, "issuer     %s", oneLine(c.Issuer))
	if !c.ValidFrom.IsZero() {
		say(out, "issued     %s", c.ValidFrom.UTC().Format(time.RFC3339))
	}
	for _, l := range []struct{ label, member string }{
		{"gtin", "gtin"}, {"serial", "serial"}, {"lot", "lot"}, {"goods", "id"}, {"verdict", "verdict"},
	} {
		if s := text(l.member); s != "" {
			say(out, "%-10s %s", l.label, s)
		}
	}
}

// plain is an error of one line: documents are somebody else's words.
func plain(err error) string { return oneLine(err.Error()) }

func readFile(path, member string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := bounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return unwrap(b, member), nil
}

// asker follows nobody elsewhere: the address that is trusted answers itself.
var asker = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// fetch asks a marketplace by GET.
func fetch(ctx context.Context, at, member string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	res, err := asker.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := bounded(res.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", at, err)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s: %s", at, res.Status, oneLine(string(b[:min(len(b), 300)])))
	}
	return unwrap(b, member), nil
}

func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRead+1))
	if len(b) > maxRead {
		return nil, fmt.Errorf("longer than %d bytes", maxRead)
	}
	return b, err
}

// unwrap takes a document out of a marketplace's answer, which holds it as
// bytes: {"credential": "<base64>"}. Anything else is the document itself.
func unwrap(b []byte, member string) []byte {
	var answer map[string]json.RawMessage
	var inner []byte
	if json.Unmarshal(b, &answer) != nil || answer["@context"] != nil || json.Unmarshal(answer[member], &inner) != nil || len(inner) == 0 {
		return b
	}
	return inner
}

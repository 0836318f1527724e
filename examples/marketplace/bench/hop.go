package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// hop measures what no call between processes of this machine can cost less
// than: 1 KiB there and back by net/http over TLS on a unix socket, client and
// server both counted.
func (b *bench) hop(ctx context.Context, n int) (_ []figure, err error) {
	certificate, roots, err := selfSigned()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(b.shop.Dir, "hop.sock")
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})}
	go func() {
		_ = server.Serve(tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}}))
	}()
	defer func() { _ = server.Close() }()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
		MaxIdleConnsPerHost: b.width,
	}
	defer transport.CloseIdleConnections()
	body := make([]byte, 1024)
	calls := func(n int) error {
		g, ctx := errgroup.WithContext(ctx)
		for range b.width {
			g.Go(func() error {
				for range n / b.width {
					if err := echo(ctx, transport, body); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	}
	if err := calls(n); err != nil {
		return nil, err
	}
	began, n := own(), 10*n
	if err := calls(n); err != nil {
		return nil, err
	}
	b.bare = (own() - began) / time.Duration(n)
	return []figure{{"CPU of a bare HTTP/1.1 hop over TLS, both sides", fmt.Sprintf("%.3f ms", ms(b.bare)), ""}}, nil
}

func echo(ctx context.Context, transport http.RoundTripper, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://hop/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	if err == nil && len(got) != len(body) {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(body))
	}
	return err
}

func selfSigned() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hop"}, DNSNames: []string{"hop"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}

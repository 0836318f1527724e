package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"time"
)

// identity is this process's certificate and the kernel's: each side trusts
// the one certificate of the other and nothing else.
type identity struct {
	cert   tls.Certificate
	der    []byte
	kernel *x509.CertPool
}

// newIdentity makes a certificate and trusts the kernel's.
func newIdentity(kernelPEM []byte) (*identity, error) {
	i, err := selfSigned()
	if err != nil {
		return nil, err
	}
	return i, i.trust(kernelPEM)
}

func (i *identity) trust(certificate []byte) error {
	i.kernel = x509.NewCertPool()
	if !i.kernel.AppendCertsFromPEM(certificate) {
		return errors.New("PLUGIN_CLIENT_CERT holds no certificate")
	}
	return nil
}

func selfSigned() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, SerialNumber: serial,
		// It ends with the process; a kernel may run for years.
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(30, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &identity{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, der: der}, nil
}

func (i *identity) server() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.cert}, ClientCAs: i.kernel, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func (i *identity) client() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{i.cert}, RootCAs: i.kernel, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

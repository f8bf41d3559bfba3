package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// signer issues certificates.
type signer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigner(t *testing.T) signer {
	t.Helper()
	self := signer{t: t}
	var err error
	if self.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	self.cert = self.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return self
}

// sign issues a certificate for the signer's own key, which nobody here uses.
func (s signer) sign(template *x509.Certificate) *x509.Certificate {
	s.t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent := s.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, s.key.Public(), s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return cert
}

func (s signer) client(name string, change ...func(*x509.Certificate)) *x509.Certificate {
	s.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, change := range change {
		change(template)
	}
	return s.sign(template)
}

func (s signer) write(path string) {
	s.t.Helper()
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestOnlyClientsOfTheAuthorityMayCall(t *testing.T) {
	trusted, other := newSigner(t), newSigner(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	trusted.write(path)
	anybody, err := newCallers(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	named, err := newCallers(path, []string{"kube-apiserver", "apiserver.example.org"})
	if err != nil {
		t.Fatal(err)
	}

	for name, test := range map[string]struct {
		callers *callers
		client  *x509.Certificate
		want    int
	}{
		"its client":                   {anybody, trusted.client("anybody"), http.StatusOK},
		"no certificate":               {anybody, nil, http.StatusUnauthorized},
		"of another authority":         {anybody, other.client("anybody"), http.StatusUnauthorized},
		"expired":                      {anybody, trusted.client("anybody", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), http.StatusUnauthorized},
		"for a server":                 {anybody, trusted.client("anybody", func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageServerAuth }), http.StatusUnauthorized},
		"of the name":                  {named, trusted.client("kube-apiserver"), http.StatusOK},
		"of another name":              {named, trusted.client("kubelet"), http.StatusForbidden},
		"of a DNS name":                {named, trusted.client("", func(c *x509.Certificate) { c.DNSNames = []string{"apiserver.example.org"} }), http.StatusOK},
		"of the name, by another one":  {named, other.client("kube-apiserver"), http.StatusUnauthorized},
		"of no name, where one counts": {named, trusted.client(""), http.StatusForbidden},
	} {
		connection := &tls.ConnectionState{}
		if test.client != nil {
			connection.PeerCertificates = []*x509.Certificate{test.client}
		}
		status, err := test.callers.judge(connection)
		if status != test.want || (err == nil) != (test.want == http.StatusOK) {
			t.Errorf("%s: got status %d and error %v, want status %d", name, status, err, test.want)
		}
	}

	// The authority is replaced while the server runs.
	other.write(path)
	state := func(client *x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{client}}
	}
	if status, _ := anybody.judge(state(trusted.client("anybody"))); status != http.StatusUnauthorized {
		t.Errorf("a client of the authority that was replaced: got status %d", status)
	}
	if status, err := anybody.judge(state(other.client("anybody"))); status != http.StatusOK {
		t.Errorf("a client of the new authority: got status %d and error %v", status, err)
	}
}

func TestNobodyIsServedWithoutTheAuthority(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	if _, err := newCallers(path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file got error %v", err)
	}
	if err := os.WriteFile(path, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newCallers(path, nil); err == nil {
		t.Error("a file without a certificate was taken")
	}
}

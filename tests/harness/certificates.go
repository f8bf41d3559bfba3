package harness

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
)

// Certificates is a folder with a serving certificate for this machine,
// tls.crt and tls.key, as a kubelet mounts a Secret that cert-manager keeps.
type Certificates struct {
	// Dir is the folder.
	Dir string
	// CABundle is what a client has to trust, in PEM.
	CABundle []byte

	authority *authority

	mu      sync.Mutex
	folder  mountedFolder
	current *x509.Certificate
}

// NewCertificates makes an authority and issues the first certificate.
func NewCertificates(dir string) (*Certificates, error) {
	authority, err := newAuthority("capv-static-ip harness, serving")
	if err != nil {
		return nil, err
	}
	c := &Certificates{Dir: dir, CABundle: authority.bundle, authority: authority, folder: mountedFolder{dir: dir}}
	return c, c.Renew()
}

// newCertificates makes a folder of certificates for one program.
func (c *ControlPlane) newCertificates(program string) (*Certificates, error) {
	dir, err := os.MkdirTemp(c.Dir, program+"-certificates-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for certificates: %w", err)
	}
	return NewCertificates(dir)
}

// Renew replaces the serving certificate by a new one of the same authority.
// A reader sees the old pair or the new one, never a mixture.
func (c *Certificates) Renew() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pair, err := c.authority.server()
	if err != nil {
		return err
	}
	err = c.folder.replace(map[string][]byte{"tls.crt": pair.cert, "tls.key": pair.key, "ca.crt": c.authority.bundle})
	if err != nil {
		return fmt.Errorf("renewing the serving certificate: %w", err)
	}
	c.current, err = parseCertificate(pair.cert)
	return err
}

// Current returns the certificate that a server of this folder should present.
func (c *Certificates) Current() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

func parseCertificate(content []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, errors.New("parsing a certificate: no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

package harness

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Certificates is a folder with a serving certificate for this machine,
// tls.crt and tls.key, as a kubelet mounts a Secret that cert-manager keeps:
// the files are links through ..data, and a renewal swaps that one link.
type Certificates struct {
	// Dir is the folder.
	Dir string
	// CABundle is what a client has to trust, in PEM.
	CABundle []byte

	authority *authority

	mu         sync.Mutex
	generation int
	current    *x509.Certificate
}

// NewCertificates makes an authority and issues the first certificate.
func NewCertificates(dir string) (*Certificates, error) {
	authority, err := newAuthority("capv-static-ip harness, serving")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a folder for certificates: %w", err)
	}
	c := &Certificates{Dir: dir, CABundle: authority.bundle, authority: authority}
	if err := c.Renew(); err != nil {
		return nil, err
	}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("linking a certificate: %w", err)
		}
	}
	return c, nil
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
	generation := c.generation + 1
	name := "..generation-" + strconv.Itoa(generation)
	if err := c.writeGeneration(filepath.Join(c.Dir, name), pair); err != nil {
		return fmt.Errorf("renewing the serving certificate: %w", err)
	}
	if err := c.swap(name); err != nil {
		return fmt.Errorf("renewing the serving certificate: %w", err)
	}
	// As the kubelet does, drop what nobody reads any more.
	if c.generation > 0 {
		if err := os.RemoveAll(filepath.Join(c.Dir, "..generation-"+strconv.Itoa(c.generation))); err != nil {
			return fmt.Errorf("removing the former serving certificate: %w", err)
		}
	}
	c.generation = generation
	c.current, err = parseCertificate(pair.cert)
	return err
}

func (c *Certificates) writeGeneration(dir string, pair keyPair) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), pair.cert, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pair.key, 0o600),
		os.WriteFile(filepath.Join(dir, "ca.crt"), c.authority.bundle, 0o600),
	)
}

func (c *Certificates) swap(name string) error {
	fresh := filepath.Join(c.Dir, "..data_tmp")
	if err := os.Symlink(name, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(c.Dir, "..data"))
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

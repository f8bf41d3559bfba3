package harness_test

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"capv-static-ip.dev/tests/harness"
)

func TestRenewedCertificateIsServedWithoutARestart(t *testing.T) {
	t.Parallel()
	certificates, err := harness.NewCertificates(filepath.Join(t.TempDir(), "certificates"))
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := certwatcher.New(filepath.Join(certificates.Dir, "tls.crt"), filepath.Join(certificates.Dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	// The watch on the files may begin only after the first renewal.
	watcher.WithWatchInterval(100 * time.Millisecond)
	served := make(chan *x509.Certificate, 16)
	watcher.RegisterCallback(func(pair tls.Certificate) { served <- pair.Leaf })
	go func() { _ = watcher.Start(t.Context()) }()

	for range 3 {
		if err := certificates.Renew(); err != nil {
			t.Fatal(err)
		}
		for want := certificates.Current(); ; {
			if got := <-served; got != nil && got.Equal(want) {
				break
			}
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificates.CABundle)
	if _, err := certificates.Current().Verify(x509.VerifyOptions{Roots: roots, DNSName: "127.0.0.1"}); err != nil {
		t.Errorf("the renewed certificate is not trusted for this machine: %v", err)
	}
}

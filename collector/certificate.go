package collector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

var (
	errNotWatched    = errors.New("the kind is not watched")
	errNoCertificate = errors.New("the server has shown no certificate")
)

// CertificateEndOf is when the certificate ends that the server on this host and port
// shows. The file that it came from may be newer than what is served.
func CertificateEndOf(host string, port int) func(context.Context) (time.Time, error) {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	// It is looked at, and not believed.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	return func(ctx context.Context) (time.Time, error) {
		connection, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return time.Time{}, fmt.Errorf("asking %s for its certificate: %w", address, err)
		}
		defer connection.Close()
		certificates := connection.(*tls.Conn).ConnectionState().PeerCertificates
		if len(certificates) == 0 {
			return time.Time{}, errNoCertificate
		}
		return certificates[0].NotAfter, nil
	}
}

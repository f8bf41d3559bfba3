package stack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"capv-static-ip.dev/tests/harness"
)

// Leader is the replica of capv-static-ip that runs the controllers, nil if none
// does now.
func (s *Stack) Leader(ctx context.Context) (*harness.Manager, error) {
	for _, manager := range s.running() {
		leads, err := manager.Metric(ctx, "leader_election_master_status", nil)
		if err != nil {
			return nil, err
		}
		if leads > 0 {
			return manager, nil
		}
	}
	return nil, nil
}

func (s *Stack) running() []*harness.Manager {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.Managers), func(m *harness.Manager) bool { return !m.Running() })
}

// ServingSerials are the serial numbers of the certificates that the replicas
// of capv-static-ip serve with now.
func (s *Stack) ServingSerials(ctx context.Context) ([]string, error) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // whoever it is, it is to say so
	var serials []string
	for _, manager := range s.running() {
		conn, err := dialer.DialContext(ctx, "tcp", manager.WebhookAddress)
		if err != nil {
			return nil, fmt.Errorf("looking at the certificate of %s: %w", manager.Name, err)
		}
		secured, ok := conn.(*tls.Conn)
		if !ok {
			return nil, errors.Join(fmt.Errorf("connecting to %s: not by TLS", manager.Name), conn.Close())
		}
		serials = append(serials, secured.ConnectionState().PeerCertificates[0].SerialNumber.String())
		if err := conn.Close(); err != nil {
			return nil, fmt.Errorf("looking at the certificate of %s: %w", manager.Name, err)
		}
	}
	return serials, nil
}

package stack

import (
	"context"
	"strconv"

	"capv-static-ip.dev/tests/harness"
)

// StartWorkload starts what kubeadm would start in the virtual machines of a
// Cluster: Nodes and, in those of its control plane, etcd and an API server,
// which is at this endpoint.
func (s *Stack) StartWorkload(ctx context.Context, namespace, cluster, host string, port int) (*harness.Process, error) {
	health, err := s.Plane.Address()
	if err != nil {
		return nil, err
	}
	debug, err := s.Plane.Port()
	if err != nil {
		return nil, err
	}
	return s.Plane.StartProgram(ctx, harness.Program{
		Name: "workload-" + namespace, Binary: "workload",
		Args: []string{
			"-kubeconfig=" + s.Plane.Kubeconfig,
			"-health-addr=" + health,
			"-debug-port=" + strconv.Itoa(debug),
			"-namespace=" + namespace,
			"-cluster=" + cluster,
			"-host=" + host,
			"-port=" + strconv.Itoa(port),
		},
		ReadyURL: "http://" + health + "/readyz",
	})
}

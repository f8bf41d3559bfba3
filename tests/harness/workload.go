package harness

import (
	"context"
	"net/http"
	"strconv"
)

const workloadProgram = "workload"

// Port reserves a port on the loopback interface, for as long as this control
// plane runs.
func (c *ControlPlane) Port() (int, error) { return c.ports.take() }

// StartWorkload starts what kubeadm would start in the virtual machines of a
// Cluster: Nodes and, in those of its control plane, etcd and an API server,
// which is at this port of 127.0.0.1.
func (c *ControlPlane) StartWorkload(ctx context.Context, namespace, cluster string, port int) (*Process, error) {
	binary, err := c.builder.Path(ctx, workloadProgram)
	if err != nil {
		return nil, err
	}
	health, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	debug, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	process := &Process{
		Name: workloadProgram + "-" + namespace, path: binary,
		args: []string{
			"-kubeconfig=" + c.Kubeconfig,
			"-health-addr=" + loopback(health),
			"-debug-port=" + strconv.Itoa(debug),
			"-namespace=" + namespace,
			"-cluster=" + cluster,
			"-port=" + strconv.Itoa(port),
		},
		ready: answers(http.DefaultTransport, "http://"+loopback(health)+"/readyz"),
	}
	return process, c.run(ctx, process)
}

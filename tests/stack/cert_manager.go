package stack

import (
	"context"

	"capv-static-ip.dev/tests/harness"
)

const (
	certManager = "cert-manager"
	// administrators are a group that may do everything.
	administrators = "system:masters"
)

// startCertManager starts cert-manager's controllers and its CA injector. They have
// all rights: the manifests that would say which they need are templates of a chart.
func startCertManager(ctx context.Context, plane *harness.ControlPlane) (*harness.Process, error) {
	identity, err := plane.Credentials(certManager, administrators)
	if err != nil {
		return nil, err
	}
	health, err := plane.Address()
	if err != nil {
		return nil, err
	}
	return plane.StartProgram(ctx, harness.Program{
		Name: certManager, Binary: certManager,
		Args:     []string{"--kubeconfig=" + identity.Kubeconfig, "--health-addr=" + health},
		ReadyURL: "http://" + health + "/readyz",
	})
}

package harness

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
)

const (
	certManagerProgram = "cert-manager"
	certManagerModule  = "github.com/cert-manager/cert-manager"
)

// StartCertManager starts cert-manager's controllers and its CA injector, on a
// control plane with the WholeStack of APIs. They have all rights: the manifests
// that would say which they need are templates of a chart.
func (c *ControlPlane) StartCertManager(ctx context.Context) (*Process, error) {
	binary, err := c.builder.Path(ctx, certManagerProgram)
	if err != nil {
		return nil, err
	}
	identity, err := c.Credentials(certManagerProgram, adminGroup)
	if err != nil {
		return nil, err
	}
	health, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	process := &Process{
		Name: certManagerProgram, path: binary,
		args:  []string{"--kubeconfig=" + identity.Kubeconfig, "--health-addr=" + loopback(health)},
		ready: answers(http.DefaultTransport, "http://"+loopback(health)+"/readyz"),
	}
	return process, c.run(ctx, process)
}

// stackDefinitions are those of the APIs that only the whole stack has.
func (c *ControlPlane) stackDefinitions(ctx context.Context) (manifests, error) {
	certManager, err := c.certManagerDefinitions(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := c.builder.ModuleDir(ctx, "cluster-api", capiModule)
	if err != nil {
		return nil, err
	}
	clusterctl, err := c.renderOnce(ctx, filepath.Join(dir, "cmd/clusterctl/config/crd"))
	if err != nil {
		return nil, err
	}
	return slices.Concat(certManager, clusterctl), nil
}

func (c *ControlPlane) certManagerDefinitions(ctx context.Context) (manifests, error) {
	dir, err := c.builder.ModuleDir(ctx, certManagerProgram, certManagerModule)
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "deploy/crds/*.yaml"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("finding the definitions of cert-manager in %s: %d files, error %w", dir, len(paths), err)
	}
	var all manifests
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the definitions of cert-manager: %w", err)
		}
		objects, err := parse(file)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		all = append(all, objects...)
	}
	return all, nil
}

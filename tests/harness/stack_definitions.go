package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

const (
	certManagerFamily = "cert-manager"
	certManagerModule = "github.com/cert-manager/cert-manager"
)

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
	dir, err := c.builder.ModuleDir(ctx, certManagerFamily, certManagerModule)
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

package harness

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	capiModule   = "sigs.k8s.io/cluster-api"
	capvModule   = "sigs.k8s.io/cluster-api-provider-vsphere"
	metal3Module = "github.com/metal3-io/ip-address-manager"
	metal3Family = "metal3-ipam"

	crdKind = "CustomResourceDefinition"
	// crdTimeout is how long all new APIs together may take until they are served.
	crdTimeout = 60 * time.Second
)

// definitions renders the definitions of all APIs, from the very modules that
// the project is built and tested with.
func (c *ControlPlane) definitions(ctx context.Context) (manifests, error) {
	sources := []struct{ family, module, dir string }{
		{"", capiModule, "config/crd"},
		{"", capiModule, "controlplane/kubeadm/config/crd"},
		{"", capvModule, "config/default/crd"},
		{metal3Family, metal3Module, "config/default"},
	}
	if c.options.WithoutMetal3 {
		sources = sources[:3]
	}
	rendered := make([]manifests, len(sources))
	group, ctx := errgroup.WithContext(ctx)
	for i, source := range sources {
		group.Go(func() error {
			dir, err := c.builder.ModuleDir(ctx, source.family, source.module)
			if err != nil {
				return err
			}
			rendered[i], err = c.render(ctx, filepath.Join(dir, source.dir))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all manifests
	for _, objects := range rendered {
		all = append(all, objects.only(crdKind)...)
	}
	return all, nil
}

// installCRDs installs definitions and waits until their APIs are served.
func (c *ControlPlane) installCRDs(ctx context.Context, objects manifests) error {
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, object := range objects.only(crdKind) {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, crd); err != nil {
			return fmt.Errorf("reading the definition of %s: %w", object.GetName(), err)
		}
		// The managers that would convert do not run here. What we store and
		// read has the same form in all served versions.
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
		crds = append(crds, crd)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{CRDs: crds, MaxTime: crdTimeout}); err != nil {
		return fmt.Errorf("installing definitions: %w", err)
	}
	return nil
}

// InstallMetal3CRDs installs the provider's API on a control plane that was
// started without it.
func (c *ControlPlane) InstallMetal3CRDs(ctx context.Context) error {
	dir, err := c.builder.ModuleDir(ctx, metal3Family, metal3Module)
	if err != nil {
		return err
	}
	objects, err := c.render(ctx, filepath.Join(dir, "config/default"))
	if err != nil {
		return err
	}
	if err := c.installCRDs(ctx, objects); err != nil {
		return err
	}
	// The garbage collector would find the new API only after half a minute.
	// It has no orderly way to stop.
	c.controllerManager.Kill()
	return c.controllerManager.Start(ctx)
}

func encodeBytes(content []byte) string { return base64.StdEncoding.EncodeToString(content) }

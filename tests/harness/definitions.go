package harness

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	capiModule = "sigs.k8s.io/cluster-api"
	capvModule = "sigs.k8s.io/cluster-api-provider-vsphere"

	crdKind = "CustomResourceDefinition"
	// crdTimeout is how long all new APIs together may take until they are served.
	crdTimeout = 60 * time.Second
	// clusterctlLabel is what clusterctl sets on all that it installs, and looks
	// for when it moves a Cluster.
	clusterctlLabel = "clusterctl.cluster.x-k8s.io"
)

// definitions renders the definitions of all APIs, from the very modules that
// the providers are built from.
func (c *ControlPlane) definitions(ctx context.Context) (manifests, error) {
	rendered := make([]manifests, len(providers)+1)
	group, ctx := errgroup.WithContext(ctx)
	for i, provider := range providers {
		if c.options.without(provider.name) {
			continue
		}
		group.Go(func() (err error) {
			rendered[i], err = c.definitionsOf(ctx, provider)
			return err
		})
	}
	if c.options.WholeStack {
		group.Go(func() (err error) {
			rendered[len(providers)], err = c.stackDefinitions(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(rendered...), nil
}

func (c *ControlPlane) definitionsOf(ctx context.Context, p provider) (manifests, error) {
	objects, err := c.renderProvider(ctx, c.options.definedBy(p))
	if err != nil {
		return nil, err
	}
	definitions := objects.only(crdKind)
	for _, object := range definitions {
		WithLabel(clusterctlLabel, "")(object)
		if err := c.setConversion(object, p); err != nil {
			return nil, fmt.Errorf("setting the conversion of %s: %w", object.GetName(), err)
		}
		if err := c.setClaimVersion(object); err != nil {
			return nil, fmt.Errorf("setting the version of %s: %w", object.GetName(), err)
		}
	}
	return definitions, nil
}

// setConversion makes a definition ask its provider's manager to convert
// between versions. Where that does not run, none is needed: what we store and
// read has the same form in all served versions.
func (c *ControlPlane) setConversion(definition *unstructured.Unstructured, p provider) error {
	path, found, err := unstructured.NestedString(definition.Object, "spec", "conversion", "webhook", "clientConfig", "service", "path")
	if err != nil {
		return err
	}
	if !found || !c.options.WholeStack {
		unstructured.RemoveNestedField(definition.Object, "spec", "conversion")
		return nil
	}
	endpoint, err := c.endpoint(p.name)
	if err != nil {
		return err
	}
	return unstructured.SetNestedMap(definition.Object, map[string]any{
		"url":      "https://" + loopback(endpoint.port) + path,
		"caBundle": encodeBytes(endpoint.certificates.CABundle),
	}, "spec", "conversion", "webhook", "clientConfig")
}

// setClaimVersion leaves one version of the claim API served and stored.
func (c *ControlPlane) setClaimVersion(definition *unstructured.Unstructured) error {
	names := []string{"ipaddressclaims.ipam.cluster.x-k8s.io", "ipaddresses.ipam.cluster.x-k8s.io"}
	if c.options.ClaimVersion == "" || !slices.Contains(names, definition.GetName()) {
		return nil
	}
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		return err
	}
	for _, version := range versions {
		if version, ok := version.(map[string]any); ok {
			only := version["name"] == c.options.ClaimVersion
			version["served"], version["storage"] = only, only
		}
	}
	return unstructured.SetNestedSlice(definition.Object, versions, "spec", "versions")
}

// installCRDs installs definitions and waits until their APIs are served.
func (c *ControlPlane) installCRDs(ctx context.Context, objects manifests) error {
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, object := range objects.only(crdKind) {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, crd); err != nil {
			return fmt.Errorf("reading the definition of %s: %w", object.GetName(), err)
		}
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

// InstallMetal3CRDs installs metal3's API on a control plane that was started
// without it.
func (c *ControlPlane) InstallMetal3CRDs(ctx context.Context) error {
	return c.installLater(ctx, metal3IPAM)
}

// InstallInClusterCRDs installs the pools of the in-cluster provider on a
// control plane that was started without them.
func (c *ControlPlane) InstallInClusterCRDs(ctx context.Context) error {
	return c.installLater(ctx, inClusterIPAM)
}

func (c *ControlPlane) installLater(ctx context.Context, name string) error {
	p, err := findProvider(name)
	if err != nil {
		return err
	}
	definitions, err := c.definitionsOf(ctx, p)
	if err != nil {
		return err
	}
	if err := c.installCRDs(ctx, definitions); err != nil {
		return err
	}
	// The garbage collector would find the new API only after half a minute.
	// It has no orderly way to stop.
	c.controllerManager.Kill()
	return c.controllerManager.Start(ctx)
}

func encodeBytes(content []byte) string { return base64.StdEncoding.EncodeToString(content) }

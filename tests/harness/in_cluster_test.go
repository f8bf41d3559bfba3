package harness_test

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

func TestInClusterProviderBindsClaims(t *testing.T) {
	inCluster, err := plane.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	global := harness.GlobalInClusterPool("harness-global", harness.InClusterAddresses("10.16.58.8"))
	create(t, harness.InClusterPool(ns), global, harness.Cluster(ns, harness.DefaultCluster))
	bind(t, harness.AddressClaim(ns, "first", harness.InClusterPoolKind, harness.DefaultInClusterPool,
		harness.WithClaimCluster(harness.DefaultCluster)))
	bind(t, harness.AddressClaim(ns, "second", harness.GlobalInClusterPoolKind, global.GetName()))

	if err := inCluster.Stop(); err != nil {
		t.Fatal(err)
	}
	err = plane.Client.Create(t.Context(), harness.InClusterPool(ns, harness.InClusterNamed("refused")))
	if !apierrors.IsInternalError(err) {
		t.Errorf("a pool made while the provider is stopped: got %v, want its webhook not to answer", err)
	}
	waiting := harness.AddressClaim(ns, "waiting", harness.InClusterPoolKind, harness.DefaultInClusterPool)
	create(t, waiting)
	if err := inCluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := harness.WaitBound(t.Context(), plane.Client, waiting, harness.Soon); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(inCluster.RemoveWebhooks(t.Context()), inCluster.Stop()); err != nil {
		t.Error(err)
	}
}

func TestProvidersCanComeLater(t *testing.T) {
	t.Parallel()
	later, err := harness.Start(t.Context(), harness.Options{
		WithoutMetal3:    true,
		WithoutInCluster: true,
		AdmissionPlugins: []string{"OwnerReferencesPermissionEnforcement"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := later.Stop(); err != nil {
			t.Error(err)
		}
	}()
	pools := []client.Object{harness.Pool("default"), harness.InClusterPool("default")}
	for _, pool := range pools {
		if err := later.Client.Create(t.Context(), pool); !meta.IsNoMatchError(err) {
			t.Errorf("creating a pool without its provider's API: got %v, want no such kind", err)
		}
	}
	if err := errors.Join(later.InstallMetal3CRDs(t.Context()), later.InstallInClusterCRDs(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, pool := range pools {
		if err := later.Client.Create(t.Context(), pool); err != nil {
			t.Errorf("creating a pool with its provider's API: %v", err)
		}
	}
}

package integration

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const (
	poolNotFound = `no IPPool and no InClusterIPPool "dkp-cluster" can be used in namespace "NAMESPACE", ` +
		`asked for by label cluster.x-k8s.io/ip-pool-name of the VSphereMachine: create the one that you mean or correct its name there`
	// quick is what the denial of an exhausted pool may take on a busy machine;
	// on an idle one it takes a fraction of a second.
	quick = 5 * time.Second
	// inVain is what one takes that waits for an address that does not come.
	inVain = 9 * time.Second
)

// hold is a finalizer of somebody else, which keeps an object in deletion.
const hold = "example.org/hold"

func TestMissingPoolIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)

	s.denyMachines(poolNotFound, harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
	if note := s.told(refusedName(0), "PoolNotFound"); note != s.text(poolNotFound) {
		t.Errorf("got the event %q, want the text of the denial", note)
	}
}

func TestMissingPoolOfATemplateIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Template(s.ns, "cp", harness.WithPool("nowhere")))

	s.denyMachines(`no IPPool and no InClusterIPPool "nowhere" can be used in namespace "NAMESPACE", `+
		`asked for by label cluster.x-k8s.io/ip-pool-name of VSphereMachineTemplate "cp": create the one that you mean or correct its name there`,
		harness.FromTemplate("cp"))

	s.expectNoClaims()
}

func TestExhaustedPoolIsDeniedQuickly(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 89))
		s.create(s.asks(f, "cp-0"), s.asks(f, "cp-1"))

		start := time.Now()
		s.denyMachines(exhausted(f, "2 of 2 addresses in use"), f.Ask(f.PoolName))
		if took := time.Since(start); took > quick {
			t.Errorf("the denials took %s, want less than %s", took, quick)
		}

		s.expectClaims(2)
	})
}

// All of them see an address that is free, and all but one find out too late: what
// metal3 tells their claims is never looked at again by metal3, and the in-cluster
// provider says nothing to them.
func TestRaceForTheLastAddressIsDeniedQuicklyToAllButOne(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 88))
		errs, took := make([]error, tries), make([]time.Duration, tries)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() {
				start := time.Now()
				errs[i] = s.env.Client.Create(t.Context(), s.asks(f, refusedName(i)))
				took[i] = time.Since(start)
			})
		}
		group.Wait()
		t.Logf("the answers took between %s and %s", slices.Min(took), slices.Max(took))

		winner := slices.IndexFunc(errs, func(err error) bool { return err == nil })
		if winner < 0 {
			t.Fatal("nobody got the address")
		}
		// Until the address is somebody's, there is something to wait for: that is the provider's time.
		given := took[winner]
		for i, err := range errs {
			if i == winner {
				continue
			}
			s.expectDenial(err, exhausted(f, "1 of 1 addresses in use"))
			if late, most := took[i]-given, (inVain-given)/2; late > most {
				t.Errorf("denial %d came %s after the address was given, want less than %s", i, late, most)
			}
		}
		s.expectNoOrphans()

		// The pool is not wedged by the claims that failed.
		s.delete(s.machine(refusedName(winner)))
		s.eventually("the address to go to the next", func(ctx context.Context) error {
			return s.env.Client.Create(ctx, s.asks(f, "next"))
		})
	})
}

func TestTwoDevicesAndOneFreeAddressTakeNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 89))
		s.create(s.asks(f, "cp-0"))
		if f.Is(harness.OfInCluster) {
			s.counted(2, 1)
		}

		// The label names a pool for both devices, whatever the provider.
		s.denyMachines(exhausted(f, "1 of 2 addresses in use and the machine needs 2"),
			harness.WithPool(f.PoolName), harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))

		s.expectClaims(1)
		s.create(s.asks(f, "cp-1"))
	})
}

func TestTerminatingPoolIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, harness.WithFinalizer(hold))
		s.delete(pool)
		s.knownToTerminate(f.Reference(f.PoolName).Kind + "/" + f.PoolName)

		s.denyMachines(poolText(f)+` is being deleted: name another pool in `+f.AskedBy, f.Ask(f.PoolName))

		s.expectNoClaims()
		s.dropFinalizer(pool, hold)
		s.gone(pool)
	})
}

func TestPoolOfAClusterThatDoesNotExistIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(poolOf(s.ns, "nobody"))

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" is not served: its spec.clusterName is "nobody", `+
		`and that Cluster does not exist; create the Cluster or correct the pool`,
		harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
	s.create(harness.Cluster(s.ns, "nobody"))
	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestPoolOfAPausedClusterIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Cluster(s.ns, "other", paused), poolOf(s.ns, "other"))

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" is not served: it or its Cluster "other" is paused; resume it`,
		harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
}

func TestAddressesThatCannotBeInjectedAreDenied(t *testing.T) {
	t.Parallel()
	const unusable = `IPPool "dkp-cluster" in namespace "NAMESPACE" answered with an unusable address: `
	six := ipamv1.IPAddressStr("2001:db8::1")

	for name, test := range map[string]struct {
		pool   harness.PoolOption
		denial string
	}{
		"a prefix too long for IPv4": {
			pool:   func(pool *ipamv1.IPPool) { pool.Spec.Prefix = 64 },
			denial: unusable + `its prefix length is 64, which must be 1 to 32; correct the pool`,
		},
		"no prefix": {
			pool:   func(pool *ipamv1.IPPool) { pool.Spec.Prefix = 0 },
			denial: unusable + `its prefix length is 0, which must be 1 to 32; correct the pool`,
		},
		"a gateway of the other family": {
			pool:   func(pool *ipamv1.IPPool) { pool.Spec.Gateway = &six },
			denial: unusable + `its gateway 2001:db8::1 is of the other family; correct the pool`,
		},
		"an address set aside that is not in the pool": {
			pool: func(pool *ipamv1.IPPool) {
				pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{}
				for i := range tries {
					pool.Spec.PreAllocations[refusedName(i)+"-0"] = "10.99.0.1"
				}
			},
			denial: `IPPool "dkp-cluster" in namespace "NAMESPACE" refused a claim: Pre-allocated IP out of bond; correct the pool`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.188"), test.pool))

			s.denyMachines(test.denial, harness.WithPool(harness.DefaultPool))

			s.noClaims()
		})
	}
}

func TestTooLittleTimeIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	hasty := s.client(func(config *rest.Config) { config.Timeout = 2 * time.Second })

	for i := range tries {
		s.expectDenial(hasty.Create(t.Context(), harness.Machine(s.ns, refusedName(i), harness.WithPool(harness.DefaultPool))),
			`the API server grants this call less than 3s, too little to bind an address: `+
				`raise timeoutSeconds in the webhook configuration, or the client's own timeout`)
	}

	s.expectNoClaims()
}

func TestBindingsThatCannotBeReadAreDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	s.denyMachines(`annotation capv-static-ip.dev/bindings cannot be read as bindings: remove it, so that addresses are claimed anew`,
		harness.WithPool(harness.DefaultPool), harness.WithAnnotation("capv-static-ip.dev/bindings", "{"))

	s.expectNoClaims()
}

// A pool of a Cluster, which metal3 serves only while that Cluster is served.
func poolOf(namespace, cluster string) client.Object {
	return harness.Pool(namespace, func(pool *ipamv1.IPPool) { pool.Spec.ClusterName = &cluster })
}

func paused(object client.Object) {
	if cluster, ok := object.(*clusterv1.Cluster); ok {
		cluster.Spec.Paused = yes()
	}
}

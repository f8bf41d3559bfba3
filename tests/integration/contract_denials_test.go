package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

const byAnnotation = "annotation pools.capv-static-ip.dev/0 of the VSphereMachine"

func TestReferencesThatAreNoneAreDenied(t *testing.T) {
	t.Parallel()
	const invalid = byAnnotation + " is not a reference to a pool: "
	const forms = "; write NAME, KIND/NAME or KIND.GROUP/NAME"
	for name, test := range map[string]struct{ ref, denial string }{
		"nothing":        {"", invalid + `"" is not the name of a pool` + forms},
		"no name":        {"InClusterIPPool/", invalid + `"" is not the name of a pool` + forms},
		"no kind":        {"/lab", invalid + `"" is not a kind` + forms},
		"too many parts": {"default/InClusterIPPool/lab", invalid + `"InClusterIPPool/lab" is not the name of a pool` + forms},
		"no group":       {"InClusterIPPool./lab", invalid + `"" is not an API group` + forms},
		"capitals":       {"Lab", invalid + `"Lab" is not the name of a pool` + forms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)

			s.denyMachines(test.denial, withPoolOf("0", test.ref))

			s.expectNoClaims()
		})
	}
}

func TestMachineThatAnInClusterPoolCannotServeIsDenied(t *testing.T) {
	t.Parallel()
	annotated := func(key, value string) func(*scene) {
		return func(s *scene) { s.inClusterPool(harness.InClusterWith(harness.WithAnnotation(key, value))) }
	}
	for name, test := range map[string]struct {
		prepare func(*scene)
		ref     string
		denial  string
	}{
		"a kind that nobody serves": {
			ref: "Nothing.ipam.example.com/lab",
			denial: `Nothing "lab" in namespace "NAMESPACE", asked for by ` + byAnnotation + `, cannot exist: ` +
				`no kind Nothing.ipam.example.com is served; install its IPAM provider or correct the kind`,
		},
		"a pool that does not exist": {
			prepare: func(s *scene) { s.inClusterPool() },
			ref:     "InClusterIPPool/nowhere",
			denial: `InClusterIPPool "nowhere" in namespace "NAMESPACE" not found, asked for by ` + byAnnotation +
				`: create the pool or correct its name there`,
		},
		"a global pool that does not exist": {
			ref: "GlobalInClusterIPPool/nowhere",
			denial: `GlobalInClusterIPPool "nowhere" not found, asked for by ` + byAnnotation +
				`: create the pool or correct its name there`,
		},
		"an IPPool that does not exist": {
			ref: "IPPool/nowhere",
			denial: `IPPool "nowhere" not found in namespace "NAMESPACE", asked for by ` + byAnnotation +
				`: create the pool or correct its name there`,
		},
		"a name that no pool has": {
			ref: "nowhere",
			denial: `no IPPool and no InClusterIPPool "nowhere" can be used in namespace "NAMESPACE", asked for by ` + byAnnotation +
				`: create the one that you mean or correct its name there`,
		},
		"a paused pool": {
			prepare: annotated("cluster.x-k8s.io/paused", ""),
			denial:  inClusterName + ` is not served: it is paused; resume it`,
		},
		"a Cluster that does not exist": {
			prepare: func(s *scene) { s.create(harness.InClusterPool(s.ns)) },
			denial: inClusterName + ` is not served for Cluster "dkp", which does not exist: ` +
				`create the Cluster or correct label cluster.x-k8s.io/cluster-name of the machine`,
		},
		"a Cluster that is paused by an annotation": {
			prepare: func(s *scene) {
				s.create(harness.InClusterPool(s.ns),
					harness.Cluster(s.ns, harness.DefaultCluster, harness.WithAnnotation("cluster.x-k8s.io/paused", "")))
			},
			denial: inClusterName + ` is not served for Cluster "dkp", which is paused: resume it`,
		},
		"name servers that are none": {
			prepare: annotated(nameservers, "10.16.57.10,dns.example.org"),
			denial: inClusterName + ` has an invalid annotation capv-static-ip.dev/nameservers: ` +
				`it must hold IP addresses separated by commas; correct it`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			if test.prepare != nil {
				test.prepare(s)
			}
			if test.ref == "" {
				test.ref = inClusterRef
			}

			s.denyMachines(test.denial, withPoolOf("0", test.ref))

			s.expectNoClaims()
		})
	}
}

// The only address changes hands so fast that its provider may never write down
// that it was free: nobody learns from the pool that he came too late.
func TestAddressThatChangesHandsAllTheTimeIsDeniedQuicklyToTheOthers(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
	const askers, turns = 5, 2
	var group sync.WaitGroup
	for asker := range askers {
		group.Go(func() {
			for turn := range turns {
				s.takeAndGiveBack(fmt.Sprintf("asker-%d-%d", asker, turn))
			}
		})
	}
	group.Wait()
}

// takeAndGiveBack asks for an address until it gets one, and checks that each
// answer comes quickly.
func (s *scene) takeAndGiveBack(name string) {
	for try := 0; s.Context().Err() == nil; try++ {
		// As Cluster API does, each try is under a new name.
		start, machine := time.Now(), s.inClusterMachine(fmt.Sprintf("%s-%d", name, try))
		err := s.env.Client.Create(s.Context(), machine)
		if took := time.Since(start); took > quick {
			s.Errorf("the answer took %s, want less than %s: %v", took, quick, err)
		}
		if err == nil {
			if err := s.env.Client.Delete(s.Context(), machine); err != nil {
				s.Error(err)
			}
			return
		}
		if !strings.Contains(err.Error(), "is exhausted: 1 of 1 addresses in use") {
			s.Errorf("got the error %v, want that the pool is exhausted", err)
		}
	}
}

func TestExhaustedPoolOfTheSecondDeviceTakesNothingFromTheFirst(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{
		"an in-cluster pool": harness.InClusterPoolKind + "/roomy",
		"an IPPool":          "IPPool/" + harness.DefaultPool,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
			s.create(harness.Pool(s.ns),
				harness.InClusterPool(s.ns, harness.InClusterNamed("roomy"), harness.InClusterAddresses("10.16.57.90-10.16.57.91")))
			for i := range 2 {
				s.create(s.inClusterMachine(fmt.Sprintf("cp-%d", i)))
			}

			s.denyMachines(exhausted(harness.OfInCluster, "2 of 2 addresses in use"), withPoolOf("0", first), withPoolOf("1", inClusterRef),
				harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))

			s.expectClaims(2)
		})
	}
}

// counted waits until the in-cluster provider says so of its pool.
func (s *scene) counted(total, free int64) {
	s.Helper()
	s.eventually("the pool to be counted", func(ctx context.Context) error {
		pool := harness.InClusterPool(s.ns)
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		counts, _, err := unstructured.NestedMap(pool.Object, "status", "ipAddresses")
		if err == nil && (counts["total"] != total || counts["free"] != free) {
			err = fmt.Errorf("it says %v", counts)
		}
		return err
	})
}

package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const (
	byAnnotation = "annotation pools.capv-static-ip.dev/0 of the VSphereMachine"
	// inClusterExhausted is of a pool with two addresses.
	inClusterExhausted = inClusterName + ` is exhausted: 2 of 2 addresses in use; ` +
		`add addresses to the pool or delete a machine that holds one`
	// quick is what the denial of an exhausted pool may take on a busy machine;
	// on an idle one it takes a fraction of a second. One that waits for an
	// address that does not come takes 9 s.
	quick = 5 * time.Second
)

func TestReferencesThatAreNoneAreDenied(t *testing.T) {
	t.Parallel()
	const invalid = byAnnotation + " is not a reference to a pool: "
	const forms = "; write NAME, KIND/NAME or KIND.GROUP/NAME"
	for name, test := range map[string]struct{ ref, denial string }{
		"nothing":           {"", invalid + `"" is not the name of a pool` + forms},
		"no name":           {"InClusterIPPool/", invalid + `"" is not the name of a pool` + forms},
		"no kind":           {"/lab", invalid + `"" is not a kind` + forms},
		"too many parts":    {"default/InClusterIPPool/lab", invalid + `"InClusterIPPool/lab" is not the name of a pool` + forms},
		"no group":          {"InClusterIPPool./lab", invalid + `"" is not an API group` + forms},
		"capitals":          {"Lab", invalid + `"Lab" is not the name of a pool` + forms},
		"one pool or else":  {"lab|other", byAnnotation + ` names several pools ("lab|other"): name one`},
		"one pool and more": {"lab,other", byAnnotation + ` names several pools ("lab,other"): name one`},
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
		"a name that no pool has": {
			ref: "nowhere",
			denial: `IPPool "nowhere" not found in namespace "NAMESPACE", asked for by ` + byAnnotation +
				`: create the pool or correct its name there`,
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

func TestTerminatingInClusterPoolIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := s.inClusterPool(harness.InClusterWith(harness.WithFinalizer(hold)))
	s.delete(pool)
	s.knownToTerminate(inClusterRef)

	s.denyMachines(inClusterName+` is being deleted: name another pool in `+byAnnotation, withPoolOf("0", inClusterRef))

	s.expectNoClaims()
	s.dropFinalizer(pool, hold)
	s.gone(pool)
}

func TestExhaustedInClusterPoolIsDeniedQuickly(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
	for i := range 2 {
		s.create(s.inClusterMachine(fmt.Sprintf("cp-%d", i)))
	}

	start := time.Now()
	s.denyMachines(inClusterExhausted, withPoolOf("0", inClusterRef))
	if took := time.Since(start); took > quick {
		t.Errorf("the denials took %s, want less than %s", took, quick)
	}

	if claims := s.addressClaims(); len(claims) != 2 {
		t.Errorf("got %d claims, want those of the two machines", len(claims))
	}
}

// All of them see an address that is free. The in-cluster provider says nothing
// to those that come too late.
func TestRaceForTheLastInClusterAddressIsDeniedQuicklyToAllButOne(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
	errs, took := make([]error, tries), make([]time.Duration, tries)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			start := time.Now()
			errs[i] = s.env.Client.Create(t.Context(), s.inClusterMachine(refusedName(i)))
			took[i] = time.Since(start)
		})
	}
	group.Wait()
	t.Logf("the answers took between %s and %s", slices.Min(took), slices.Max(took))

	winner := ""
	for i, err := range errs {
		if err == nil && winner == "" {
			winner = refusedName(i)
			continue
		}
		s.expectDenial(err, inClusterName+` is exhausted: 1 of 1 addresses in use; `+
			`add addresses to the pool or delete a machine that holds one`)
		if took[i] > quick {
			t.Errorf("denial %d took %s, want less than %s", i, took[i], quick)
		}
	}
	s.expectNoOrphans()
	if winner == "" {
		t.Fatal("nobody got the address")
	}

	s.delete(s.machine(winner))
	s.eventually("the address to go to the next", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.inClusterMachine("next"))
	})
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

// takeAndGiveBack asks for an address until it gets one, and sees that each
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

			s.denyMachines(inClusterExhausted, withPoolOf("0", first), withPoolOf("1", inClusterRef),
				harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))

			if claims := s.allClaims(); len(claims) != 2 {
				t.Errorf("got %d claims, want those of the two machines", len(claims))
			}
		})
	}
}

func TestTwoDevicesAndOneFreeInClusterAddressTakeNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
	s.create(s.inClusterMachine("cp-0"))
	s.counted(2, 1)

	s.denyMachines(inClusterName+` is exhausted: 1 of 2 addresses in use and the machine needs 2; `+
		`add addresses to the pool or delete a machine that holds one`,
		harness.WithPool(harness.DefaultInClusterPool), harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))

	if claims := s.addressClaims(); len(claims) != 1 {
		t.Errorf("got %d claims, want that of cp-0", len(claims))
	}
	s.create(s.inClusterMachine("cp-1"))
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

func TestForeignAddressClaimOfTheNameIsDeniedAndLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	claim := harness.AddressClaim(s.ns, "cp-0-0", harness.InClusterPoolKind, harness.DefaultInClusterPool, harness.WithFinalizer(hold))
	s.create(claim)
	if _, err := harness.WaitAddress(t.Context(), s.env.Client, claim, harness.Soon); err != nil {
		t.Fatal(err)
	}

	s.denyMachine(`claim "cp-0-0" in namespace "NAMESPACE" exists and belongs to something else: delete it, give the machine another name, or annotate the claim with capv-static-ip.dev/for: <name of the machine>`,
		"cp-0", withPoolOf("0", inClusterRef))

	after := &capiipamv1.IPAddressClaim{}
	if err := s.env.Client.Get(t.Context(), s.key("cp-0-0"), after); err != nil {
		t.Fatal(err)
	}
	expectSame(s, "the claim that is not ours", after, claim)
}

func TestNameOfAMachineWhoseVMUsesAnInClusterAddressIsDeniedQuickly(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	ip := s.inClusterSettled("cp-0")
	vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(hold))
	s.create(vm)
	s.delete(machine)
	s.gone(machine)
	s.noClaims()

	start := time.Now()
	s.denyMachine(`claim "cp-0-0" of InClusterIPPool "dkp-in-cluster" in namespace "NAMESPACE", or its address, is still being deleted: retry when it is gone`,
		"cp-0", withPoolOf("0", inClusterRef))
	if took := time.Since(start); took > tries*quick {
		t.Errorf("the denials took %s, want less than %s", took, tries*quick)
	}

	s.dropFinalizer(vm, hold)
	s.gone(vm)
	s.inClusterReturned(ip)
}

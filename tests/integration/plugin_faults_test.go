package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/tests/harness"
)

// moves has clusterctl take a pool along.
var moves = harness.WithLabel("clusterctl.cluster.x-k8s.io/move-hierarchy", "")

// faults is a control plane on which everything is wrong at once. What was given to machines
// was really given; then nobody works on it any more, so that what is broken stays so.
type faults struct{ *scene }

// newFaults has machines that hold addresses, and stops who would mend what comes.
func newFaults(t *testing.T) *faults {
	t.Helper()
	env := ownEnvironment(t, harness.Options{}, 1)
	f := &faults{bareScene(t, env)}
	f.pool(harness.OfMetal3, harness.OfMetal3.WithIPs(88, 99), moves)
	f.create(f.aPool("shrunk", "10.16.60.10", "10.16.60.12"))
	for _, name := range []string{"twice", "guest", "lost", "hangs"} {
		f.create(f.asks(harness.OfMetal3, name))
	}
	f.create(harness.Machine(f.ns, "outside", harness.WithPool("shrunk")))
	f.eventually("the addresses to be adopted", f.adopted("twice", "guest", "lost", "hangs", "outside"))
	f.failOpen() // SIP-011
	if err := env.managers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	return f
}

// aPool is a metal3 pool of a range, that moves.
func (f *faults) aPool(name, first, last string, options ...harness.Option) client.Object {
	all := append([]harness.Option{harness.WithPoolName(name), harness.WithRange(first, last), harness.WithGateway("10.16.64.1"), moves}, options...)
	return harness.OfMetal3.Pool(f.ns, all...)
}

// breakClaims makes claims of nobody, of the adapter, and one that is refused: SIP-004,
// SIP-014 and SIP-016. The provider still answers them. Then it ends.
func (f *faults) breakClaims() {
	f.Helper()
	f.bind(f.orphan(harness.OfMetal3, "never-stored", 20*time.Minute))
	f.fromAdapter("adapter")
	f.older(harness.Claim(f.ns, "adapter-0", harness.DefaultPool), 20*time.Minute)
	f.create(f.aPool("full", "10.16.65.10", "10.16.65.10"))
	f.bind(f.claimed("first", "full"))
	late := f.claimed("late", "full")
	f.eventually("the provider to refuse a claim", func(ctx context.Context) error {
		if err := f.env.Client.Get(ctx, client.ObjectKeyFromObject(late), late); err != nil || harness.OfMetal3.Provider.ReadClaim(late).Failure != "" {
			return err
		}
		return errors.New("it says nothing")
	})
	f.older(late, 20*time.Minute)
	if err := errors.Join(f.env.metal3.RemoveWebhooks(f.Context()), f.env.metal3.Stop()); err != nil {
		f.Fatal(err)
	}
}

func (f *faults) claimed(name, pool string) client.Object {
	claim := harness.OfMetal3.Claim(f.ns, name, pool)
	f.create(claim)
	return claim
}

func (f *faults) older(object client.Object, by time.Duration) {
	f.Helper()
	if err := f.env.MakeOlder(f.Context(), object, by); err != nil {
		f.Fatal(err)
	}
}

// breakPools makes pools that are wrong: SIP-002, SIP-003, SIP-008, SIP-009, SIP-010, SIP-013,
// SIP-015 and SIP-019.
func (f *faults) breakPools() {
	f.Helper()
	shrunk := &ipamv1.IPPool{}
	shrunk.Namespace, shrunk.Name = f.ns, "shrunk"
	f.change(shrunk, func() { shrunk.Spec.Pools = []ipamv1.Pool{harness.Range("10.16.60.11", "10.16.60.12")} })
	f.create(
		f.aPool("office", "10.16.61.10", "10.16.61.20"), f.aPool("annex", "10.16.61.15", "10.16.61.30"),
		f.aPool("gateway", "10.16.62.1", "10.16.62.9", harness.WithGateway("10.16.62.1")),
		f.aPool("one-name", "10.16.63.10", "10.16.63.19"),
		harness.InClusterPool(f.ns, harness.InClusterNamed("one-name"), harness.InClusterAddresses("10.16.63.20-10.16.63.29")),
		f.aPool("small", "10.16.66.10", "10.16.66.10"), f.aPool("roomy", "10.16.67.10", "10.16.67.19"),
		harness.OfMetal3.Pool(f.ns, harness.WithPoolName("stays"), harness.WithRange("10.16.68.10", "10.16.68.19")),
		f.aPool("frozen", "10.16.69.10", "10.16.69.19", harness.WithAnnotation(ipam.FrozenAnnotation, because)),
	)
	template := harness.Template(f.ns, "md", harness.WithPool("small"))
	set := harness.MachineSet(f.ns, "refused", "other", harness.WithAnnotation(ipam.RefusedByAnnotation, "IPPool.ipam.metal3.io/roomy"))
	f.create(template, harness.MachineDeployment(f.ns, "md-0", template.Name, "100%"), set)
	f.older(set, 20*time.Minute)
}

// breakMachines makes machines, and what belongs to them, that are wrong: SIP-001, SIP-005,
// SIP-006, SIP-007, SIP-012, SIP-017 and SIP-018.
func (f *faults) breakMachines() {
	f.Helper()
	of := harness.OfMetal3
	f.create(
		f.static("by-hand", harness.Addresses(f.machine("twice"))[0]), f.static("static", of.IP(97)+"/24"),
		f.protectedForNobody(of.IP(98)),
	)
	waits := harness.Machine(f.ns, "waits")
	f.create(waits)
	f.older(waits, 2*time.Minute)
	f.loses("lost")
	vm := harness.VSphereVM(f.machine("guest"))
	f.create(vm)
	vm.Status.Addresses = []string{"10.9.9.9"}
	if err := f.env.Client.Status().Update(f.Context(), vm); err != nil {
		f.Fatal(err)
	}
	hangs := f.machine("hangs")
	f.delete(hangs)
	f.older(hangs, 20*time.Minute)
}

func (f *faults) static(name, address string) client.Object {
	return harness.Machine(f.ns, name, harness.WithDevices(harness.FixedDevice(address)))
}

// protectedForNobody is an address object as it is left when claim, machine and VM are gone.
func (f *faults) protectedForNobody(ip string) client.Object {
	address := &ipamv1.IPAddress{}
	address.Namespace, address.Name = f.ns, "left-over"
	address.Spec.Pool.Name, address.Spec.Claim.Name = harness.DefaultPool, "gone-0"
	address.Spec.Address, address.Spec.Prefix = ipamv1.IPAddressStr(ip), 24
	ipam.Protect(address, "gone")
	return address
}

// loses takes the claim and the address of a machine away by force.
func (f *faults) loses(machine string) {
	f.Helper()
	claim, err := f.claim(machine)
	if err != nil {
		f.Fatal(err)
	}
	address, err := f.address(f.ip(machine))
	if err != nil {
		f.Fatal(err)
	}
	for _, object := range []client.Object{claim, address} {
		if err := f.env.Client.Delete(f.Context(), object); client.IgnoreNotFound(err) != nil {
			f.Fatal(err)
		}
		f.stripFinalizers(object)
	}
}

func TestAuditTellsOfEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	f := newFaults(t)
	f.breakClaims()
	f.breakPools()
	f.breakMachines()

	f.golden("audit", 1, "audit")
	f.golden("pools_broken", 0, "pools")
	f.golden("pool_broken", 0, "pool", harness.DefaultPool, "--grid")

	found := map[string]bool{}
	for _, finding := range decoded[v1alpha1.Finding](f.scene, 1, "Finding", "audit") {
		found[finding.Check] = true
	}
	for _, id := range inventory.CheckIDs() {
		// No vCenter is asked here.
		if !found[string(id)] && id != inventory.GuestInPool {
			t.Errorf("%s finds nothing here", id)
		}
	}
	problems := 0
	for _, holding := range decoded[v1alpha1.Holding](f.scene, 0, "Holding", "pool", harness.DefaultPool) {
		if holding.Problem != "" {
			problems++
		}
	}
	if pool := f.usage("IPPool/" + harness.DefaultPool); pool.Problems < 6 || problems < 6 {
		t.Errorf("pool %s has %d problems, and %d addresses have one: want 6 or more", pool.Pool, pool.Problems, problems)
	}
}

package ledger_test

import (
	"fmt"
	"slices"
	"testing"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

func typeOf(obj any) string { return fmt.Sprintf("%T", obj) }

// waiting is a claim on the pool that was made for a machine of anOwner.
func waiting(machine string) *metal3v1.IPClaim {
	c := &metal3v1.IPClaim{ObjectMeta: named(machine + "-0")}
	c.Spec.Pool.Name = "pool"
	c.Annotations = map[string]string{ipam.RequestedByAnnotation: ipam.RequestedBy(anOwner)}
	ipam.Mark(c, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: machine}})
	return c
}

func machine(name string) *capi.VSphereMachine { return &capi.VSphereMachine{ObjectMeta: named(name)} }

// requested are the claims of anOwner, and how many wait for what is not stored.
func (w *world) requested() (names []string, unstored int) {
	w.t.Helper()
	names, known := w.ledger.Requested(aProvider, "ns", anOwner)
	unstored, alsoKnown := w.ledger.Unstored(aProvider, "ns", aPool)
	if !known || !alsoKnown {
		w.t.Fatal("claims are not counted")
	}
	return names, unstored
}

func (w *world) wantRequested(why string, unstored int, names ...string) {
	w.t.Helper()
	got, count := w.requested()
	if !slices.Equal(got, names) || count != unstored {
		w.t.Errorf("%s: got claims %v, %d of them unstored; want %v and %d", why, got, count, names, unstored)
	}
}

func TestClaimWaitsUntilItsMachineIsStored(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	w.wantRequested("nothing is there", 0)
	w.add(waiting("m"))
	w.wantRequested("no machine", 1, "m-0")
	w.add(machine("m"))
	w.wantRequested("the machine is stored", 0)
	w.remove(machine("m"))
	w.wantRequested("the machine is gone", 1, "m-0")
	w.remove(waiting("m"))
	w.wantRequested("the claim is gone", 0)

	w.add(machine("n"))
	w.add(waiting("n"))
	w.wantRequested("the machine was seen before its claim", 0)
}

func TestClaimThatAMachineHasAdoptedWaitsForNothing(t *testing.T) {
	for name, change := range map[string]func(*metal3v1.IPClaim){
		"it has an owner": func(c *metal3v1.IPClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "m", UID: "m"}}
		},
		"it is being deleted":                         func(c *metal3v1.IPClaim) { c.DeletionTimestamp = new(metav1.Now()) },
		"it says no more on whose behalf it was made": func(c *metal3v1.IPClaim) { delete(c.Annotations, ipam.RequestedByAnnotation) },
		"it names no machine":                         func(c *metal3v1.IPClaim) { delete(c.Annotations, ipam.MachineNameAnnotation) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.begin(all)
			claim := waiting("m")
			w.add(claim)
			now := claim.DeepCopy()
			change(now)
			w.add(now)
			w.wantRequested("it", 0)
		})
	}
}

func TestClaimThatWasKeptForItsOwnerIsKnownWhateverMachinesThereAre(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	kept := waiting("m")
	kept.Annotations[ipam.KeptAnnotation] = "x"
	w.add(kept, machine("m"))
	w.wantRequested("a machine of the name is stored", 0, "m-0")
	w.remove(machine("m"))
	w.wantRequested("it is gone", 1, "m-0")
	w.add(waiting("m"))
	w.wantRequested("it is used again", 1, "m-0")
	w.add(machine("m"))
	w.wantRequested("and its machine is stored", 0)
}

func TestClaimOfAnEndpointWaitsForItsVSphereCluster(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	claim := waiting("c")
	claim.Annotations = map[string]string{ipam.RequestedByAnnotation: ipam.RequestedBy(anOwner), ipam.ClusterNameAnnotation: "c"}
	w.add(claim, machine("c"))
	w.wantRequested("a machine has its name", 1, "c-0")
	w.add(&capi.VSphereCluster{ObjectMeta: named("c")})
	w.wantRequested("it is stored", 0)
}

func TestClaimsAreNotCountedBeforeMachinesAre(t *testing.T) {
	w := newWorld(t)
	w.machines.unsynced = true
	w.begin(all)
	if _, known := w.ledger.Requested(aProvider, "ns", anOwner); known {
		t.Error("all machines may be stored, and it is known which are not")
	}
	if _, known := w.ledger.SetAside(aProvider, "ns", aPool); !known {
		t.Error("what is set aside waits for machines")
	}
}

func TestAddressesThatAreSetAsideAreCountedByTheirPool(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	aside := func(namespace, name, pool string) client.Object {
		c := &metal3v1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{ipam.SetAsideLabel: ""}}}
		c.Spec.Pool.Name = pool
		return c
	}
	w.add(aside("ns", "a", "pool"), aside("ns", "b", "pool"), aside("ns", "c", "other"), aside("elsewhere", "a", "pool"))
	count := func(namespace string) int {
		n, _ := w.ledger.SetAside(aProvider, namespace, aPool)
		return n
	}
	if count("ns") != 2 || count("") != 3 {
		t.Errorf("got %d, and %d in all namespaces; want 2 and 3", count("ns"), count(""))
	}
	w.remove(aside("ns", "a", "pool"))
	w.add(&metal3v1.IPClaim{ObjectMeta: named("b")})
	if count("ns") != 0 || count("") != 1 {
		t.Errorf("got %d, and %d in all namespaces; want none and 1", count("ns"), count(""))
	}
}

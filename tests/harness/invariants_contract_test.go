package harness_test

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/tests/harness"
)

// boundInCluster is a machine with one address of the default in-cluster pool.
func boundInCluster(name, address string) *capvv1.VSphereMachine {
	machine := bound(name, address)
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		panic(err)
	}
	bindings.Bindings[0].Pool = contract.InClusterPool(harness.DefaultInClusterPool)
	text, err := bindings.Encode()
	if err != nil {
		panic(err)
	}
	harness.WithAnnotation(ipam.BindingsAnnotation, text)(machine)
	return machine
}

// claimedInCluster is the claim of a machine, last used so long ago.
func claimedInCluster(machine string, ago time.Duration) *capiipamv1.IPAddressClaim {
	claim := harness.AddressClaim(ns, ipam.ClaimName(machine, 0), harness.InClusterPoolKind, harness.DefaultInClusterPool)
	claim.UID = types.UID("claim-" + machine)
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: ns, Name: machine}})
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-ago), Request: "request"})
	return claim
}

// answerInCluster is the address that the provider made for a claim.
func answerInCluster(claim *capiipamv1.IPAddressClaim, value string, options ...harness.Option) *capiipamv1.IPAddress {
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "address-" + value}}
	address.Spec.Address, address.Spec.PoolRef, address.Spec.ClaimRef.Name = value, claim.Spec.PoolRef, claim.Name
	address.OwnerReferences = []metav1.OwnerReference{{APIVersion: "ipam.cluster.x-k8s.io/v1beta2", Kind: "IPAddressClaim", Name: claim.Name, UID: claim.UID}}
	for _, option := range options {
		option(address)
	}
	return address
}

func TestInvariantsOfTheClusterAPIContract(t *testing.T) {
	t.Parallel()
	const a, b = "10.16.57.88", "10.16.57.89"
	claim := claimedInCluster("cp-0", time.Hour)
	outlived := harness.VSphereVM(boundInCluster("cp-0", a))
	elsewhere := answerInCluster(claim, a)
	elsewhere.Spec.PoolRef.Name = "elsewhere"
	for name, test := range map[string]struct {
		objects []client.Object
		broken  string
	}{
		"a bound machine":                    {objects: []client.Object{boundInCluster("cp-0", a), claim, answerInCluster(claim, a, protected("cp-0"))}},
		"two machines with one address":      {objects: []client.Object{boundInCluster("cp-0", a), boundInCluster("cp-1", a), claim, answerInCluster(claim, a)}, broken: "I1"},
		"one address of two kinds of pools":  {objects: []client.Object{boundInCluster("cp-0", a), claim, answerInCluster(claim, a), bound("cp-1", a), claimed("cp-1", 0), answer(claimed("cp-1", 0), a)}, broken: "I1"},
		"a machine without address object":   {objects: []client.Object{boundInCluster("cp-0", a), claim}, broken: "I2"},
		"an address of another pool":         {objects: []client.Object{boundInCluster("cp-0", a), claim, elsewhere}, broken: "I2"},
		"an address of another kind of pool": {objects: []client.Object{boundInCluster("cp-0", a), claimed("cp-0", 0), answer(claimed("cp-0", 0), a)}, broken: "I2"},
		"an address answering somebody else": {objects: []client.Object{boundInCluster("cp-0", a), claim, boundInCluster("cp-1", b), claimedInCluster("cp-1", 0), answerInCluster(claimedInCluster("cp-1", 0), a), answerInCluster(claimedInCluster("cp-1", 0), b)}, broken: "I2"},
		"a claim deleted by hand, protected": {objects: []client.Object{boundInCluster("cp-0", a), answerInCluster(claim, a, protected("cp-0"))}},
		"a claim deleted by hand, bare":      {objects: []client.Object{boundInCluster("cp-0", a), answerInCluster(claim, a)}, broken: "I2"},
		"a VM that outlived its machine":     {objects: []client.Object{harness.InClusterPool(ns), outlived, answerInCluster(claim, a, protected("cp-0"))}},
		"a VM whose address is free":         {objects: []client.Object{harness.InClusterPool(ns), outlived}, broken: "I2"},
		"a VM with one of a network, free":   {objects: []client.Object{harness.InClusterPool(ns, harness.InClusterAddresses("10.16.57.0/24")), outlived}, broken: "I2"},
		"a VM with one of a global pool":     {objects: []client.Object{harness.GlobalInClusterPool("g", harness.InClusterAddresses(a)), outlived}, broken: "I2"},
		"a VM with an address of nobody's":   {objects: []client.Object{harness.InClusterPool(ns, harness.InClusterAddresses(b)), outlived}},
		"a claim without machine, in time":   {objects: []client.Object{claimedInCluster("cp-0", time.Second)}},
		"a claim without machine, too old":   {objects: []client.Object{claim}, broken: "I3"},
		"somebody else's claim":              {objects: []client.Object{harness.AddressClaim(ns, "theirs", harness.InClusterPoolKind, harness.DefaultInClusterPool)}},
		"an address protected for nobody":    {objects: []client.Object{answerInCluster(claim, a, protected("cp-0"))}, broken: "I3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake.NewClientBuilder().WithScheme(harness.Scheme).WithObjects(test.objects...).Build()
			got := errors.Join(harness.CheckInvariants(t.Context(), c, harness.InvariantOptions{GracePeriod: time.Minute})...)
			var broken *harness.Violation
			switch {
			case test.broken == "" && got != nil:
				t.Errorf("got %v, want nothing wrong", got)
			case test.broken != "" && (!errors.As(got, &broken) || broken.Invariant != test.broken):
				t.Errorf("got %v, want %s to be violated", got, test.broken)
			}
		})
	}
}

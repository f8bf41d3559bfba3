package harness_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const ns = "default"

// bound is a machine with one address of the default pool.
func bound(name, address string) *capvv1.VSphereMachine {
	bindings := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{{
		Pool:    ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: harness.DefaultPool},
		Claim:   ipam.ClaimName(name, 0),
		Address: netip.MustParsePrefix(address + "/24"),
	}}}
	text, err := bindings.Encode()
	if err != nil {
		panic(err)
	}
	machine := harness.Machine(ns, name, harness.WithDevices(harness.FixedDevice(address+"/24")),
		harness.WithAnnotation(ipam.BindingsAnnotation, text))
	machine.UID = types.UID("machine-" + name)
	return machine
}

// claimed is the claim of a machine, last used so long ago.
func claimed(machine string, ago time.Duration) *ipamv1.IPClaim {
	claim := harness.Claim(ns, ipam.ClaimName(machine, 0), harness.DefaultPool)
	claim.UID = types.UID("claim-" + machine)
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: ns, Name: machine}})
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-ago), Request: "request"})
	return claim
}

// answer is the address that metal3 made for a claim.
func answer(claim *ipamv1.IPClaim, value string, options ...harness.Option) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "address-" + value}}
	address.Spec.Address = ipamv1.IPAddressStr(value)
	address.Spec.Pool.Name = harness.DefaultPool
	address.Spec.Claim.Name = claim.Name
	address.OwnerReferences = []metav1.OwnerReference{{APIVersion: "ipam.metal3.io/v1alpha1", Kind: "IPClaim", Name: claim.Name, UID: claim.UID}}
	for _, option := range options {
		option(address)
	}
	return address
}

// protected is what our finalizer and marks make of an address.
func protected(machine string) harness.Option {
	return func(object client.Object) {
		harness.WithFinalizer(ipam.InUseFinalizer)(object)
		harness.WithAnnotation(ipam.MachineNameAnnotation, machine)(object)
		harness.WithAnnotation(ipam.MachineUIDAnnotation, "machine-"+machine)(object)
	}
}

// held is a claim that is being deleted and that our finalizer holds.
func held(machine string) *ipamv1.IPClaim {
	claim := claimed(machine, time.Hour)
	claim.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	claim.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: capvv1.GroupVersion.String(), Kind: "VSphereMachine", Name: machine, UID: types.UID("machine-" + machine),
	}}
	harness.WithFinalizer(ipam.InUseFinalizer)(claim)
	return claim
}

func TestInvariants(t *testing.T) {
	t.Parallel()
	const a, b = "10.16.56.88", "10.16.56.89"
	claim := claimed("cp-0", time.Hour)
	outlived := harness.VSphereVM(bound("cp-0", a))
	vm := func(options ...harness.Option) *capvv1.VSphereVM {
		vm := outlived.DeepCopy()
		vm.OwnerReferences = nil
		for _, option := range options {
			option(vm)
		}
		return vm
	}
	reports := func(object client.Object) {
		object.(*capvv1.VSphereVM).Spec.Network.Devices = nil
		object.(*capvv1.VSphereVM).Status.Addresses = []string{"fe80::1", a}
	}
	for name, test := range map[string]struct {
		objects []client.Object
		broken  string
	}{
		"nothing there":                      {},
		"a bound machine":                    {objects: []client.Object{bound("cp-0", a), claim, answer(claim, a, protected("cp-0"))}},
		"two machines with one address":      {objects: []client.Object{bound("cp-0", a), harness.Machine(ns, "copy", harness.WithDevices(harness.FixedDevice(a+"/24"))), claim, answer(claim, a)}, broken: "I1"},
		"two addresses set by hand":          {objects: []client.Object{harness.Machine(ns, "x", harness.WithDevices(harness.FixedDevice(b+"/24"))), harness.Machine(ns, "y", harness.WithDevices(harness.FixedDevice(b+"/24")))}},
		"a machine without address object":   {objects: []client.Object{bound("cp-0", a), claim}, broken: "I2"},
		"an address answering somebody else": {objects: []client.Object{bound("cp-0", a), claim, bound("cp-1", b), claimed("cp-1", 0), answer(claimed("cp-1", 0), a), answer(claimed("cp-1", 0), b)}, broken: "I2"},
		"a claim deleted by hand, protected": {objects: []client.Object{bound("cp-0", a), answer(claim, a, protected("cp-0"))}},
		"a claim deleted by hand, bare":      {objects: []client.Object{bound("cp-0", a), answer(claim, a)}, broken: "I2"},
		"a VM that outlived its machine":     {objects: []client.Object{harness.Pool(ns), outlived, answer(claim, a, protected("cp-0"))}},
		"a VM whose address is free":         {objects: []client.Object{harness.Pool(ns), outlived}, broken: "I2"},
		"a VM without owner, address kept":   {objects: []client.Object{harness.Pool(ns), vm(), answer(claim, a, protected("cp-0"))}},
		"a VM without owner, address free":   {objects: []client.Object{harness.Pool(ns), vm()}, broken: "I2"},
		"a VM that reports a free address":   {objects: []client.Object{harness.Pool(ns), vm(reports)}, broken: "I2"},
		"a VM whose address another has":     {objects: []client.Object{harness.Pool(ns), vm(), claimed("cp-1", 0), answer(claimed("cp-1", 0), a)}, broken: "I2"},
		"a VM made by hand":                  {objects: []client.Object{harness.Pool(ns), vm(harness.WithAnnotation(harness.ByHandAnnotation, "true"))}},
		"a claim without machine, in time":   {objects: []client.Object{claimed("cp-0", time.Second)}},
		"a claim without machine, too old":   {objects: []client.Object{claim}, broken: "I3"},
		"a claim held for its machine":       {objects: []client.Object{bound("cp-0", a), held("cp-0"), answer(claim, a, protected("cp-0"))}},
		"a claim held for nobody":            {objects: []client.Object{held("cp-0")}, broken: "I3"},
		"somebody else's claim":              {objects: []client.Object{harness.Claim(ns, "theirs", harness.DefaultPool)}},
		"an address protected for nobody":    {objects: []client.Object{answer(claim, a, protected("cp-0"))}, broken: "I3"},
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

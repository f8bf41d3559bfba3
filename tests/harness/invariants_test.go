package harness_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const ns = "default"

// of makes what there is of the addresses of one provider.
type of struct{ harness.Fixture }

// bound is a machine with one address of the default pool.
func (f of) bound(name, address string) *capvv1.VSphereMachine {
	bindings := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{{
		Pool:    f.Reference(f.PoolName),
		Claim:   ipam.ClaimName(name, ipam.Slot{Device: 0}),
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

// owned is a bound machine that has its Machine.
func (f of) owned(name, address string) *capvv1.VSphereMachine {
	machine := f.bound(name, address)
	harness.WithOwner(ownerIn(""))(machine)
	return machine
}

// ownerIn is a Machine in a failure domain.
func ownerIn(domain string) *clusterv1.Machine {
	owner := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "owner", UID: "owner"}}
	owner.Spec.FailureDomain = domain
	return owner
}

// claimed is the claim of a machine, last used so long ago.
func (f of) claimed(machine string, ago time.Duration) client.Object {
	claim := f.Claim(ns, ipam.ClaimName(machine, ipam.Slot{Device: 0}), f.PoolName)
	claim.SetUID(types.UID("claim-" + machine))
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: ns, Name: machine}})
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-ago), Request: "request"})
	return claim
}

// held is a claim that is being deleted and that our finalizer holds.
func (f of) held(machine string) client.Object {
	claim := f.claimed(machine, time.Hour)
	claim.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
	claim.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: capvv1.GroupVersion.String(), Kind: "VSphereMachine", Name: machine, UID: types.UID("machine-" + machine),
	}})
	harness.WithFinalizer(ipam.InUseFinalizer)(claim)
	return claim
}

// answer is the address that a provider made for a claim.
func answer(claim client.Object, value string, options ...harness.Option) client.Object {
	provider := harness.ProviderOf(claim)
	address := ipam.EmptyAddress(provider)
	switch address := address.(type) {
	case *ipamv1.IPAddress:
		address.Spec.Address = ipamv1.IPAddressStr(value)
		address.Spec.Pool.Name, address.Spec.Claim.Name = provider.ReadClaim(claim).Pool.Name, claim.GetName()
	case *capiipamv1.IPAddress:
		address.Spec.Address, address.Spec.PoolRef = value, claim.(*capiipamv1.IPAddressClaim).Spec.PoolRef
		address.Spec.ClaimRef.Name = claim.GetName()
	}
	address.SetNamespace(ns)
	address.SetName("address-" + value)
	harness.WithOwner(claim)(address)
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

// cools makes a claim, or an address, one whose machine went so long ago.
func cools(object client.Object, machine string, ago time.Duration) client.Object {
	at := time.Now().Add(-ago)
	if ipam.IsProtected(object) {
		ipam.CoolAddress(object, ipam.Holder{Name: machine}, at)
		return object
	}
	ipam.CoolClaim(object, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: ns, Name: machine}}, at)
	return object
}

// state is what there is, and which invariant it breaks.
type state struct {
	objects []client.Object
	broken  string
}

func TestInvariants(t *testing.T) {
	t.Parallel()
	for _, f := range harness.Fixtures {
		f, a, b := of{f}, f.IP(88), f.IP(89)
		claim := f.claimed("cp-0", time.Hour)
		outlived := harness.VSphereVM(f.bound("cp-0", a))
		vm := func(options ...harness.Option) *capvv1.VSphereVM {
			vm := outlived.DeepCopy()
			vm.OwnerReferences = nil
			for _, option := range options {
				option(vm)
			}
			return vm
		}
		cooling := f.Pool(ns, harness.WithAnnotation(ipam.ReuseAfterAnnotation, "1h"))
		reports := func(object client.Object) {
			object.(*capvv1.VSphereVM).Spec.Network.Devices = nil
			object.(*capvv1.VSphereVM).Status.Addresses = []string{"fe80::1", a}
		}
		for name, test := range map[string]state{
			"nothing there":                      {},
			"a bound machine":                    {objects: []client.Object{f.bound("cp-0", a), claim, answer(claim, a, protected("cp-0"))}},
			"two machines with one address":      {objects: []client.Object{f.bound("cp-0", a), harness.Machine(ns, "copy", harness.WithDevices(harness.FixedDevice(a+"/24"))), claim, answer(claim, a)}, broken: "I1"},
			"two addresses set by hand":          {objects: []client.Object{harness.Machine(ns, "x", harness.WithDevices(harness.FixedDevice(b+"/24"))), harness.Machine(ns, "y", harness.WithDevices(harness.FixedDevice(b+"/24")))}},
			"a machine without address object":   {objects: []client.Object{f.bound("cp-0", a), claim}, broken: "I2"},
			"an address answering somebody else": {objects: []client.Object{f.bound("cp-0", a), claim, f.bound("cp-1", b), f.claimed("cp-1", 0), answer(f.claimed("cp-1", 0), a), answer(f.claimed("cp-1", 0), b)}, broken: "I2"},
			"a claim deleted by hand, protected": {objects: []client.Object{f.bound("cp-0", a), answer(claim, a, protected("cp-0"))}},
			"a claim deleted by hand, bare":      {objects: []client.Object{f.bound("cp-0", a), answer(claim, a)}, broken: "I2"},
			"a VM that outlived its machine":     {objects: []client.Object{f.Pool(ns), outlived, answer(claim, a, protected("cp-0"))}},
			"a VM whose address is free":         {objects: []client.Object{f.Pool(ns), outlived}, broken: "I2"},
			"a VM without owner, address kept":   {objects: []client.Object{f.Pool(ns), vm(), answer(claim, a, protected("cp-0"))}},
			"a VM without owner, address free":   {objects: []client.Object{f.Pool(ns), vm()}, broken: "I2"},
			"a VM that reports a free address":   {objects: []client.Object{f.Pool(ns), vm(reports)}, broken: "I2"},
			"a VM whose address another has":     {objects: []client.Object{f.Pool(ns), vm(), f.claimed("cp-1", 0), answer(f.claimed("cp-1", 0), a)}, broken: "I2"},
			"a VM made by hand":                  {objects: []client.Object{f.Pool(ns), vm(harness.WithAnnotation(harness.ByHandAnnotation, "true"))}},
			"a claim without machine, in time":   {objects: []client.Object{f.claimed("cp-0", time.Second)}},
			"a claim without machine, too old":   {objects: []client.Object{claim}, broken: "I3"},
			"a claim held for its machine":       {objects: []client.Object{f.bound("cp-0", a), f.held("cp-0"), answer(claim, a, protected("cp-0"))}},
			"a claim held for nobody":            {objects: []client.Object{f.held("cp-0")}, broken: "I3"},
			"a VM on a network of its pool":      {objects: []client.Object{f.Pool(ns, harness.WithAnnotation(ipam.NetworksAnnotation, "VM Network")), f.bound("cp-0", a), outlived, claim, answer(claim, a)}},
			"a VM on a network that is not":      {objects: []client.Object{f.Pool(ns, harness.WithAnnotation(ipam.NetworksAnnotation, "other")), f.bound("cp-0", a), outlived, claim, answer(claim, a)}, broken: "I9"},
			"a machine of its pool's domain":     {objects: []client.Object{f.Pool(ns, harness.WithAnnotation(ipam.FailureDomainsAnnotation, "zone-a")), f.owned("cp-0", a), ownerIn("zone-a"), claim, answer(claim, a)}},
			"a machine of another domain":        {objects: []client.Object{f.Pool(ns, harness.WithAnnotation(ipam.FailureDomainsAnnotation, "zone-b")), f.owned("cp-0", a), ownerIn("zone-a"), claim, answer(claim, a)}, broken: "I9"},
			"somebody else's claim":              {objects: []client.Object{f.Claim(ns, "theirs", f.PoolName)}},
			"an address that cools down":         {objects: []client.Object{cooling, cools(f.claimed("cp-0", time.Hour), "cp-0", time.Minute), cools(answer(claim, a, protected("cp-0")), "cp-0", time.Minute)}},
			"a claim that cools down too long":   {objects: []client.Object{cooling, cools(f.claimed("cp-0", time.Hour), "cp-0", 2*time.Hour)}, broken: "I3"},
			"an address that cools too long":     {objects: []client.Object{cooling, cools(answer(claim, a, protected("cp-0")), "cp-0", 2*time.Hour)}, broken: "I3"},
			"a cooling address of no pool yet":   {objects: []client.Object{cools(answer(claim, a, protected("cp-0")), "cp-0", time.Minute)}},
			"a cooling address of no pool":       {objects: []client.Object{cools(answer(claim, a, protected("cp-0")), "cp-0", 2*time.Hour)}, broken: "I3"},
			"an address given while it cools":    {objects: []client.Object{cooling, f.bound("cp-0", a), claim, cools(answer(claim, a, protected("cp-0")), "cp-0", time.Minute)}, broken: "I1"},
			"an address protected for nobody":    {objects: []client.Object{answer(claim, a, protected("cp-0"))}, broken: "I3"},
		} {
			t.Run(f.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				test.expect(t)
			})
		}
	}
}

func TestInvariantsOfPoolsOfOtherKinds(t *testing.T) {
	t.Parallel()
	m, f := of{harness.OfMetal3}, of{harness.OfInCluster}
	const a, b = "10.16.57.88", "10.16.57.89"
	claim := f.claimed("cp-0", time.Hour)
	outlived := harness.VSphereVM(f.bound("cp-0", a))
	elsewhere := answer(claim, a)
	elsewhere.(*capiipamv1.IPAddress).Spec.PoolRef.Name = "elsewhere"
	for name, test := range map[string]state{
		"two bound machines with one address": {objects: []client.Object{f.bound("cp-0", a), f.bound("cp-1", a), claim, answer(claim, a)}, broken: "I1"},
		"one address of two kinds of pools":   {objects: []client.Object{f.bound("cp-0", a), claim, answer(claim, a), m.bound("cp-1", a), m.claimed("cp-1", 0), answer(m.claimed("cp-1", 0), a)}, broken: "I1"},
		"an address of another pool":          {objects: []client.Object{f.bound("cp-0", a), claim, elsewhere}, broken: "I2"},
		"an address of another kind of pool":  {objects: []client.Object{f.bound("cp-0", a), m.claimed("cp-0", 0), answer(m.claimed("cp-0", 0), a)}, broken: "I2"},
		"a VM with one of a network, free":    {objects: []client.Object{harness.InClusterPool(ns, harness.InClusterAddresses("10.16.57.0/24")), outlived}, broken: "I2"},
		"a VM with one of a global pool":      {objects: []client.Object{harness.GlobalInClusterPool("g", harness.InClusterAddresses(a)), outlived}, broken: "I2"},
		"a VM with an address of nobody's":    {objects: []client.Object{harness.InClusterPool(ns, harness.InClusterAddresses(b)), outlived}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.expect(t)
		})
	}
}

func (s state) expect(t *testing.T) {
	t.Helper()
	c := fake.NewClientBuilder().WithScheme(harness.Scheme).WithObjects(s.objects...).Build()
	options := harness.InvariantOptions{GracePeriod: time.Minute}
	got := errors.Join(harness.CheckInvariants(t.Context(), c, options)...)
	if err := harness.Disagreement(t.Context(), s.forProduct(t), got, options, 0); err != nil {
		t.Errorf("%v (%v)", err, got)
	}
	var broken *harness.Violation
	switch {
	case s.broken == "" && got != nil:
		t.Errorf("got %v, want nothing wrong", got)
	case s.broken != "" && (!errors.As(got, &broken) || broken.Invariant != s.broken):
		t.Errorf("got %v, want %s to be violated", got, s.broken)
	}
}

// forProduct is a client with the same state, in the types of the product.
func (s state) forProduct(t *testing.T) client.Client {
	t.Helper()
	scheme, err := harness.ProductScheme(testrestmapper.TestOnlyStaticRESTMapper(harness.Scheme))
	if err != nil {
		t.Fatal(err)
	}
	b := fake.NewClientBuilder().WithScheme(scheme)
	for _, object := range s.objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			t.Fatal(err)
		}
		gvk, err := apiutil.GVKForObject(object, harness.Scheme)
		if err != nil {
			t.Fatal(err)
		}
		copied := &unstructured.Unstructured{Object: content}
		copied.SetGroupVersionKind(gvk)
		b.WithObjects(copied)
	}
	return b.Build()
}

package allocator

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// firstCall is what an earlier call for the create of the machine cp-0 has made: a
// claim, its address, and the binding that it answered with.
type firstCall struct {
	claim   *ipamv1.IPClaim
	address *ipamv1.IPAddress
	binding ipam.Binding
}

func firstCallOf(device int, ip string) *firstCall {
	c := &firstCall{claim: claimNamed(ipam.ClaimName("cp-0", ipam.Slot{Device: device}), "one"), address: &ipamv1.IPAddress{}}
	c.claim.UID = types.UID("claim of " + ip)
	ipam.Mark(c.claim, cp0())
	ipam.Use(c.claim, ipam.Stamp{Time: time.Now(), Request: "first"})
	kube.SetAnnotation(c.claim, ipam.RequestedByAnnotation, "none")
	c.claim.Status.Address = &corev1.ObjectReference{Name: "one-" + ip}
	c.address.Namespace, c.address.Name, c.address.Finalizers = "ns", "one-"+ip, []string{ipam.InUseFinalizer}
	c.address.OwnerReferences = []metav1.OwnerReference{{Kind: "IPClaim", Name: c.claim.Name, UID: c.claim.UID}}
	kube.SetAnnotation(c.address, ipam.MachineNameAnnotation, "cp-0")
	c.address.Spec.Address, c.address.Spec.Pool.Name = ipamv1.IPAddressStr(ip), "one"
	c.address.Spec.Claim.Name = c.claim.Name
	c.binding = ipam.Binding{
		Device: ipam.Device{Index: device}, Pool: metal3.PoolNamed("one"), Claim: c.claim.Name,
		Address: netip.PrefixFrom(netip.MustParseAddr(ip), 24),
	}
	return c
}

func cp0() ipam.Machine {
	return ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}
}

func (c *firstCall) objects() []client.Object { return []client.Object{c.claim, c.address} }

// The API server calls a second time where a webhook behind ours changed the machine.
func TestBindingsAreUnderWayIfAllOfThemAre(t *testing.T) {
	first, second := firstCallOf(0, "10.0.0.10"), firstCallOf(1, "10.0.0.11")
	for name, test := range map[string]struct {
		bindings []ipam.Binding
		objects  []client.Object
		want     bool
	}{
		"one":                    {[]ipam.Binding{first.binding}, first.objects(), true},
		"two":                    {[]ipam.Binding{first.binding, second.binding}, append(first.objects(), second.objects()...), true},
		"two, the first is not":  {[]ipam.Binding{first.binding, second.binding}, second.objects(), false},
		"two, the second is not": {[]ipam.Binding{first.binding, second.binding}, first.objects(), false},
		"none":                   {nil, first.objects(), false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := played(t, test.objects...).IsUnderWay(t.Context(), cp0(), test.bindings)
			if err != nil || got != test.want {
				t.Errorf("got %t and error %v, want %t", got, err, test.want)
			}
		})
	}
}

// What is not under way belongs to a machine that lived before.
func TestBindingIsUnderWayOnlyForTheCreateThatMadeIt(t *testing.T) {
	gone := metav1.Now()
	for name, test := range map[string]struct {
		change func(*firstCall)
		want   bool
	}{
		"as it was made":               {func(*firstCall) {}, true},
		"its address in IPv6 notation": {func(c *firstCall) { c.address.Spec.Address = "::ffff:10.0.0.10" }, true},

		"its claim gone":          {func(c *firstCall) { c.claim.Name = "another" }, false},
		"its claim being deleted": {func(c *firstCall) { c.claim.DeletionTimestamp, c.claim.Finalizers = &gone, []string{"any"} }, false},
		"its claim owned":         {func(c *firstCall) { c.claim.OwnerReferences = []metav1.OwnerReference{{Name: "cp-0", UID: "uid"}} }, false},
		"its claim adopted":       {func(c *firstCall) { delete(c.claim.Annotations, ipam.RequestedByAnnotation) }, false},
		"its claim for another machine": {func(c *firstCall) {
			ipam.Mark(c.claim, ipam.Machine{NamespacedName: types.NamespacedName{Name: "cp-9"}})
		}, false},
		"its claim marked by half":          {func(c *firstCall) { delete(c.claim.Labels, ipam.MachineLabel) }, false},
		"its claim named by half":           {func(c *firstCall) { delete(c.claim.Annotations, ipam.MachineNameAnnotation) }, false},
		"its claim used a request ago":      {func(c *firstCall) { ipam.Use(c.claim, ipam.Stamp{Time: time.Now().Add(-apiRequestLimit)}) }, false},
		"its claim never used":              {func(c *firstCall) { delete(c.claim.Annotations, ipam.LastUsedAnnotation) }, false},
		"its claim on another pool":         {func(c *firstCall) { c.claim.Spec.Pool.Name = "two" }, false},
		"its claim for another device":      {func(c *firstCall) { c.binding.Device.Index = 1 }, false},
		"its claim for no device":           {func(c *firstCall) { c.claim.Name, c.binding.Claim = "kept", "kept" }, false},
		"its address gone":                  {func(c *firstCall) { c.address.Name = "another" }, false},
		"its address another one":           {func(c *firstCall) { c.address.Spec.Address = "10.0.0.99" }, false},
		"its address being deleted":         {func(c *firstCall) { c.address.DeletionTimestamp = &gone }, false},
		"its address of an earlier claim":   {func(c *firstCall) { c.address.OwnerReferences[0].UID = "earlier" }, false},
		"its address for another machine":   {func(c *firstCall) { c.address.Annotations[ipam.MachineNameAnnotation] = "cp-9" }, false},
		"its address of a machine that was": {func(c *firstCall) { c.address.Annotations[ipam.MachineUIDAnnotation] = "uid" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := firstCallOf(0, "10.0.0.10")
			test.change(c)

			got, err := played(t, c.objects()...).IsUnderWay(t.Context(), cp0(), []ipam.Binding{c.binding})
			if err != nil || got != test.want {
				t.Errorf("got %t and error %v, want %t", got, err, test.want)
			}
		})
	}
}

// The first call may have been another replica's.
func TestBindingThatTheCacheDoesNotHaveYetIsUnderWay(t *testing.T) {
	c := firstCallOf(0, "10.0.0.10")
	a := played(t)
	a.live = played(t, c.objects()...).client

	if got, err := a.IsUnderWay(t.Context(), cp0(), []ipam.Binding{c.binding}); err != nil || !got {
		t.Errorf("got %t and error %v, want it to be under way", got, err)
	}
}

// The machine's own annotation may be gone.
func TestMachineHoldsTheAddressesThatNameIt(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ipamv1.IPAddress)
		want   string
	}{
		"of this machine":               {func(a *ipamv1.IPAddress) { a.Annotations[ipam.MachineUIDAnnotation] = "uid" }, "10.0.0.10/32"},
		"not adopted yet":               {func(*ipamv1.IPAddress) {}, "10.0.0.10/32"},
		"in IPv6 notation":              {func(a *ipamv1.IPAddress) { a.Spec.Address = "::ffff:10.0.0.10" }, "10.0.0.10/32"},
		"of IPv6":                       {func(a *ipamv1.IPAddress) { a.Spec.Address = "fd00::1" }, "fd00::1/128"},
		"no address":                    {func(a *ipamv1.IPAddress) { a.Spec.Address = "none" }, ""},
		"of another machine":            {func(a *ipamv1.IPAddress) { a.Annotations[ipam.MachineNameAnnotation] = "cp-9" }, ""},
		"of an earlier one of its name": {func(a *ipamv1.IPAddress) { a.Annotations[ipam.MachineUIDAnnotation] = "earlier" }, ""},
		"of another namespace":          {func(a *ipamv1.IPAddress) { a.Namespace = "other" }, ""},
		"of a VSphereCluster of its name": {func(a *ipamv1.IPAddress) {
			delete(a.Annotations, ipam.MachineNameAnnotation)
			a.Annotations[ipam.ClusterNameAnnotation] = "cp-0"
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			address := firstCallOf(0, "10.0.0.10").address
			test.change(address)

			held, err := played(t, address).Held(t.Context(), cp0(), "uid")

			var want []ipam.Binding
			if test.want != "" {
				want = []ipam.Binding{{Pool: metal3.PoolNamed("one"), Claim: "cp-0-0", Address: netip.MustParsePrefix(test.want)}}
			}
			if err != nil || !reflect.DeepEqual(held, want) {
				t.Errorf("got %v and error %v, want %v", held, err, want)
			}
		})
	}
}

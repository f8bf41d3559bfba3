package collector

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
)

var aBinding = ipam.Binding{Pool: metal3.PoolNamed("p"), Claim: "m-0", Address: netip.MustParsePrefix("10.0.0.1/24")}

// parts are a machine with its claim and its address, as they are when all is well.
type parts struct {
	machine *capi.VSphereMachine
	claim   *metal3v1.IPClaim
	address *metal3v1.IPAddress
}

func whole() *parts {
	p := &parts{
		machine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "m", UID: "m-uid", Finalizers: []string{"capv", ipam.ReleaseFinalizer}, Annotations: map[string]string{},
		}},
		claim:   &metal3v1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m-0"}},
		address: anAddress("p", "10.0.0.1", "m-0", map[string]string{ipam.MachineNameAnnotation: "m", ipam.MachineUIDAnnotation: "m-uid"}),
	}
	text, err := ipam.Bindings{Machine: "m", Bindings: []ipam.Binding{aBinding}}.Encode()
	if err != nil {
		panic(err)
	}
	p.machine.Annotations[ipam.BindingsAnnotation] = text
	p.machine.Spec.Network.Devices = []capi.Device{{NetworkName: "n", IPAddrs: []string{"10.0.0.1/24"}}}
	p.claim.Spec.Pool.Name = "p"
	p.claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "m", UID: "m-uid"}}
	p.claim.Status.Address = &p.claim.Spec.Pool
	p.claim.Status.Address = p.claim.Status.Address.DeepCopy()
	p.claim.Status.Address.Name = p.address.Name
	p.address.Finalizers = []string{ipam.InUseFinalizer}
	return p
}

func (p *parts) objects() []client.Object {
	objects := []client.Object{p.machine}
	if p.claim != nil {
		objects = append(objects, p.claim)
	}
	if p.address != nil {
		objects = append(objects, p.address)
	}
	return objects
}

// noClaim and noAddress take a part away.
func noClaim(p *parts)   { p.claim = nil }
func noAddress(p *parts) { p.address = nil }

func TestStateOfABinding(t *testing.T) {
	now := metav1.NewTime(time.Now())
	failed, other := "exhausted", metal3v1.IPAddressStr("10.0.0.2")
	for name, test := range map[string]struct {
		changes []func(*parts)
		want    bindingState
	}{
		"whole": {nil, held},
		"not adopted": {[]func(*parts){func(p *parts) {
			p.claim.OwnerReferences = nil
			ipam.Mark(p.claim, ipam.Machine{NamespacedName: client.ObjectKeyFromObject(p.machine)})
		}}, unadopted},
		"not protected":               {[]func(*parts){func(p *parts) { p.address.Finalizers = nil }}, unadopted},
		"not bound yet":               {[]func(*parts){func(p *parts) { p.claim.Status.Address = nil }}, unadopted},
		"recreated":                   {[]func(*parts){func(p *parts) { p.claim.Annotations = map[string]string{ipam.RecreatedAnnotation: "x"} }}, unadopted},
		"claim of another machine":    {[]func(*parts){func(p *parts) { p.claim.OwnerReferences[0].UID = "other" }}, untold},
		"claim that failed":           {[]func(*parts){func(p *parts) { p.claim.Status.ErrorMessage = &failed }}, lost},
		"another address":             {[]func(*parts){func(p *parts) { p.address.Spec.Address = other }}, lost},
		"no claim":                    {[]func(*parts){noClaim}, held},
		"no claim, and unprotected":   {[]func(*parts){noClaim, func(p *parts) { p.address.Finalizers = nil }}, unadopted},
		"no claim, the address goes":  {[]func(*parts){noClaim, func(p *parts) { p.address.Finalizers, p.address.DeletionTimestamp = []string{"metal3"}, &now }}, lost},
		"no claim, another's address": {[]func(*parts){noClaim, func(p *parts) { p.address.Annotations = map[string]string{ipam.MachineNameAnnotation: "other"} }}, untold},
		"nothing is left":             {[]func(*parts){noClaim, noAddress}, lost},
		"nothing is left or used":     {[]func(*parts){noClaim, noAddress, func(p *parts) { p.machine.Spec.Network.Devices = nil }}, untold},
		"the address is not seen yet": {[]func(*parts){noAddress}, unadopted},
		"deleted, with its VM":        {[]func(*parts){func(p *parts) { p.machine.DeletionTimestamp = &now }}, held},
		"deleted, waits for us": {[]func(*parts){func(p *parts) {
			p.machine.DeletionTimestamp, p.machine.Finalizers = &now, []string{ipam.ReleaseFinalizer}
		}}, releasing},
		"moved away": {[]func(*parts){noClaim, noAddress, func(p *parts) { p.machine.Annotations[clusterctlv1.DeleteForMoveAnnotation] = "" }}, held},
	} {
		t.Run(name, func(t *testing.T) {
			p := whole()
			for _, change := range test.changes {
				change(p)
			}
			c := collectorOf(t, server(t, append(p.objects(), aPool("p", "10.0.0.1", "10.0.0.9"))...))
			graph, err := c.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for state, count := range countBindings(graph, c.seen()) {
				if (count == 1) != (state == test.want) {
					t.Errorf("%s: got %d, want the one binding to be %q", state, count, test.want)
				}
			}
		})
	}
}

// At start the claims may be there and their addresses not yet.
func TestBindingsAreNotLostWhileTheirClaimsAreNotSeen(t *testing.T) {
	p := whole()
	noClaim(p)
	noAddress(p)
	c := collectorOf(t, server(t, append(p.objects(), aPool("p", "10.0.0.1", "10.0.0.9"))...))
	graph, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := countBindings(graph, func(ipam.PoolReference) bool { return false }); got[lost] != 0 {
		t.Errorf("got %v", got)
	}
}

// metal3 serves two claim APIs from one pool, and claims of both may have one name.
func TestClaimOfTheOtherAPIDoesNotHideThePoolsOwn(t *testing.T) {
	own, others := metal3v1.IPClaim{}, metal3v1.IPClaim{}
	own.Namespace, own.Name, own.UID = "ns", "m-0", "own"
	others.Namespace, others.Name, others.UID = "ns", "m-0", "others"
	pool := &inventory.Pool{Claims: []ipam.Claim{{Object: &own}, {Object: &others}}}
	find := newFinder(&inventory.Graph{Pools: []*inventory.Pool{pool}})
	if got := find.claim(pool, "ns", aBinding); got.GetUID() != "own" {
		t.Errorf("got claim %s", got.GetUID())
	}
}

// What is remembered of the scrape before is what machines said then.
func TestBindingThatChangesIsReadAgain(t *testing.T) {
	p := whole()
	c := server(t, append(p.objects(), aPool("p", "10.0.0.1", "10.0.0.9"))...)
	collector := collectorOf(t, c)
	if _, err := collector.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.machine.Annotations[ipam.BindingsAnnotation] = strings.ReplaceAll(p.machine.Annotations[ipam.BindingsAnnotation], "10.0.0.1/24", "10.0.0.7/24")
	if err := c.Update(t.Context(), p.machine); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		graph, err := collector.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := graph.Machines[0].Bindings[0].Address.String(); got != "10.0.0.7/24" {
			t.Errorf("got %s", got)
		}
	}
	if len(collector.parsed) != 1 {
		t.Errorf("%d texts are remembered, want 1", len(collector.parsed))
	}
}

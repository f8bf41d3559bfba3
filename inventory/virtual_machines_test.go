package inventory

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// aVM is a virtual machine in a vCenter whose guest reports this address, on network n.
func aVM(name, uuid, ip string) VirtualMachine {
	return VirtualMachine{Name: name, UUID: uuid, Places: []capi.Place{{IP: netip.MustParseAddr(ip), Network: "n"}}}
}

// has is a vCenter with these, which are looked at each time.
func has(vms ...VirtualMachine) func(context.Context) []VCenter {
	return func(context.Context) []VCenter { return []VCenter{{Server: "vc", VirtualMachines: vms}} }
}

func TestVirtualMachinesOfAVCenterAgainstPools(t *testing.T) {
	const lost = "VirtualMachine lost answers with 10.0.0.5 of ns/IPPool/pool, which "
	const kept = " of ns/IPPool/pool, which is kept for VSphereMachine ns/m"
	nothing := func(*scene) {}
	for name, test := range map[string]struct {
		vm     VirtualMachine
		change func(*scene)
		want   string
	}{
		"that of the machine":                   {aVM("m", "m", "10.0.0.2"), nothing, ""},
		"with its UUID in capitals":             {aVM("m", "M", "10.0.0.2"), nothing, ""},
		"with an address that nobody holds":     {aVM("lost", "x", "10.0.0.5"), nothing, lost + "nobody holds: the pool may hand it out"},
		"with an address of no pool":            {aVM("lost", "x", "10.9.0.5"), nothing, ""},
		"with the address of a machine":         {aVM("lost", "x", "10.0.0.2"), nothing, "VirtualMachine lost answers with 10.0.0.2" + kept},
		"another one with the machine's name":   {aVM("m", "x", "10.0.0.2"), nothing, "VirtualMachine m answers with 10.0.0.2" + kept},
		"whose UUID nobody knows, by its name":  {aVM("m", "x", "10.0.0.2"), func(s *scene) { s.machine.Spec.ProviderID = "" }, ""},
		"with another name, of the same UUID":   {aVM("renamed", "m", "10.0.0.2"), nothing, ""},
		"that CAPV named otherwise":             {aVM("other", "v", "10.0.0.2"), func(s *scene) { s.vm.Name, s.vm.Spec.BiosUUID = "other", "v" }, ""},
		"of a machine that is not there":        {aVM("m", "x", "10.0.0.2"), func(s *scene) { s.gone = []client.Object{s.machine, s.vm, s.claim} }, ""},
		"on a network that the pool is not for": {aVM("lost", "x", "10.0.0.5"), func(s *scene) { s.pool.Annotations[ipam.NetworksAnnotation] = "other" }, ""},
		"on the network that the pool is for": {
			aVM("lost", "x", "10.0.0.5"), func(s *scene) { s.pool.Annotations[ipam.NetworksAnnotation] = "/DC0/network/n" },
			lost + "nobody holds: the pool may hand it out",
		},
		"with an address that is reserved": {aVM("lost", "x", "10.0.0.5"), func(s *scene) {
			s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"capv-static-ip.dev/reserved-10.0.0.5": "10.0.0.5"}
		}, ""},
		"with an address that cools down": {
			aVM("m", "m", "10.0.0.2"), func(s *scene) { s.cool(time.Minute) },
			"VirtualMachine m answers with 10.0.0.2 of ns/IPPool/pool, which cools down, as if nobody had it",
		},
		"with an address that is being given back": {aVM("lost", "x", "10.0.0.2"), func(s *scene) {
			s.gone = []client.Object{s.machine, s.vm}
			s.address.DeletionTimestamp, s.address.Finalizers = new(metav1.NewTime(noon.Add(-time.Minute))), []string{"provider"}
		}, "VirtualMachine lost answers with 10.0.0.2 of ns/IPPool/pool, which is being given back, as if nobody had it"},
		"with what somebody else has claimed": {aVM("lost", "x", "10.0.0.6"), func(s *scene) {
			_, claim, address := s.bound("theirs", "10.0.0.6")
			claim.Annotations, claim.Labels, claim.OwnerReferences = nil, nil, nil
			address.Annotations, address.Finalizers = nil, nil
			s.more = []client.Object{claim, address}
		}, ""},
		"with an endpoint of ours":           {aVM("lb", "x", "10.0.0.6"), func(s *scene) { s.more = s.endpoint("10.0.0.6") }, ""},
		"with an endpoint that others chose": {aVM("lb", "x", "10.0.0.6"), func(s *scene) { s.cluster.Spec.ControlPlaneEndpoint.Host = "10.0.0.6" }, ""},
		"with what its machine has by hand": {aVM("lb", "lb", "10.0.0.6"), func(s *scene) {
			m := unbound("lb", "10.0.0.6")
			m.Spec.ProviderID = "vsphere://lb"
			s.more = []client.Object{m}
		}, ""},
		"that only its VSphereVM is known of": {aVM("m", "v", "10.0.0.2"), func(s *scene) {
			s.vm.Spec.BiosUUID = "v"
			s.gone = []client.Object{s.machine, s.claim, s.address}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			source := s.source(t)
			source.VCenters = has(test.vm)
			graph, err := source.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			findings, left := graph.Findings(limits, GuestInPool)
			var got []string
			for _, f := range findings {
				got = append(got, f.Object+" "+f.Text)
				if f.Severity != Failing || f.Remedy == "" || len(f.Pools) != 1 || len(f.Addresses) != 1 {
					t.Errorf("got %+v, want an error with a remedy about one address of one pool", f)
				}
			}
			if text := strings.Join(got, ", "); text != test.want || len(left) > 0 {
				t.Errorf("got %q, want %q; left out is %v", text, test.want, left)
			}
		})
	}
}

// What to do about it can be typed as it stands there.
func TestVirtualMachineThatNobodyKnowsIsToBeReservedFor(t *testing.T) {
	s := newScene()
	source := s.source(t)
	source.VCenters = has(aVM("lost", "x", "10.0.0.5"))
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, _ := graph.Findings(limits, GuestInPool)
	const want = "kubectl static-ip reserve IPPool/pool 10.0.0.5 --yes -n ns keeps it out of the pool until you decide; or remove the virtual machine in vCenter"
	if len(findings) != 1 || findings[0].Remedy != want {
		t.Errorf("got %+v, want the remedy %s", findings, want)
	}
}

func TestVCentersAreLookedAtOnlyIfAskedFor(t *testing.T) {
	graph := readScene(t, newScene())
	if _, left := graph.Findings(limits); graph.Makes(GuestInPool) || len(left) > 0 {
		t.Errorf("without a vCenter, its check is made: %t, and left out is %v", graph.Makes(GuestInPool), left)
	}
}

// A pool of all namespaces has given addresses to others that were not read.
func TestAuditSaysWhatItDoesNotSeeOfAVCenter(t *testing.T) {
	s := newScene()
	pool := s.inCluster("everywhere", "10.7.0.1-10.7.0.3", "10.7.0.1", "")
	pool.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind("ipam.cluster.x-k8s.io/v1alpha2", "GlobalInClusterIPPool"))
	pool.SetNamespace("")
	s.more = []client.Object{pool}
	source := s.source(t)
	source.VCenters = func(context.Context) []VCenter {
		return []VCenter{
			{Server: "vc", VirtualMachines: []VirtualMachine{aVM("lost", "x", "10.7.0.2")}, Silent: []string{"a", "b", "c", "d"}, Hidden: []string{"vm-7"}},
			{Server: "down", Err: errors.New("nobody answers")},
		}
	}
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph.asked = "ns"
	findings, left := graph.Findings(limits, GuestInPool)
	want := []string{
		"the addresses of virtual machines of vc that run, and whose guests report none: a, b, c and 1 more",
		"virtual machines of vc that may not be read there: vm-7",
		"the virtual machines of down: nobody answers",
		"GlobalInClusterIPPool/everywhere, whose addresses are in all namespaces: say -A",
	}
	if len(findings) > 0 || len(left) != 1 || !left[0].Partly || !slices.Equal(left[0].Unseen, want) {
		t.Errorf("got %+v and %+v, want nothing found and that not all was seen: %q", findings, left, want)
	}
}

// A virtual machine may be on its way out while the lists are read. Whoever looks twice looks
// at the vCenter twice, and only if something is wrong there.
func TestSecondLookIsAtTheVCenterToo(t *testing.T) {
	for name, test := range map[string]struct {
		first, second []VirtualMachine
		looks, found  int
	}{
		"nothing is wrong":    {[]VirtualMachine{aVM("m", "m", "10.0.0.2")}, nil, 1, 0},
		"it is gone by then":  {[]VirtualMachine{aVM("lost", "x", "10.0.0.5")}, nil, 2, 0},
		"it is still there":   {[]VirtualMachine{aVM("lost", "x", "10.0.0.5")}, []VirtualMachine{aVM("lost", "x", "10.0.0.5")}, 2, 1},
		"it came in between":  {nil, []VirtualMachine{aVM("lost", "x", "10.0.0.5")}, 1, 0},
		"another one by then": {[]VirtualMachine{aVM("lost", "x", "10.0.0.5")}, []VirtualMachine{aVM("new", "y", "10.0.0.6")}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			source, looks := s.source(t), 0
			source.VCenters = func(ctx context.Context) []VCenter {
				looks++
				if looks == 1 {
					return has(test.first...)(ctx)
				}
				return has(test.second...)(ctx)
			}
			report, err := source.Audit(t.Context(), limits, 0, GuestInPool)
			if err != nil {
				t.Fatal(err)
			}
			if looks != test.looks || len(report.Findings) != test.found {
				t.Errorf("it looked %d times and found %+v, want %d and %d", looks, report.Findings, test.looks, test.found)
			}
		})
	}
}

// Somebody has decided: its pool gives it to nobody.
func TestVMWithoutMachineWhoseAddressIsReserved(t *testing.T) {
	s := newScene()
	s.gone = []client.Object{s.machine, s.claim, s.address}
	s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"capv-static-ip.dev/reserved-10.0.0.2": "10.0.0.2"}
	findings, _ := readScene(t, s).Findings(limits, NotBound)
	if len(findings) > 0 {
		t.Errorf("got %+v, want nothing", findings)
	}
}

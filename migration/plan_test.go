package migration

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

// scene is a machine with an address of IPPool a, and InClusterIPPool b with the same ranges.
type scene struct {
	old      *ipamv1.IPPool
	fresh    *unstructured.Unstructured
	machine  *capi.VSphereMachine
	claim    *ipamv1.IPClaim
	address  *ipamv1.IPAddress
	cluster  *capi.Cluster
	template *unstructured.Unstructured
	more     []client.Object
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{clusterv1.ClusterNameLabel: "prod"}, Annotations: map[string]string{}}
}

func unstructuredOf(apiVersion, kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": "ns", "name": name}, "spec": spec,
	}}
}

func newScene() *scene {
	text := func(s string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(s)) }
	s := &scene{
		old: &ipamv1.IPPool{ObjectMeta: named("a")}, machine: &capi.VSphereMachine{ObjectMeta: named("cp")},
		cluster: &capi.Cluster{ObjectMeta: named("prod")}, claim: &ipamv1.IPClaim{ObjectMeta: named("cp-0")}, address: &ipamv1.IPAddress{ObjectMeta: named("a-10-0-0-1")},
	}
	s.old.Spec.Pools, s.old.Spec.Prefix, s.old.Spec.NamePrefix = []ipamv1.Pool{{Start: text("10.0.0.1"), End: text("10.0.0.9")}}, 24, "a"
	s.fresh = unstructuredOf("ipam.cluster.x-k8s.io/v1alpha2", "InClusterIPPool", "b", map[string]any{"addresses": []any{"10.0.0.1-10.0.0.9"}, "prefix": int64(24)})
	s.template = unstructuredOf("infrastructure.cluster.x-k8s.io/v1beta2", "VSphereMachineTemplate", "cp", map[string]any{})
	s.template.SetLabels(map[string]string{machine.PoolNameLabel: "a"})
	s.machine.UID, s.claim.UID = "cp", "claim"
	s.machine.Spec.Network.Devices = []capi.Device{{NetworkName: "lan", IPAddrs: []string{"10.0.0.1/24"}}}
	s.claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp", UID: "cp"}}
	s.claim.Spec.Pool.Name, s.claim.Status.Address = "a", &corev1.ObjectReference{Name: "a-10-0-0-1"}
	s.address.Finalizers, s.address.OwnerReferences = []string{ipam.InUseFinalizer}, []metav1.OwnerReference{{Name: "cp-0", UID: "claim"}}
	s.address.Spec.Address, s.address.Spec.Claim.Name, s.address.Spec.Pool.Name = "10.0.0.1", "cp-0", "a"
	kube.SetAnnotation(s.address, ipam.MachineNameAnnotation, "cp")
	bindings := ipam.Bindings{Machine: "cp", Bindings: []ipam.Binding{{
		Device: ipam.Device{NetworkName: "lan"}, Pool: metal3.PoolNamed("a"), Claim: "cp-0", Address: netip.MustParsePrefix("10.0.0.1/24"),
	}}}
	encoded, _ := bindings.Encode()
	s.machine.Annotations[ipam.BindingsAnnotation] = encoded
	return s
}

func (s *scene) plan(t *testing.T) *Plan {
	t.Helper()
	p, err := s.migration(t).Plan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *scene) migration(t *testing.T) *Migration {
	t.Helper()
	c := s.client(t)
	source := inventory.Source{
		Client: c, Reader: c, Namespace: "ns", WithWorkloads: true, Now: time.Now,
		Providers: ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{}),
	}
	return &Migration{
		Client: c, Source: source,
		From: inventory.PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("a")}, To: inventory.PoolKey{Namespace: "ns", PoolReference: contract.InClusterPool(s.fresh.GetName())},
	}
}

func (s *scene) client(t *testing.T) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, err := range []error{ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"InClusterIPPool", "GlobalInClusterIPPool"} {
		gvk := schema.FromAPIVersionAndKind("ipam.cluster.x-k8s.io/v1alpha2", kind)
		scheme.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(kind+"List"), &unstructured.UnstructuredList{})
	}
	// The static one has only kinds of Kubernetes itself that are of no namespace.
	roots := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []schema.GroupKind{capi.VSphereDeploymentZoneKind, capi.VSphereFailureDomainKind} {
		for _, gv := range scheme.VersionsForGroupKind(kind) {
			roots.Add(gv.WithKind(kind.Kind), meta.RESTScopeRoot)
		}
	}
	mapper := meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{roots, testrestmapper.TestOnlyStaticRESTMapper(scheme)}}
	objects := append([]client.Object{s.old, s.fresh, s.machine, s.claim, s.address, s.cluster, s.template}, s.more...)
	return fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithObjects(objects...).Build()
}

func TestPlanTellsWhatIsWritten(t *testing.T) {
	p := newScene().plan(t)

	if len(p.Stops) > 0 || len(p.Machines) != 1 {
		t.Fatalf("got the stops %q and the machines %+v, want one machine", p.Stops, p.Machines)
	}
	got := p.Machines[0]
	if got.State != Ready || len(got.Moves) != 1 || got.Moves[0] != theMove() {
		t.Errorf("got %+v, want it ready for %+v", got, theMove())
	}
	if want := []string{"10.0.0.1 to claim cp-0 of InClusterIPPool b"}; !slices.Equal(got.Writes, want) {
		t.Errorf("it writes %q, want %q", got.Writes, want)
	}
}

func TestPlanTellsWhatStandsInTheWayOfAMachine(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*scene)
		want   string
	}{
		"its Cluster is paused":      {func(s *scene) { s.cluster.Spec.Paused = new(true) }, "its Cluster prod is paused"},
		"its Cluster does not exist": {func(s *scene) { s.cluster.Name = "other" }, "its Cluster prod does not exist"},
		"its device has another":     {func(s *scene) { s.machine.Spec.Network.Devices[0].IPAddrs[0] = "10.0.0.2/24" }, "no device of it has 10.0.0.1"},
		"its claim is another's":     {func(s *scene) { s.claim.OwnerReferences[0].UID = "another" }, "is not its own"},
		"its claim failed":           {func(s *scene) { s.claim.Status.Address, s.claim.Status.ErrorMessage = nil, new("no") }, "not wholly bound"},
		"its claim has another":      {func(s *scene) { s.claim.Status.Address.Name = "a-10-0-0-2" }, "not wholly bound"},
		"its address is unprotected": {func(s *scene) { s.address.Finalizers = nil }, "not wholly bound"},
		"the new pool ends before":   {func(s *scene) { s.fresh.Object["spec"].(map[string]any)["addresses"] = []any{"10.0.0.2-10.0.0.9"} }, "not in the ranges of"},
		"the new pool excludes it":   {func(s *scene) { s.fresh.Object["spec"].(map[string]any)["excludedAddresses"] = []any{"10.0.0.1"} }, "hands 10.0.0.1 out to nobody"},
		"the prefix is another":      {func(s *scene) { s.fresh.Object["spec"].(map[string]any)["prefix"] = int64(25) }, "has prefix length 25"},
		"the new pool is for others": {func(s *scene) { kube.SetAnnotation(s.fresh, ipam.NetworksAnnotation, "dmz") }, "is for networks"},
		"another claim has it there": {func(s *scene) {
			other := &capiipamv1.IPAddress{ObjectMeta: named("other")}
			other.Spec.Address, other.Spec.ClaimRef.Name = "10.0.0.1", "other"
			other.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "b"}
			s.more = append(s.more, other)
		}, "has given 10.0.0.1 to claim ns/other"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			p := s.plan(t)
			if len(p.Machines) != 1 || p.Machines[0].State != Blocked || !strings.Contains(p.Machines[0].Why, test.want) {
				t.Errorf("got the machines %+v and the stops %q, want it blocked: %s", p.Machines, p.Stops, test.want)
			}
		})
	}
}

// Where addresses are taken, the claim of a machine comes a second later.
func TestMachineWaitsForAClaimThatIsAboutToCome(t *testing.T) {
	taken := func(s *scene) {
		s.address.OwnerReferences = nil
		kube.SetAnnotation(s.address, ipam.RequestedByAnnotation, "owner")
	}
	for name, change := range map[string]func(*scene){
		"its address was taken, the claim is not made": func(s *scene) { taken(s); s.claim.Name = "another" },
		"the claim is made, and not bound":             func(s *scene) { taken(s); s.claim.Status.Address = nil },
		"the claim is bound, the address is not its":   taken,
		"the claim is gone, and is made anew":          func(s *scene) { s.claim.Name = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			change(s)
			if p := s.plan(t); len(p.Machines) != 1 || p.Machines[0].State != Waiting || len(p.ready()) > 0 {
				t.Errorf("got the machines %+v, want that it waits", p.Machines)
			}
		})
	}
}

func TestPlanTellsWhatKeepsItFromBeginning(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*scene)
		want   string
	}{
		"the new pool is paused":         {func(s *scene) { kube.SetAnnotation(s.fresh, clusterv1.PausedAnnotation, "") }, "b is paused"},
		"the new pool has the same name": {func(s *scene) { s.fresh.SetName("a") }, `both pools are named "a"`},
		"the old pool is on its way away": {func(s *scene) {
			kube.SetAnnotation(s.old, WithAnnotation, "ns/IPPool/c")
			s.more = append(s.more, &ipamv1.IPPool{ObjectMeta: named("c")})
		}, "takes part in a migration with ns/IPPool/c"},
		"the old pool is frozen":      {func(s *scene) { kube.SetAnnotation(s.old, ipam.FrozenAnnotation, "restoring") }, "is frozen (restoring)"},
		"the old pool does not exist": {func(s *scene) { s.old.Name = "z" }, "does not exist"},
		"the old pool reserves what the new one would hand out": {
			func(s *scene) {
				kube.SetAnnotation(s.old, ipam.ReservedAnnotation, `{"10.0.0.5":"a VM","10.0.1.5":"outside"}`)
			},
			"10.0.0.5 is reserved in ns/IPPool/a (a VM), and ns/InClusterIPPool/b would hand it out: kubectl static-ip reserve InClusterIPPool/b 10.0.0.5 -n ns --yes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			if p := s.plan(t); len(p.Stops) != 1 || !strings.Contains(p.Stops[0], test.want) {
				t.Errorf("got the stops %q, want one: %s", p.Stops, test.want)
			}
		})
	}
}

// What was deleted before a migration with it was finished keeps nobody from the next one.
func TestMigrationWithAPoolThatIsGoneIsOver(t *testing.T) {
	s := newScene()
	kube.SetAnnotation(s.old, WithAnnotation, "ns/IPPool/gone")
	kube.SetAnnotation(s.fresh, WithAnnotation, "ns/IPPool/gone")

	if p := s.plan(t); len(p.Stops) > 0 || len(p.ready()) != 1 {
		t.Errorf("got the stops %q and the machines %+v, want one that is ready", p.Stops, p.Machines)
	}
}

func TestOldPoolThatIsGoneIsKnownByWhatTheNewOneSays(t *testing.T) {
	for with, test := range map[string]struct {
		read, named string
		want        bool
	}{
		"ns/IPPool/gone":               {"ns", "IPPool/gone", true},
		"ns/IPPool/a":                  {"ns", "IPPool/a", false},
		"ns/IPPool/other":              {"ns", "IPPool/gone", false},
		"ns/IPPool/cased":              {"ns", "ippool/cased", true},
		"GlobalInClusterIPPool/gone":   {"ns", "GlobalInClusterIPPool/gone", true},
		"GlobalInClusterIPPool/global": {"ns", "GlobalInClusterIPPool/global", false},
		"other/IPPool/a":               {"ns", "IPPool/a", false},
		"another/IPPool/a":             {"", "IPPool/a", true},
		"":                             {"ns", "IPPool/gone", false},
	} {
		s := newScene()
		kube.SetAnnotation(s.fresh, WithAnnotation, with)
		graph := &inventory.Graph{Pools: []*inventory.Pool{
			{PoolKey: inventory.PoolKey{Namespace: "ns", PoolReference: ipam.PoolReference{Kind: "IPPool", Name: "a"}}},
			{PoolKey: inventory.PoolKey{PoolReference: ipam.PoolReference{Kind: "GlobalInClusterIPPool", Name: "global"}}},
		}}

		key, gone := GoneBefore(graph, test.read, test.named, &inventory.Pool{Object: s.fresh})

		if gone != test.want || gone && key.String() != with {
			t.Errorf("of a migration with %q, %s is gone: %t, as %s", with, test.named, gone, key)
		}
	}
}

func TestPoolsOfANamespaceThatWasNotReadMayExist(t *testing.T) {
	for with, want := range map[string]bool{
		"ns/IPPool/gone": true, "other/IPPool/gone": false, "GlobalInClusterIPPool/gone": true, "ns/IPPool/a": false,
	} {
		m := Migration{Source: inventory.Source{Namespace: "ns"}}
		graph := &inventory.Graph{Pools: []*inventory.Pool{{PoolKey: inventory.PoolKey{Namespace: "ns", PoolReference: ipam.PoolReference{Kind: "IPPool", Name: "a"}}}}}
		if got := m.isOver(graph, with); got != want {
			t.Errorf("a migration with %s is over: %t, want %t", with, got, want)
		}
	}
}

func TestClaimOfAMoveHasANameThatNothingHas(t *testing.T) {
	s := newScene()
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: named("cp-0")}
	claim.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "other"}
	s.more = append(s.more, claim)

	if got := s.plan(t).Machines[0].Moves[0].To.Claim; got != "cp-0.r2" {
		t.Errorf("it is %s, want one that there is not", got)
	}
}

// What one pool says of itself, and templates, may be edited. What makes them, or what is not of the
// namespace alone, is left to its users.
func TestPlanTellsWhatHasToBeEditedByHand(t *testing.T) {
	s := newScene()
	s.template.SetLabels(map[string]string{machine.PoolNameLabel: "a", clusterv1.ClusterTopologyOwnedLabel: ""})
	zone := &capi.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: "zone", Annotations: map[string]string{ipam.PoolsAnnotationPrefix + "0": "a"}}}
	zone.Spec.FailureDomain = "overlay"
	overlay := &capi.VSphereFailureDomain{ObjectMeta: metav1.ObjectMeta{Name: "overlay", Annotations: map[string]string{ipam.PoolsAnnotationPrefix + "1": "IPPool/a"}}}
	overlay.Labels = map[string]string{machine.PoolNameLabel: "a"}
	other := &capi.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: "other", Annotations: map[string]string{ipam.PoolsAnnotationPrefix + "0": "c"}}}
	s.more = append(s.more, zone, overlay, other)

	var got []string
	for _, edit := range s.plan(t).Edits {
		if !edit.ByHand {
			t.Errorf("%s is edited without anybody's hand", edit)
		}
		got = append(got, edit.String())
	}
	want := []string{
		"VSphereDeploymentZone zone: metadata.annotations pools.capv-static-ip.dev/0 = a -> InClusterIPPool/b (it is for the machines of all namespaces)",
		"VSphereFailureDomain overlay: metadata.annotations pools.capv-static-ip.dev/1 = IPPool/a -> InClusterIPPool/b (it is for the machines of all namespaces)",
		"VSphereMachineTemplate ns/cp: metadata.labels cluster.x-k8s.io/ip-pool-name = a -> b (in the topology of its Cluster, or in its ClusterClass)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPlanToUndoIsAboutWhatIsHalfWay(t *testing.T) {
	half := func(s *scene, current ipam.ClaimReference) {
		encoded, _ := ipam.Migration{Machine: "cp", Moves: []ipam.Move{theMove()}}.Encode()
		s.machine.Annotations[ipam.MigratingAnnotation] = encoded
		bindings, _ := ipam.Bindings{Machine: "cp", Bindings: []ipam.Binding{{
			Device: ipam.Device{NetworkName: "lan"}, Pool: current.Pool, Claim: current.Claim, Address: netip.MustParsePrefix("10.0.0.1/24"),
		}}}.Encode()
		s.machine.Annotations[ipam.BindingsAnnotation] = bindings
	}
	for name, test := range map[string]struct {
		change func(*scene)
		want   []string
	}{
		"nothing is":                       {func(*scene) {}, nil},
		"its old claim is the current one": {func(s *scene) { half(s, theMove().From) }, []string{"10.0.0.1 back to claim cp-0 of IPPool a"}},
		"its new claim is the current one": {func(s *scene) { half(s, theMove().To) }, []string{"10.0.0.1 stays with claim cp-0 of InClusterIPPool b, which the machine names already"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)

			p, err := s.migration(t).PlanBack(context.Background())
			if err != nil {
				t.Fatal(err)
			}

			var got []string
			for _, machine := range p.Machines {
				got = append(got, machine.Writes...)
			}
			if !slices.Equal(got, test.want) || len(p.Edits)+len(p.Left) > 0 {
				t.Errorf("it writes %q, edits %v and leaves %v, want %q alone", got, p.Edits, p.Left, test.want)
			}
		})
	}
}

func TestPlanTellsWhatAsksForTheOldPool(t *testing.T) {
	s := newScene()
	kube.SetAnnotation(s.template, ipam.PoolsAnnotationPrefix+"1", "other | IPPool/a=10.0.0.7, a")
	kube.SetAnnotation(s.old, ipam.UsedByAnnotation, "ns")
	s.old.Spec.DNSServers = []ipamv1.IPAddressStr{"10.0.0.53"}

	var got []string
	for _, edit := range s.plan(t).Edits {
		got = append(got, edit.String())
	}
	want := []string{
		"VSphereMachineTemplate ns/cp: metadata.annotations pools.capv-static-ip.dev/1 = other | IPPool/a=10.0.0.7, a -> other |InClusterIPPool/b=10.0.0.7,InClusterIPPool/b",
		"VSphereMachineTemplate ns/cp: metadata.labels cluster.x-k8s.io/ip-pool-name = a -> b",
		"InClusterIPPool ns/b: metadata.annotations capv-static-ip.dev/used-by -> ns",
		"InClusterIPPool ns/b: metadata.annotations capv-static-ip.dev/nameservers -> 10.0.0.53",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

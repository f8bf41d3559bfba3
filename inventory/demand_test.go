package inventory

import (
	"reflect"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

const (
	deployment   = "MachineDeployment"
	controlPlane = "KubeadmControlPlane"
)

func workload(kind string, spec map[string]any, annotations map[string]string) *Workload {
	object := &unstructured.Unstructured{Object: map[string]any{"kind": kind, "spec": spec}}
	object.SetName("owner")
	object.SetNamespace("ns")
	object.SetAnnotations(annotations)
	return newWorkload(object)
}

func rolling(surge any) map[string]any {
	return map[string]any{"replicas": int64(3), "rollout": map[string]any{"strategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": surge}}}}
}

func TestDemandOfAWorkload(t *testing.T) {
	for name, test := range map[string]struct {
		workload *Workload
		devices  int
		has      int
		want     [3]int // roll-out, scale, autoscaler
	}{
		"that says nothing of surge":       {workload(deployment, map[string]any{"replicas": int64(3)}, nil), 1, 3, [3]int{1, 0, 0}},
		"of two devices":                   {workload(deployment, rolling(int64(1)), nil), 2, 6, [3]int{2, 0, 0}},
		"of a percentage, rounded up":      {workload(deployment, rolling("34%"), nil), 1, 3, [3]int{2, 0, 0}},
		"of a percentage that is small":    {workload(deployment, rolling("1%"), nil), 1, 3, [3]int{1, 0, 0}},
		"without surge":                    {workload(deployment, rolling(int64(0)), nil), 1, 3, [3]int{0, 0, 0}},
		"that replaces on deletion":        {workload(deployment, map[string]any{"replicas": int64(3), "strategy": map[string]any{"type": "OnDelete"}}, nil), 1, 3, [3]int{0, 0, 0}},
		"of v1beta1":                       {workload(deployment, map[string]any{"replicas": int64(3), "strategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": int64(2)}}}, nil), 1, 3, [3]int{2, 0, 0}},
		"that lacks machines":              {workload(deployment, rolling(int64(1)), nil), 1, 1, [3]int{1, 2, 0}},
		"of more surge than machines":      {workload(deployment, rolling(int64(5)), nil), 2, 6, [3]int{6, 0, 0}},
		"with an autoscaler":               {workload(deployment, rolling(int64(1)), map[string]string{autoscalerMax: "10"}), 1, 3, [3]int{1, 0, 7}},
		"of a control plane":               {workload(controlPlane, map[string]any{"replicas": int64(3)}, nil), 1, 3, [3]int{1, 0, 0}},
		"of a control plane without surge": {workload(controlPlane, rolling(int64(0)), nil), 1, 3, [3]int{0, 0, 0}},
		"of a control plane of v1beta1":    {workload(controlPlane, map[string]any{"replicas": int64(3), "rolloutStrategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": int64(0)}}}, nil), 1, 3, [3]int{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			d := test.workload.demand(want{pools: []*Pool{{}}, devices: test.devices}, test.has, 0)
			if got := [3]int{d.RollOut, d.Scale, d.Max}; got != test.want {
				t.Errorf("a roll-out needs, lack, and an autoscaler wants %v, want %v", got, test.want)
			}
			if (d.Note != "") != (d.RollOut == 0) {
				t.Errorf("the note is %q for a roll-out of %d", d.Note, d.RollOut)
			}
		})
	}
}

func TestRollOutThatGoesOnHoldsSomeOfWhatItNeeds(t *testing.T) {
	for has, want := range map[int]int{3: 2, 4: 1, 5: 0, 6: 0} {
		d := workload(deployment, rolling(int64(2)), nil).demand(want1(), has, 0)
		if d.RollOut != want || d.Scale != 0 {
			t.Errorf("of three machines that hold %d, a roll-out needs %d, want %d", has, d.RollOut, want)
		}
	}
}

// want1 is an address for each machine.
func want1() want { return want{pools: []*Pool{{}}, devices: 1} }

// world is a pool of six addresses with a control plane of three machines that hold three.
func world(label bool) (*Graph, *Workload) {
	g := &Graph{byKey: map[PoolKey]*Pool{}, makers: newMakers()}
	pool := g.pool(metal3.Provider{}, PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("dkp")})
	pool.Object = metal3Pool("10.0.0.88", "10.0.0.91", nil)
	pool.Addresses = holding("10.0.0.88", "10.0.0.89", "10.0.0.90")
	w := workload(controlPlane, map[string]any{
		"replicas": int64(3), "machineTemplate": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{"name": "cp"}}},
	}, nil)
	template := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"network": map[string]any{"devices": []any{map[string]any{"networkName": "VM Network"}}},
	}}}}}
	if label {
		template.SetLabels(map[string]string{"cluster.x-k8s.io/ip-pool-name": "dkp"})
	}
	g.Templates = map[types.NamespacedName]*unstructured.Unstructured{{Namespace: "ns", Name: "cp"}: template}
	g.complete(w)
	g.Workloads = append(g.Workloads, w)
	for _, name := range []string{"owner-a", "owner-b", "owner-c"} {
		m := &Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, Labels: map[string]string{"cluster.x-k8s.io/control-plane-name": "owner"},
		}}, Bindings: []ipam.Binding{{Pool: pool.PoolReference}}}
		g.addMachine(m)
	}
	return g, w
}

func TestDemandIsThatOfThePoolThatTheTemplateNames(t *testing.T) {
	g, _ := world(true)
	demands := g.Demands()
	if len(demands) != 1 || demands[0].Has != 3 || demands[0].Needs() != 1 || demands[0].Short() != 0 {
		t.Fatalf("got %+v, want that three are held and the one that a roll-out needs is free", demands)
	}
	pool := demands[0].Pool
	pool.Addresses = append(pool.Addresses, holding("10.0.0.91")...)
	if short := g.Demands()[0].Short(); short != 1 {
		t.Errorf("of a full pool it is %d short, want 1", short)
	}
	if s := g.Summaries(nil)[0]; !s.Attention || s.Status != "Exhausted" || s.Surge != 1 {
		t.Errorf("the pool's status is %+v, want that it is exhausted", s)
	}
}

func TestWorkloadThatAsksForNothingNeedsNothing(t *testing.T) {
	g, w := world(false)
	if demands := g.Demands(); len(demands) != 0 || w.AsksError != nil {
		t.Errorf("got %v and %v, want nothing", demands, w.AsksError)
	}
}

func TestPoolThatARollOutWouldEmptyNeedsAttention(t *testing.T) {
	g, w := world(true)
	w.Replicas, w.Surge = 3, nil
	pool := g.Pools[0]
	pool.Object = metal3Pool("10.0.0.88", "10.0.0.91", nil)
	w.Places[0].Asks = slices.Concat(w.Asks, w.Asks)
	if s := g.Summaries(nil)[0]; s.Status != "Low: a roll-out needs 2" || !s.Attention {
		t.Errorf("the status is %q, want that a roll-out needs 2", s.Status)
	}
}

func TestRollOutIntoAnotherPoolNeedsAnAddressForEachMachine(t *testing.T) {
	g, w := world(true)
	other := g.pool(metal3.Provider{}, PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("other")})
	other.Object = metal3Pool("10.0.1.1", "10.0.1.2", nil)
	w.Places[0].Asks[0].Choices[0].Pool.Name = "other"
	if d := g.Demands()[0]; d.Has != 0 || d.Needs() != 3 || d.Short() != 1 {
		t.Errorf("got %d held, %d needed, %d short; want none held, three needed, one short", d.Has, d.Needs(), d.Short())
	}
}

// It gets the address that was claimed for the machine that was refused.
func TestAddressThatIsKeptForTheNextMachineCountsOnce(t *testing.T) {
	g, w := world(true)
	w.Replicas = 4
	w.SetUID("owner-uid")
	pool := g.Pools[0]
	pool.Addresses = append(pool.Addresses, holding("10.0.0.91")...)
	claim := ipam.Claim{Object: &capiipamv1.IPAddressClaim{}, Pool: pool.PoolReference, Address: "a"}
	claim.SetNamespace("ns")
	claim.SetAnnotations(map[string]string{ipam.RequestedByAnnotation: "owner-uid.0123"})
	g.makers.kept = []keptClaim{{claim, pool}}
	if d := g.Demands()[0]; d.Has != 4 || d.Scale != 0 {
		t.Errorf("got %d held and %d missing, want four and none", d.Has, d.Scale)
	}
	claim.SetAnnotations(map[string]string{ipam.RequestedByAnnotation: "somebody-else.0123"})
	if d := g.Demands()[0]; d.Has != 3 || d.Scale != 1 {
		t.Errorf("got %d held and %d missing, want three and one", d.Has, d.Scale)
	}
}

func TestRollOutKeepsAddressesCooling(t *testing.T) {
	for name, test := range map[string]struct {
		says string
		want int
	}{
		"not at all":                      {"0s", 0},
		"one, if it lasts two minutes":    {"2m", 1},
		"two, if it lasts a little more":  {"2m1s", 2},
		"of each machine, if it lasts":    {"24h", 3},
		"of two, by the manager's option": {"", 2},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := world(true)
			g.reuseAfter = 4 * time.Minute
			if test.says != "" {
				g.Pools[0].Object.SetAnnotations(map[string]string{ipam.ReuseAfterAnnotation: test.says})
			}
			if d := g.Demands()[0]; d.Cools != test.want || d.RollOut != 1 {
				t.Errorf("got %d cooling and %d for the roll-out, want %d and 1", d.Cools, d.RollOut, test.want)
			}
		})
	}
}

// elsePools is world, whose control plane takes an address of dkp, or else of spare, which
// has this many.
func elsePools(t *testing.T, spare string) (*Graph, *Workload) {
	t.Helper()
	g, w := world(true)
	pool := g.pool(metal3.Provider{}, PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("spare")})
	pool.Object = metal3Pool("10.0.1.1", spare, nil)
	choices := &w.Places[0].Asks[0].Choices
	*choices = append(*choices, ipam.Choice{Pool: metal3.PoolNamed("spare")})
	full := g.Pools[0]
	full.Addresses = append(full.Addresses, holding("10.0.0.91")...)
	return g, w
}

func TestPoolsOfWhichAnyWillDoAreOneSupply(t *testing.T) {
	g, _ := elsePools(t, "10.0.1.1")
	demands := g.Demands()
	if len(demands) != 1 || demands[0].Short() != 0 {
		t.Fatalf("got %+v, want one demand that is met", demands)
	}
	full, spare := g.Pools[0], g.Pools[1]
	if of, other := SurgeOf(full, demands), SurgeOf(spare, demands); of != 0 || other != 1 {
		t.Errorf("a roll-out needs %d of the full pool and %d of the other, want 0 and 1", of, other)
	}
	spare.Addresses = holding("10.0.1.1")
	if demands[0].Short() != 1 || SurgeOf(full, demands) != 1 {
		t.Errorf("of two full pools %d is short, and %d needed; want 1 and 1", demands[0].Short(), SurgeOf(full, demands))
	}
}

// zone is a failure domain that has its own pool for all machines.
func (g *Graph) zone(name, last string) {
	zone := &capi.VSphereDeploymentZone{}
	zone.Name, zone.Annotations = name, map[string]string{ipam.PoolsAnnotationPrefix + "0": name}
	g.makers.zones[name] = zone
	pool := g.pool(metal3.Provider{}, PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed(name)})
	pool.Object = metal3Pool("10.0.2.1", last, nil)
}

func TestControlPlaneAsksThePoolsOfItsFailureDomains(t *testing.T) {
	g, w := world(true)
	g.zone("a", "10.0.2.2")
	g.zone("b", "10.0.2.9")
	w.Cluster = "dkp"
	cluster := &capi.Cluster{}
	for _, name := range []string{"a", "b"} {
		cluster.Status.FailureDomains = append(cluster.Status.FailureDomains, capi.FailureDomain{Name: name, ControlPlane: new(true)})
	}
	g.makers.clusters[types.NamespacedName{Namespace: "ns", Name: "dkp"}] = cluster
	w.Places, w.Asks = nil, nil
	g.complete(w)
	got := map[string][3]int{}
	for _, d := range g.Demands() {
		got[d.Pool.Name] = [3]int{d.RollOut, d.Scale, d.Short()}
	}
	if want := map[string][3]int{"a": {1, 2, 0}, "b": {1, 2, 0}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want two of the three machines in each pool: %v", got, want)
	}
}

func TestPoolThatIsForOtherFailureDomainsIsNotAsked(t *testing.T) {
	g, w := world(true)
	object := map[string]any{"spec": map[string]any{"failureDomain": "a"}}
	if err := unstructured.SetNestedMap(w.Object, object, "spec", "template"); err != nil {
		t.Fatal(err)
	}
	w.SetKind(deployment)
	g.Pools[0].Object.SetAnnotations(map[string]string{ipam.FailureDomainsAnnotation: "b"})
	w.Places, w.Asks = nil, nil
	g.complete(w)
	if demands := g.Demands(); len(demands) != 0 {
		t.Errorf("got %+v, want no demand", demands)
	}
	g.Pools[0].Object.SetAnnotations(map[string]string{ipam.FailureDomainsAnnotation: "a"})
	if demands := g.Demands(); len(demands) != 1 {
		t.Errorf("got %+v, want one demand", demands)
	}
}

func TestSurgeOfAPool(t *testing.T) {
	pool := &Pool{}
	of := func(cluster string, concurrency, rollOut int) Demand {
		w := workload(deployment, map[string]any{}, nil)
		w.SetLabels(map[string]string{clusterv1.ClusterTopologyOwnedLabel: ""})
		w.Cluster, w.Concurrency = cluster, concurrency
		return Demand{Workload: w, Pool: pool, RollOut: rollOut}
	}
	for name, test := range map[string]struct {
		demands      []Demand
		largest, all int
	}{
		"is the largest of its owners":              {[]Demand{of("a", 0, 1), of("a", 0, 3), of("b", 0, 2)}, 3, 6},
		"is that of two owners upgraded at a time":  {[]Demand{of("a", 2, 1), of("a", 2, 3), of("a", 2, 2)}, 5, 6},
		"is not that of two owners of two Clusters": {[]Demand{of("a", 2, 1), of("b", 2, 3)}, 3, 4},
		"is 0 where nobody asks":                    {nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := [2]int{SurgeOf(pool, test.demands), SurgeOfAll(pool, test.demands)}; got != [2]int{test.largest, test.all} {
				t.Errorf("got %v, want %d, and %d of all", got, test.largest, test.all)
			}
		})
	}
}

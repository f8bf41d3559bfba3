package inventory

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/retry"
	"capv-static-ip.dev/machine"
)

// machineWaiting is a machine that CAPI and CAPV know, and that has no address.
func machineWaiting(change ...func(*Machine)) *Machine {
	m := &Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "md-0-a", UID: "uid", Finalizers: []string{infrav1.MachineFinalizer},
		Labels:          map[string]string{clusterv1.ClusterNameLabel: "dkp", clusterv1.MachineDeploymentNameLabel: "md-0", clusterv1.MachineSetNameLabel: "md-0-x"},
		Annotations:     map[string]string{},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: clusterv1.GroupVersion.String(), Kind: "Machine", Name: "md-0-a"}},
	}}}
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "VM Network"}}
	for _, c := range change {
		c(m)
	}
	return m
}

// machineHolding is a machine with an address.
func machineHolding(change ...func(*Machine)) *Machine {
	m := machineWaiting()
	m.Finalizers = append(m.Finalizers, ipam.ReleaseFinalizer)
	m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.7/24"}
	m.Bindings = []ipam.Binding{{
		Device: ipam.Device{NetworkName: "VM Network"}, Pool: metal3.PoolNamed("lab"), Claim: "md-0-a-0", Address: netip.MustParsePrefix("10.0.0.7/24"),
	}}
	for _, c := range change {
		c(m)
	}
	return m
}

// graphOf has these machines, and a pool with an address for the claim of machineHolding.
func graphOf(machines ...*Machine) (*Graph, *Pool) {
	pool := &Pool{
		PoolKey: PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("lab")}, Provider: metal3.Provider{}, Object: metal3Pool("10.0.0.5", "10.0.0.9", nil),
	}
	claim := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "md-0-a-0"}}
	address := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "lab-10-0-0-7", Finalizers: []string{ipam.InUseFinalizer}}}
	pool.Claims = []ipam.Claim{{Object: claim, Pool: pool.PoolReference, Address: address.Name}}
	pool.Addresses = []Address{{Address: ipam.Address{Object: address, Pool: pool.PoolReference, Claim: claim.Name, IP: "10.0.0.7"}, IP: netip.MustParseAddr("10.0.0.7")}}
	g := &Graph{
		At: time.Now(), makers: newMakers(), Pools: []*Pool{pool}, byKey: map[PoolKey]*Pool{pool.PoolKey: pool},
		byClaim: map[types.NamespacedName]*Machine{}, vmOf: map[types.UID]*capi.VSphereVM{},
		Templates: map[types.NamespacedName]*unstructured.Unstructured{},
		closer:    &closer{machines: map[types.UID]*asked{}, endpoints: map[types.UID]*asked{}},
	}
	for _, m := range machines {
		g.addMachine(m)
	}
	return g, pool
}

// asks has a machine ask for the pool in vain, for this reason, or with nothing in the way.
func (g *Graph) asks(m *Machine, refused error) {
	g.closer.machines[m.UID] = &asked{refused: refused, asks: []ipam.Ask{{AskedBy: "the test", Choices: []ipam.Choice{{Pool: ipam.PoolReference{Name: "lab"}}}}}}
}

func deleted(object metav1.Object) {
	now := metav1.Now()
	object.SetDeletionTimestamp(&now)
}

func expectStory(t *testing.T, s Story, wrong bool, wants ...string) {
	t.Helper()
	text := s.Title + "\n" + strings.Join(s.Lines, "\n") + "\nNow: " + s.Next
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("the story has no %q:\n%s", want, text)
		}
	}
	if s.Wrong != wrong {
		t.Errorf("something is wrong: %t, want %t:\n%s", s.Wrong, wrong, text)
	}
}

func TestMachineWithoutAnAddressIsToldWhatItWaitsFor(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Machine)
		around func(*Graph, *Machine)
		want   string
	}{
		"refused":        {nil, func(g *Graph, m *Machine) { g.asks(m, ipam.Refuse(ipam.PoolExhausted, "it is full")) }, "! PoolExhausted: it is full"},
		"the leader":     {nil, func(g *Graph, m *Machine) { g.asks(m, nil) }, "Now: kubectl -n capv-static-ip-system get pods"},
		"no Machine yet": {func(m *Machine) { m.OwnerReferences = nil }, func(g *Graph, m *Machine) { g.asks(m, nil) }, "No Machine owns it"},
		"CAPV":           {func(m *Machine) { m.Finalizers = nil }, func(g *Graph, m *Machine) { g.asks(m, nil) }, "CAPV has not looked at it yet"},
		"paused":         {func(m *Machine) { m.Annotations[clusterv1.PausedAnnotation] = "" }, func(g *Graph, m *Machine) { g.asks(m, nil) }, "It is paused itself"},
		"paused Cluster": {nil, func(g *Graph, m *Machine) {
			g.asks(m, nil)
			g.addCluster(func(c *capi.Cluster) { c.Spec.Paused = new(true) })
		}, "Cluster dkp is paused"},
		"too late": {func(m *Machine) { m.Spec.ProviderID = "vsphere://x" }, func(g *Graph, m *Machine) { g.asks(m, nil) }, "! TooLate"},
		"a task": {nil, func(g *Graph, m *Machine) {
			g.asks(m, nil)
			g.vmOf[m.UID] = &capi.VSphereVM{Status: capi.VSphereVMStatus{TaskRef: "task-1"}}
		}, "kubectl delete machine md-0-a -n ns"},
		"its events": {nil, func(g *Graph, m *Machine) {
			g.asks(m, nil)
			g.closer.events = []*corev1.Event{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, InvolvedObject: corev1.ObjectReference{Kind: "VSphereMachine", Name: m.Name},
				Type: corev1.EventTypeWarning, Reason: "AskedInVain", Message: "asked in vain", Count: 3, LastTimestamp: metav1.Time{Time: g.At.Add(-time.Minute)},
			}}
		}, "Its events say (3 times, last 60s ago): AskedInVain: asked in vain"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineWaiting()
			if test.change != nil {
				test.change(m)
			}
			g, _ := graphOf(m)
			test.around(g, m)
			expectStory(t, g.ExplainMachine(m), true, "it has no source of addresses", test.want)
		})
	}
}

// objectOf is an object of the namespace with a spec.
func objectOf(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"kind": kind, "metadata": map[string]any{"namespace": "ns", "name": name}, "spec": spec}}
}

func TestWhatIsWrittenInVainIsFound(t *testing.T) {
	label := map[string]string{machine.PoolNameLabel: "lab"}
	labelled := func(kind, name string) *unstructured.Unstructured {
		o := objectOf(kind, name, nil)
		o.SetLabels(label)
		return o
	}
	for name, test := range map[string]struct {
		around func(*Graph, *Machine)
		want   string
	}{
		"on the MachineSet": {func(g *Graph, _ *Machine) { g.closer.sets = append(g.closer.sets, labelled("MachineSet", "md-0-x")) },
			`Label cluster.x-k8s.io/ip-pool-name=lab stands on MachineSet "md-0-x" itself, which hands nothing on: its spec.template.metadata would.`},
		"on the MachineDeployment": {func(g *Graph, _ *Machine) {
			g.Workloads = append(g.Workloads, &Workload{Unstructured: labelled("MachineDeployment", "md-0")})
		}, `stands on MachineDeployment "md-0" itself`},
		"on the Cluster": {func(g *Graph, _ *Machine) { g.addCluster(func(c *capi.Cluster) { c.Labels = label }) },
			`stands on Cluster "dkp" itself, which hands nothing on: the metadata in its spec.topology, or that of the template, would.`},
		"on the control plane": {func(g *Graph, m *Machine) {
			g.makers.machines[maker{"KubeadmControlPlane", "ns", "cp"}] = []*Machine{m}
			g.Workloads = append(g.Workloads, &Workload{Unstructured: labelled("KubeadmControlPlane", "cp")})
		}, `KubeadmControlPlane "cp" itself, which hands nothing on: its spec.machineTemplate.metadata would.`},
		"an annotation of a Cluster": {func(g *Graph, _ *Machine) {
			g.addCluster(func(c *capi.Cluster) { c.Annotations = map[string]string{ipam.PoolsAnnotationPrefix + "0": "lab"} })
		}, `Annotation pools.capv-static-ip.dev/0 stands on Cluster "dkp" itself`},
		"a device that does not exist": {func(_ *Graph, m *Machine) { m.Annotations[ipam.PoolsAnnotationPrefix+"eth7"] = "lab" },
			"is for a device that the machine does not have: its devices are 0 (VM Network)"},
		"a label in place of an annotation": {func(_ *Graph, m *Machine) { m.Labels[ipam.PoolsAnnotationPrefix+"0"] = "lab" }, "it has to be an annotation"},
		"an annotation in place of a label": {func(_ *Graph, m *Machine) { m.Annotations[machine.PoolNameLabel] = "lab" }, "it has to be a label"},
		"a mistyped label":                  {func(_ *Graph, m *Machine) { m.Labels["cluster.x-k8s.io/ippool-name"] = "lab" }, "cluster.x-k8s.io/ip-pool-name is meant?"},
		"a mistyped annotation":             {func(_ *Graph, m *Machine) { m.Annotations["pool.capv-static-ip.dev/0"] = "lab" }, "pools.capv-static-ip.dev/0 is meant?"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineWaiting()
			g, _ := graphOf()
			test.around(g, m)
			g.addMachine(m)
			expectStory(t, g.ExplainMachine(m), true, "Nobody names a pool", test.want)
		})
	}
}

func TestKeysOfOthersAreNotTakenForMistypedOnes(t *testing.T) {
	for _, key := range []string{
		clusterv1.ClusterNameLabel, clusterv1.MachineSetNameLabel, clusterv1.MachineDeploymentNameLabel, clusterv1.PausedAnnotation, ipam.BindingsAnnotation,
		machine.PoolNameLabel, ipam.PoolGroupLabel, ipam.PoolsAnnotationPrefix + "0", ipam.GatewayAnnotationPrefix + "0", "cluster.x-k8s.io/pool-name",
	} {
		if got := mistyped(key); got != "" && key != "cluster.x-k8s.io/pool-name" {
			t.Errorf("%s is taken for %s", key, got)
		}
	}
}

func TestTemplateIsLabelledWithThePoolThatWasNamedInVain(t *testing.T) {
	m := machineWaiting(func(m *Machine) { m.Annotations[clusterv1.TemplateClonedFromNameAnnotation] = "md" })
	g, _ := graphOf(m)
	deployment := objectOf("MachineDeployment", "md-0", nil)
	deployment.SetLabels(map[string]string{machine.PoolNameLabel: "lab"})
	g.Workloads = []*Workload{{Unstructured: deployment}}
	expectStory(t, g.ExplainMachine(m), true, "Now: kubectl label vspheremachinetemplate md -n ns cluster.x-k8s.io/ip-pool-name=lab ")
}

func TestPoolOfTheNameElsewhereIsNamed(t *testing.T) {
	m := machineWaiting()
	g, here := graphOf(m)
	there := *here
	there.PoolKey = PoolKey{Namespace: "elsewhere", PoolReference: metal3.PoolNamed("lab")}
	g.Pools = append(g.Pools, &there)
	here.Name = "another"
	g.asks(m, ipam.Refuse(ipam.PoolNotFound, "it is not found"))
	expectStory(t, g.ExplainMachine(m), true, "There is elsewhere/IPPool/lab: ")
}

func TestWhatHasBecomeOfAnAddressIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Graph, *Pool, *Machine)
		wrong  bool
		want   string
	}{
		"nothing":                      {func(*Graph, *Pool, *Machine) {}, false, "As it should be."},
		"the claim is gone":            {func(_ *Graph, p *Pool, _ *Machine) { p.Claims = nil }, true, "claim md-0-a-0 is not there: it is made anew"},
		"the claim is being deleted":   {func(_ *Graph, p *Pool, _ *Machine) { deleted(p.Claims[0].Object) }, true, "the address stays until the machine is gone"},
		"the claim is not bound":       {func(_ *Graph, p *Pool, _ *Machine) { p.Claims[0].Address, p.Claims[0].Failure = "", "no" }, true, "claim md-0-a-0 is not bound: no"},
		"the address is being deleted": {func(_ *Graph, p *Pool, _ *Machine) { deleted(p.Addresses[0].Object) }, true, "replace the machine when it suits you"},
		"somebody else has it":         {func(_ *Graph, p *Pool, _ *Machine) { p.Addresses[0].Claim = "somebody" }, true, "AddressLost: 10.0.0.7 is bound to claim ns/somebody"},
		"its claim has another": {func(_ *Graph, p *Pool, _ *Machine) { p.Addresses[0].IP = netip.MustParseAddr("10.0.0.8") }, true,
			"AddressLost: claim md-0-a-0 has 10.0.0.8 now, and the machine goes on using 10.0.0.7"},
		"the pool is gone":      {func(_ *Graph, p *Pool, _ *Machine) { p.Object = nil }, true, "does not exist any more"},
		"the device has it not": {func(_ *Graph, _ *Pool, m *Machine) { m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.9/24"} }, true, "the device does not have it"},
		"another machine has it, too": {func(g *Graph, _ *Pool, m *Machine) {
			other := machineWaiting(func(other *Machine) { other.Name, other.UID = "other", "other" })
			other.Spec.Network.Devices = m.Spec.Network.Devices
			g.Machines = append(g.Machines, other)
		}, true, "also on VSphereMachine ns/other"},
		"it goes, its VM is there": {func(g *Graph, _ *Pool, m *Machine) {
			deleted(m)
			g.vmOf[m.UID] = &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Name: "md-0-a"}}
		}, false, "Its addresses stay until VSphereVM md-0-a is gone."},
		"it goes, CAPV holds it": {func(_ *Graph, _ *Pool, m *Machine) { deleted(m) }, false, "waits for who has the finalizer " + infrav1.MachineFinalizer},
		"it goes, we alone hold it": {func(_ *Graph, _ *Pool, m *Machine) {
			deleted(m)
			m.Finalizers = []string{ipam.ReleaseFinalizer}
		}, true, "no replica leads"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineHolding()
			g, pool := graphOf(m)
			test.change(g, pool, m)
			expectStory(t, g.ExplainMachine(m), test.wrong, test.want)
		})
	}
}

func TestStateOfAClaimIsTold(t *testing.T) {
	machineName := map[string]string{ipam.MachineNameAnnotation: "nobody"}
	for name, test := range map[string]struct {
		annotations map[string]string
		change      func(*Pool)
		want        string
	}{
		"of somebody else":    {nil, nil, "somebody else than capv-static-ip"},
		"of an endpoint":      {map[string]string{ipam.ClusterNameAnnotation: "prod"}, nil, "the endpoint of VSphereCluster ns/prod"},
		"it had a machine":    {machineName, nil, "MachineMissing"},
		"of a request":        {map[string]string{ipam.MachineNameAnnotation: "nobody", ipam.RequestedByAnnotation: "none"}, nil, "its machine was not stored (yet)"},
		"kept for its owner":  {map[string]string{ipam.MachineNameAnnotation: "nobody", ipam.KeptAnnotation: ""}, nil, "kept for the next machine of the same owner"},
		"cooling by the pool": {map[string]string{ipam.ReleasedAtAnnotation: "2026-01-01T00:00:00Z"}, func(p *Pool) { p.Object.SetAnnotations(map[string]string{ipam.ReuseAfterAnnotation: "10m"}) }, "cools down for 10m"},
		"cooling by default":  {map[string]string{ipam.ReleasedAtAnnotation: "2026-01-01T00:00:00Z"}, nil, "--reuse-after of the manager"},
		"set aside":           {map[string]string{ipam.SetAsideAnnotation: `{"ip":"10.0.0.7","cause":"Gateway"}`}, func(p *Pool) { p.Claims[0].SetLabels(map[string]string{ipam.SetAsideLabel: ""}) }, "It keeps 10.0.0.7 from being handed out, which no machine can be given (Gateway)"},
		"being deleted":       {nil, func(p *Pool) { deleted(p.Claims[0].Object); p.Claims[0].SetFinalizers([]string{"a/b"}) }, "waits for who has the finalizers: a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			g, pool := graphOf()
			pool.Claims[0].SetAnnotations(test.annotations)
			if test.change != nil {
				test.change(pool)
			}
			stories, known := g.Explain("ipclaims.ipam.metal3.io", types.NamespacedName{Namespace: "ns", Name: "md-0-a-0"})
			if !known || len(stories) != 1 {
				t.Fatalf("there are %d stories, want one", len(stories))
			}
			expectStory(t, stories[0], false, test.want, "10.0.0.7")
		})
	}
}

func TestOwnerIsToldWhatItWaitsFor(t *testing.T) {
	const set = "MachineSet"
	for name, test := range map[string]struct {
		refusedBy string
		change    func(*unstructured.Unstructured)
		wrong     bool
		want      []string
	}{
		"nothing": {"", func(*unstructured.Unstructured) {}, false, []string{"No machine of it waits for an address."}},
		"a pool": {"IPPool.ipam.metal3.io/lab:2", func(*unstructured.Unstructured) {}, true,
			[]string{"2 addresses of ns/IPPool/lab: 4 of 5 free, 1 used, 0 cooling", "within seconds"}},
		"a reason":       {"AddressInUse", func(*unstructured.Unstructured) {}, true, []string{"AddressInUse to be mended", "every minute"}},
		"a missing pool": {"IPPool.ipam.metal3.io/nowhere", func(*unstructured.Unstructured) {}, true, []string{"which does not exist"}},
		"tried again": {"", func(o *unstructured.Unstructured) {
			o.SetAnnotations(map[string]string{ipam.TriedAgainAnnotation: "now"})
		}, false,
			[]string{"It was made to try again (now)"}},
		"a condition alone": {"", refusedCondition, true, []string{"waits for nothing", "--subresource=status"}},
		"its condition":     {"IPPool.ipam.metal3.io/lab", refusedCondition, true, []string{"  PoolExhausted: it is full"}},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := graphOf()
			object := objectOf(set, "md-0-x", nil)
			test.change(object)
			g.closer.sets = []*unstructured.Unstructured{object}
			if test.refusedBy != "" {
				meta := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "md-0-x"}}
				g.Owners = []*Owner{{Kind: set, PartialObjectMetadata: meta, Shortages: retry.ParseShortages(test.refusedBy)}}
			}
			stories, _ := g.Explain("ms", types.NamespacedName{Namespace: "ns", Name: "md-0-x"})
			expectStory(t, stories[0], test.wrong, test.want...)
		})
	}
}

func refusedCondition(o *unstructured.Unstructured) {
	o.Object["status"] = map[string]any{"conditions": []any{map[string]any{
		"type": ipam.AddressesAvailableCondition, "status": "False", "reason": "PoolExhausted", "message": "it is full",
	}}}
}

func TestClusterWithoutAnEndpointIsToldWhatItWaitsFor(t *testing.T) {
	asks := map[string]string{ipam.PoolsAnnotationPrefix + ipam.EndpointDevice: "vips"}
	for name, test := range map[string]struct {
		annotations map[string]string
		found       asked
		wrong       bool
		want        string
	}{
		"it does not ask":  {nil, asked{}, false, "does not ask for one itself"},
		"its Cluster asks": {nil, asked{asks: []ipam.Ask{{AskedBy: "annotation of Cluster"}}}, true, "counts only beside an annotation or label of the VSphereCluster itself"},
		"no Cluster":       {asks, asked{asks: []ipam.Ask{{}}}, false, "Its Cluster does not exist"},
		"left alone":       {asks, asked{cluster: &capi.Cluster{}, leave: `Cluster "prod" is paused`}, false, `Cluster "prod" is paused.`},
		"refused":          {asks, asked{cluster: &capi.Cluster{}, refused: ipam.Refuse(ipam.PoolExhausted, "it is full")}, true, "PoolExhausted: it is full"},
		"within seconds":   {asks, asked{cluster: &capi.Cluster{}, asks: []ipam.Ask{{AskedBy: "it"}}}, false, "it gets that within seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := graphOf()
			c := &Cluster{VSphereCluster: &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "c", Annotations: test.annotations}}}
			g.Clusters, g.closer.endpoints["c"] = []*Cluster{c}, &test.found
			expectStory(t, g.ExplainEndpoint(c), test.wrong, test.want)
		})
	}
}

func TestVMWhoseGuestReportsAnotherAddressIsWrong(t *testing.T) {
	m := machineHolding()
	g, _ := graphOf(m)
	vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "md-0-a", OwnerReferences: []metav1.OwnerReference{{Kind: "VSphereMachine", Name: m.Name, UID: m.UID}}}}
	vm.Spec.Network, vm.Status.Addresses = m.Spec.Network, []string{"10.0.0.99"}
	g.VMs, g.vmOf[m.UID] = []*capi.VSphereVM{vm}, vm
	stories, _ := g.Explain("vspherevm", types.NamespacedName{Namespace: "ns", Name: "md-0-a"})
	expectStory(t, stories[0], true, "its guest does not report 10.0.0.7", "As it should be.")
	vm.Status.Addresses = []string{"10.0.0.7"}
	stories, _ = g.Explain("vspherevm", types.NamespacedName{Namespace: "ns", Name: "md-0-a"})
	expectStory(t, stories[0], false, "guest      10.0.0.7")
}

func TestMachinesSayWhatTheyWaitFor(t *testing.T) {
	for want, m := range map[string]*Machine{
		"":                   machineHolding(),
		"a pool to be named": machineWaiting(),
		"lab|other":          machineWaiting(func(m *Machine) { m.Annotations[ipam.PoolsAnnotationPrefix+"0"] = "lab | other" }),
		"DeviceNotFound":     machineWaiting(func(m *Machine) { m.Annotations[ipam.PoolsAnnotationPrefix+"9"] = "lab" }),
		"nothing: too late":  machineWaiting(func(m *Machine) { m.Spec.ProviderID = "vsphere://x" }),
	} {
		g, _ := graphOf(m)
		if got := g.WaitsFor(m); got != want {
			t.Errorf("the machine waits for %q, want %q", got, want)
		}
	}
}

func TestEveryKindCanBeExplained(t *testing.T) {
	g, _ := graphOf()
	for _, kind := range append(Explained(), "md", "kcp", "Machines", "vspheremachines.infrastructure.cluster.x-k8s.io") {
		if stories, known := g.Explain(kind, types.NamespacedName{Namespace: "ns", Name: "nothing"}); !known || len(stories) > 0 {
			t.Errorf("%s is known: %t, with %d stories of what does not exist", kind, known, len(stories))
		}
	}
	if _, known := g.Explain("pod", types.NamespacedName{}); known || slices.Contains(Explained(), "pod") {
		t.Error("a Pod can be explained")
	}
}

func TestAddressByHandIsLookedForInPools(t *testing.T) {
	of := func(machine string) map[string]string { return map[string]string{ipam.MachineNameAnnotation: machine} }
	for _, test := range []struct {
		ip     string
		holder map[string]string
		wrong  bool
		want   string
	}{
		{"10.0.0.6", nil, true, "! 10.0.0.6 is in ns/IPPool/lab, which does not know that it is used"},
		{"10.0.0.7", of("cp-0"), true, "! 10.0.0.7 is of ns/IPPool/lab, which has given it to VSphereMachine ns/cp-0"},
		{"10.0.0.7", nil, false, "10.0.0.7 is of ns/IPPool/lab, where claim md-0-a-0 holds it"},
		{"10.9.9.9", nil, false, "written by hand"},
	} {
		m := machineWaiting(func(m *Machine) { m.Spec.Network.Devices[0].IPAddrs = []string{test.ip + "/24"} })
		g, pool := graphOf(m)
		pool.Addresses[0].SetAnnotations(test.holder)
		expectStory(t, g.ExplainMachine(m), test.wrong, test.want)
		c := &Cluster{VSphereCluster: &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}}
		c.Spec.ControlPlaneEndpoint.Host = test.ip
		expectStory(t, g.ExplainEndpoint(c), test.wrong, test.want)
	}
}

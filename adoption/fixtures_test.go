package adoption

import (
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

const ns = "ns"

var (
	ip1 = netip.MustParseAddr("10.0.0.1")
	ip2 = netip.MustParseAddr("10.0.0.2")
	now = metav1.Now()
)

// world is what a test says that there is.
type world struct {
	graph *inventory.Graph
	pool  *inventory.Pool
}

// newWorld has one pool, and Cluster "dkp".
func newWorld() *world {
	pool := &inventory.Pool{
		PoolKey: inventory.PoolKey{Namespace: ns, PoolReference: ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: "p"}},
		Object:  &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}},
	}
	return &world{pool: pool, graph: &inventory.Graph{
		Pools: []*inventory.Pool{pool}, Templates: map[types.NamespacedName]*unstructured.Unstructured{},
		CAPIClusters: []*capi.Cluster{{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "dkp"}}},
	}}
}

// state is that in which no version of a reference is served but v1beta2.
func (w *world) state() *state {
	s := stateOf(w.graph)
	s.isServed = func(owner metav1.OwnerReference) bool {
		return owner.APIVersion == "infrastructure.cluster.x-k8s.io/v1beta2"
	}
	return s
}

// machine is one of template "t" that a Machine owns, with an address, or waiting for one.
func (w *world) machine(name string, ips ...string) *inventory.Machine {
	m := &inventory.Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, Name: name, UID: types.UID(name), Labels: map[string]string{clusterv1.ClusterNameLabel: "dkp"},
		Annotations:     map[string]string{clusterv1.TemplateClonedFromNameAnnotation: "t"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: clusterv1.GroupVersion.String(), Kind: "Machine", Name: name}},
	}}}
	m.Spec.Network.Devices = []capi.Device{{IPAddrs: ips}}
	w.graph.Machines = append(w.graph.Machines, m)
	return m
}

// cluster is the VSphereCluster of "dkp".
func (w *world) cluster(host string) *inventory.Cluster {
	c := &inventory.Cluster{VSphereCluster: &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, Name: "dkp", UID: "dkp", Labels: map[string]string{clusterv1.ClusterNameLabel: "dkp", machine.PoolNameLabel: "p"},
	}}}
	c.Spec.ControlPlaneEndpoint.Host = host
	w.graph.Clusters = append(w.graph.Clusters, c)
	return c
}

// claim is one that the adapter has made, and what answers it, if that is an address.
func (w *world) claim(name, kind, owner string, ip netip.Addr) *ipamv1.IPClaim {
	object := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha4", Kind: kind, Name: owner, UID: types.UID(owner)},
	}}}
	w.pool.Claims = append(w.pool.Claims, ipam.Claim{Object: object})
	if ip.IsValid() {
		address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p-" + ip.String()}}
		w.pool.Addresses = append(w.pool.Addresses, inventory.Address{Address: ipam.Address{Object: address, Claim: name}, IP: ip})
	}
	return object
}

// template is a VSphereMachineTemplate with one device.
func (w *world) template(name string, labels map[string]string, device map[string]any) *unstructured.Unstructured {
	template := &unstructured.Unstructured{Object: map[string]any{}}
	template.SetNamespace(ns)
	template.SetName(name)
	template.SetLabels(labels)
	_ = unstructured.SetNestedSlice(template.Object, []any{device}, "spec", "template", "spec", "network", "devices")
	w.graph.Templates[types.NamespacedName{Namespace: ns, Name: name}] = template
	return template
}

// deployment is a MachineDeployment of a template.
func (w *world) deployment(name, template string, labels map[string]any) {
	object := &unstructured.Unstructured{Object: map[string]any{"kind": "MachineDeployment", "spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"labels": labels},
		"spec":     map[string]any{"infrastructureRef": map[string]any{"name": template}},
	}}}}
	object.SetNamespace(ns)
	object.SetName(name)
	w.graph.Workloads = append(w.graph.Workloads, w.graph.Workload(object))
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
		return
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got[i], want[i])
		}
	}
}

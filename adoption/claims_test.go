package adoption

import (
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

func TestWhatBecomesOfAClaimOfTheAdapter(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world, m *inventory.Machine, claim *ipamv1.IPClaim)
		want   outcome
	}{
		"its machine has the address": {func(*world, *inventory.Machine, *ipamv1.IPClaim) {}, adopting},
		"its machine has another address": {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) {
			m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.2/24"}
		}, unused},
		"its machine waits": {func(w *world, m *inventory.Machine, _ *ipamv1.IPClaim) {
			w.template("t", map[string]string{"cluster.x-k8s.io/ip-pool-name": "p"}, map[string]any{})
			m.Spec.Network.Devices[0].IPAddrs = nil
		}, serving},
		"its machine has a VM without the address": {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) {
			m.Spec.Network.Devices[0].IPAddrs, m.Spec.ProviderID = nil, "vsphere://x"
		}, unused},
		"its machine is paused": {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) {
			m.Annotations[clusterv1.PausedAnnotation] = ""
		}, later},
		"the Cluster of its machine is paused": {func(w *world, _ *inventory.Machine, _ *ipamv1.IPClaim) {
			w.graph.CAPIClusters[0].Spec.Paused = new(true)
		}, later},
		"its machine is being deleted": {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) { m.DeletionTimestamp = &now }, going},
		"it is being deleted":          {func(_ *world, _ *inventory.Machine, claim *ipamv1.IPClaim) { claim.DeletionTimestamp = &now }, going},
		"its machine is gone":          {func(w *world, _ *inventory.Machine, _ *ipamv1.IPClaim) { w.graph.Machines = nil }, left},
		"another life of its machine":  {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) { m.UID = "again" }, left},
		"its machine is elsewhere":     {func(_ *world, m *inventory.Machine, _ *ipamv1.IPClaim) { m.Namespace = "other" }, elsewhere},
	} {
		w := newWorld()
		m := w.machine("m", "10.0.0.1/24")
		test.change(w, m, w.claim("m-0", "VSphereMachine", "m", ip1))

		s := w.state()
		if len(s.claims) != 1 || s.claims[0].outcome != test.want {
			t.Errorf("%s: got %v, want that it %s", name, s.claims, test.want)
		}
	}
}

func TestWhatBecomesOfTheClaimOfAnEndpoint(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world, c *inventory.Cluster)
		want   outcome
	}{
		"it is written":    {func(_ *world, c *inventory.Cluster) { c.Spec.ControlPlaneEndpoint.Host = ip1.String() }, endpoint},
		"it is not":        {func(*world, *inventory.Cluster) {}, unwritten},
		"the Cluster goes": {func(_ *world, c *inventory.Cluster) { c.DeletionTimestamp = &now }, going},
		"it is gone":       {func(w *world, _ *inventory.Cluster) { w.graph.Clusters = nil }, left},
		"the Cluster is paused": {func(w *world, _ *inventory.Cluster) {
			w.graph.CAPIClusters[0].Spec.Paused = new(true)
		}, endpoint},
		"the Cluster has an endpoint": {func(w *world, _ *inventory.Cluster) {
			w.graph.CAPIClusters[0].Spec.ControlPlaneEndpoint.Host = "10.0.0.9"
		}, endpoint},
		"nobody would claim anew": {func(_ *world, c *inventory.Cluster) {
			c.Labels = map[string]string{clusterv1.ClusterNameLabel: "dkp"}
		}, endpoint},
		"there is no Cluster": {func(w *world, _ *inventory.Cluster) { w.graph.CAPIClusters = nil }, endpoint},
		"a machine has its address": {func(w *world, _ *inventory.Cluster) {
			w.machine("m", "10.0.0.1/24")
		}, endpoint},
		"a VM has its address": {func(w *world, _ *inventory.Cluster) {
			vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "vm"}}
			vm.Status.Addresses = []string{ip1.String()}
			w.graph.VMs = append(w.graph.VMs, vm)
		}, endpoint},
	} {
		w := newWorld()
		c := w.cluster("")
		w.claim("dkp", "VSphereCluster", "dkp", ip1)
		test.change(w, c)

		s := w.state()
		if len(s.claims) != 1 || s.claims[0].outcome != test.want {
			t.Errorf("%s: got %v, want that it %s", name, s.claims, test.want)
		}
	}
}

func TestClaimsOfOthersAreNoneOfTheAdapters(t *testing.T) {
	w := newWorld()
	w.machine("m", "10.0.0.1/24")
	w.claim("m-0", "VSphereMachine", "m", ip1).Labels = map[string]string{ipam.MachineLabel: "adopted"}
	w.claim("m-x", "VSphereMachine", "m", ip2)
	w.claim("vm-0", "VSphereVM", "vm", ip2)
	w.claim("m-1", "VSphereMachine", "m", ip2).OwnerReferences = nil
	w.claim("vip", "VSphereCluster", "dkp", ip2)

	if got := w.state().claims; len(got) > 0 {
		t.Errorf("got %v, want none", got)
	}
}

func TestClaimsThatStayAreNamedAfterWhoOwnsThem(t *testing.T) {
	w := newWorld()
	w.machine("adopted", "10.0.0.1/24")
	w.claim("adopted-0", "VSphereMachine", "adopted", ip1)
	going := w.machine("going", "10.0.0.2/24")
	going.DeletionTimestamp = &now
	w.claim("going-0", "VSphereMachine", "going", ip2)
	served := w.machine("served", "10.0.0.3/24")
	served.DeletionTimestamp = &now
	w.claim("served-0", "VSphereMachine", "served", netip.MustParseAddr("10.0.0.3")).OwnerReferences[0].APIVersion = "infrastructure.cluster.x-k8s.io/v1beta2"
	w.cluster("10.0.0.4")
	w.claim("dkp", "VSphereCluster", "dkp", netip.MustParseAddr("10.0.0.4"))
	w.claim("gone-0", "VSphereMachine", "gone", netip.MustParseAddr("10.0.0.5"))

	// The manager names the owner of what it adopts; and what has no owner any more would be
	// deleted at once.
	expect(t, "of which the owner is not found", namesOf(w.state().stale()),
		"claim ns/going-0: 10.0.0.2 of VSphereMachine going", "claim ns/dkp: 10.0.0.4 of VSphereCluster dkp")
}

func TestClaimsThatAreNotAdoptedAreTold(t *testing.T) {
	w := newWorld()
	w.machine("paused", "10.0.0.1/24").Annotations[clusterv1.PausedAnnotation] = ""
	w.claim("paused-0", "VSphereMachine", "paused", ip1)
	w.machine("other", "10.0.0.3/24")
	w.claim("other-0", "VSphereMachine", "other", ip2)
	w.claim("gone-0", "VSphereMachine", "gone", netip.Addr{})

	s := w.state()
	expect(t, "notes", s.claimNotes(),
		"claim ns/paused-0: 10.0.0.1 of VSphereMachine paused is adopted when the machine, or its Cluster, is resumed; the claim holds the address until then",
		"claim ns/other-0: 10.0.0.2 of VSphereMachine other, which does not use it: the claim goes with it",
		"claim ns/gone-0: of VSphereMachine gone, which does not exist: delete the claim when nothing uses the address")
	expect(t, "waited for", s.unadopted())
}

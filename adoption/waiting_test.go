package adoption

import (
	"testing"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

func TestWhatBecomesOfAMachineWithoutAnAddress(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world, m *inventory.Machine)
		want   fate
	}{
		"its template names a pool":     {func(*world, *inventory.Machine) {}, served},
		"it has one":                    {func(_ *world, m *inventory.Machine) { m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.1/24"} }, settled},
		"it has DHCP":                   {func(_ *world, m *inventory.Machine) { m.Spec.Network.Devices[0].DHCP4 = new(true) }, settled},
		"it is being deleted":           {func(_ *world, m *inventory.Machine) { m.DeletionTimestamp = &now }, settled},
		"its template names no pool":    {func(w *world, _ *inventory.Machine) { w.template("t", nil, nil) }, unnamed},
		"its VM exists":                 {func(_ *world, m *inventory.Machine) { m.Spec.ProviderID = "vsphere://x" }, tooLate},
		"no Machine owns it":            {func(_ *world, m *inventory.Machine) { m.OwnerReferences = nil }, unowned},
		"it is paused":                  {func(_ *world, m *inventory.Machine) { m.Annotations[clusterv1.PausedAnnotation] = "" }, resumed},
		"its Cluster is paused":         {func(w *world, _ *inventory.Machine) { w.graph.CAPIClusters[0].Spec.Paused = new(true) }, resumed},
		"its Cluster is of another one": {func(w *world, _ *inventory.Machine) { w.graph.CAPIClusters[0] = pausedElsewhere() }, served},
	} {
		w := newWorld()
		w.template("t", named, map[string]any{})
		m := w.machine("m")
		test.change(w, m)

		if got := w.state().fateOf(m); got != test.want {
			t.Errorf("%s: got %d, want %d", name, got, test.want)
		}
	}
}

func pausedElsewhere() *capi.Cluster {
	cluster := &capi.Cluster{Spec: capi.ClusterSpec{Paused: new(true)}}
	cluster.Namespace, cluster.Name = "other", "dkp"
	return cluster
}

func TestWhatWaitsIsWaitedFor(t *testing.T) {
	w := newWorld()
	w.template("t", named, map[string]any{})
	w.machine("m")
	w.machine("caught")
	w.claim("caught-0", "VSphereMachine", "caught", ip1)
	w.machine("left").OwnerReferences = nil
	w.machine("late").Spec.ProviderID = "vsphere://x"
	w.cluster("")

	s := w.state()
	expect(t, "waited for", s.waiting(), "VSphereMachine ns/m waits for an address of p",
		"VSphereMachine ns/caught waits for an address of p, and the adapter has claimed 10.0.0.1", "VSphereCluster ns/dkp waits for its endpoint")
	expect(t, "told", s.machineNotes(),
		"VSphereMachine ns/left waits for an address, and no Machine owns it: delete it if it is left over",
		"VSphereMachine ns/late has a VM without its address: replace the machine")
}

package adoption

import (
	"slices"
	"strings"
	"testing"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/machine"
)

var named = map[string]string{machine.PoolNameLabel: "p"}

func TestTemplateInUseThatNamesNoPoolHasToBeChanged(t *testing.T) {
	static := map[string]any{"networkName": "n", "dhcp4": false}
	for name, test := range map[string]struct {
		labels map[string]string
		device map[string]any
		handed map[string]any
		change bool
	}{
		"no label":                        {nil, static, nil, true},
		"the pool's name":                 {named, static, nil, false},
		"the labels of pools":             {map[string]string{"cluster.x-k8s.io/ip-pool-group": "g"}, static, nil, false},
		"DHCP":                            {nil, map[string]any{"dhcp4": true}, nil, false},
		"pools of CAPV's own":             {nil, map[string]any{"addressesFromPools": []any{map[string]any{"name": "x"}}}, nil, false},
		"the label is handed to machines": {nil, static, map[string]any{machine.PoolNameLabel: "p"}, false},
	} {
		w := newWorld()
		w.template("t", test.labels, test.device)
		w.deployment("md", "t", test.handed)

		if got := w.state().changes(); (len(got) == 1) != test.change {
			t.Errorf("%s: got %q, want that it has to be changed: %v", name, got, test.change)
		}
	}
}

func TestWhatToTypeNamesThePoolThatTheMachinesHave(t *testing.T) {
	w := newWorld()
	w.template("t", nil, map[string]any{})
	w.deployment("md", "t", nil)
	w.machine("m", "10.0.0.1/24")
	w.claim("m-0", "VSphereMachine", "m", ip1)
	w.machine("waits")

	expect(t, "changes", w.state().changes(),
		"VSphereMachineTemplate ns/t names no pool, and is that of MachineDeployment md; machines of it that wait: 1: "+
			"its machines have addresses of IPPool p; kubectl label vspheremachinetemplate t -n ns cluster.x-k8s.io/ip-pool-name=p")
}

func TestTemplateOfAClassIsNotLabelledByHand(t *testing.T) {
	w := newWorld()
	w.template("t", map[string]string{clusterv1.ClusterTopologyOwnedLabel: ""}, map[string]any{})
	w.deployment("md", "t", nil)

	got := w.state().changes()
	if len(got) != 1 || !strings.Contains(got[0], "docs/clusterclass.md") || strings.Contains(got[0], "kubectl label") {
		t.Errorf("got %q, want that the topology is to be changed", got)
	}
}

func TestNobodyHasToChangeWhereTheAdapterHasNoPool(t *testing.T) {
	w := newWorld()
	w.template("t", nil, map[string]any{})
	w.deployment("md", "t", nil)
	w.machine("waits")
	w.cluster("").Labels = nil
	w.pool.Namespace = "other"

	expect(t, "changes", w.state().changes())
}

func TestPoolsOfAnotherNamespaceHaveToBePutElsewhere(t *testing.T) {
	w := newWorld()
	w.graph.CAPIClusters[0].Annotations = map[string]string{"cluster.x-k8s.io/ip-pool-namespace": "pools"}
	w.template("t", map[string]string{machine.PoolNameLabel: "p", "cluster.x-k8s.io/ip-pool-namespace": ns}, map[string]any{})

	expect(t, "changes", w.state().changes(),
		"Cluster ns/dkp says with cluster.x-k8s.io/ip-pool-namespace that its pools are in namespace \"pools\": put them into namespace ns, and remove that")
}

func TestEndpointThatNamesNoPoolHasToBeChanged(t *testing.T) {
	w := newWorld()
	c := w.cluster("")
	expect(t, "with a label", w.state().changes())

	c.Labels = map[string]string{clusterv1.ClusterNameLabel: "dkp"}
	if got := w.state().changes(); len(got) != 1 || !strings.HasPrefix(got[0], "VSphereCluster ns/dkp waits for its endpoint") {
		t.Errorf("got %q, want the VSphereCluster", got)
	}

	c.Spec.ControlPlaneEndpoint.Host = "10.0.0.9"
	expect(t, "with an endpoint", w.state().changes())
}

func TestTemplateThatNobodyUsesIsOnlyTold(t *testing.T) {
	w := newWorld()
	w.template("old", nil, map[string]any{})
	w.pool.Object.SetLabels(map[string]string{defaultPoolLabel: "true"})

	s := w.state()
	expect(t, "changes", s.changes())
	for _, want := range []string{"VSphereMachineTemplate ns/old names no pool", "label ippool.cluster.x-k8s.io/is-default of ns/IPPool/p means nothing"} {
		if !slices.ContainsFunc(s.changeNotes(), func(note string) bool { return strings.HasPrefix(note, want) }) {
			t.Errorf("got the notes %q, want %q", s.changeNotes(), want)
		}
	}
}

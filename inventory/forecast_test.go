package inventory

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/allocator/capi"
)

// changed is a copy of an object with a field set.
func changed(t *testing.T, object *unstructured.Unstructured, value any, path ...string) *unstructured.Unstructured {
	t.Helper()
	after := object.DeepCopy()
	if err := unstructured.SetNestedField(after.Object, value, path...); err != nil {
		t.Fatal(err)
	}
	return after
}

const (
	noAddress  = `IPPool "dkp" in namespace "ns" has no free address; `
	oneAddress = `IPPool "dkp" in namespace "ns" has 1 free address; `
)

func TestForecastOfAChange(t *testing.T) {
	for name, test := range map[string]struct {
		value any
		path  []string
		full  bool
		surge any
		want  []string
	}{
		"that rolls out, and has enough":   {"v1.34.0", []string{"spec", "version"}, false, nil, nil},
		"that rolls out":                   {"v1.34.0", []string{"spec", "version"}, true, nil, []string{noAddress + "a roll-out of this KubeadmControlPlane needs 1 more than it holds: it will stall; add addresses"}},
		"that rolls out without surge":     {"v1.34.0", []string{"spec", "version"}, true, int64(0), []string{noAddress + "a roll-out of this KubeadmControlPlane goes on as VMs go: its machines have no surge, and a replacement is refused until then"}},
		"of the number of machines":        {int64(5), []string{"spec", "replicas"}, false, nil, []string{oneAddress + "the machines that this KubeadmControlPlane is to have need 2 more than it holds: one will be refused; add addresses"}},
		"to fewer machines":                {int64(1), []string{"spec", "replicas"}, true, int64(0), nil},
		"of labels that are set in place":  {"x", []string{"spec", "machineTemplate", "metadata", "labels", "a"}, true, nil, nil},
		"of something else that is not of": {"x", []string{"metadata", "labels", "a"}, true, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g, w := world(true)
			if test.full {
				g.Pools[0].Addresses = append(g.Pools[0].Addresses, holding("10.0.0.91")...)
			}
			before := w.Unstructured
			if test.surge != nil {
				before = changed(t, before, test.surge, "spec", "rollout", "strategy", "rollingUpdate", "maxSurge")
			}
			got := g.Forecast(Change{Before: before, After: changed(t, before, test.value, test.path...)})
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%q, want\n%q", got, test.want)
			}
		})
	}
}

func TestForecastOfANewMachineDeployment(t *testing.T) {
	g, _ := world(true)
	md := workload(deployment, map[string]any{
		"replicas": int64(2), "template": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{"name": "cp"}}},
	}, nil)
	md.SetName("md")
	got := g.Forecast(Change{After: md.Unstructured})
	want := []string{oneAddress + "the machines that this MachineDeployment is to have need 2 more than it holds: one will be refused; add addresses"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestForecastSaysNothingOfWhatIsDeleted(t *testing.T) {
	g, w := world(true)
	g.Pools[0].Addresses = append(g.Pools[0].Addresses, holding("10.0.0.91")...)
	after := changed(t, w.Unstructured, "v1.34.0", "spec", "version")
	after = changed(t, after, "2026-01-01T00:00:00Z", "metadata", "deletionTimestamp")
	if got := g.Forecast(Change{Before: w.Unstructured, After: after}); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

// topology is world with a full pool, whose control plane and two MachineDeployments, of no
// machine yet, are those of a Cluster.
func topology(t *testing.T) (*Graph, *unstructured.Unstructured) {
	t.Helper()
	g, w := world(true)
	own := func(w *Workload, name string) {
		w.SetLabels(map[string]string{"topology.cluster.x-k8s.io/owned": "", "topology.cluster.x-k8s.io/deployment-name": name})
		w.Cluster, w.Concurrency = "dkp", 2
	}
	own(w, "")
	for _, name := range []string{"md-0", "md-1"} {
		md := workload(deployment, map[string]any{
			"replicas": int64(0), "template": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{"name": "cp"}}},
		}, nil)
		md.SetName("dkp-" + name)
		g.complete(md)
		own(md, name)
		g.Workloads = append(g.Workloads, md)
	}
	cluster := &unstructured.Unstructured{Object: map[string]any{"kind": capi.ClusterKind.Kind, "spec": map[string]any{"topology": map[string]any{
		"version": "v1.33.0", "controlPlane": map[string]any{"replicas": int64(3)},
		"workers": map[string]any{"machineDeployments": []any{
			map[string]any{"name": "md-0", "class": "default", "replicas": int64(0)}, map[string]any{"name": "md-1", "class": "default", "replicas": int64(0)},
		}},
	}}}}
	cluster.SetName("dkp")
	cluster.SetNamespace("ns")
	return g, cluster
}

func TestForecastOfATopology(t *testing.T) {
	fill := func(g *Graph) { g.Pools[0].Addresses = append(g.Pools[0].Addresses, holding("10.0.0.91")...) }
	const mds = "machineDeployments"
	workers := func(zero, one map[string]any) []any {
		zero["name"], zero["class"], one["name"], one["class"] = "md-0", "default", "md-1", "default"
		return []any{zero, one}
	}
	for name, test := range map[string]struct {
		prepare func(*Graph)
		value   any
		path    []string
		want    []string
	}{
		"that upgrades": {fill, "v1.34.0", []string{"version"}, []string{noAddress + `a roll-out of KubeadmControlPlane "owner" needs 1 more than it holds: it will stall; add addresses`}},
		"that adds machines": {
			fill, workers(map[string]any{"replicas": int64(2)}, map[string]any{"replicas": int64(0)}),
			[]string{"workers", mds},
			[]string{noAddress + `the machines that MachineDeployment "dkp-md-0" is to have need 2 more than it holds: 2 will be refused; add addresses`},
		},
		"that upgrades two at a time": {
			func(g *Graph) {
				for _, w := range g.Workloads[1:] {
					w.Replicas = 1
					m := *g.Machines[0]
					object := *m.VSphereMachine
					object.Labels = map[string]string{"cluster.x-k8s.io/deployment-name": w.GetName()}
					m.VSphereMachine = &object
					g.addMachine(&m)
				}
			},
			workers(map[string]any{"failureDomain": "b"}, map[string]any{"failureDomain": "b"}),
			[]string{"workers", mds},
			[]string{oneAddress + "the roll-outs that the Cluster begins at a time (2) need 2: they will stall; add addresses"},
		},
		"of a label": {fill, "x", []string{"controlPlane", "metadata", "labels", "a"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g, before := topology(t)
			test.prepare(g)
			got := g.Forecast(Change{Before: before, After: changed(t, before, test.value, append([]string{"spec", "topology"}, test.path...)...)})
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%q, want\n%q", got, test.want)
			}
		})
	}
}

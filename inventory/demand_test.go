package inventory

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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
		"with an autoscaler":               {workload(deployment, rolling(int64(1)), map[string]string{autoscalerMax: "10"}), 1, 3, [3]int{1, 0, 7}},
		"of a control plane":               {workload(controlPlane, map[string]any{"replicas": int64(3)}, nil), 1, 3, [3]int{1, 0, 0}},
		"of a control plane without surge": {workload(controlPlane, rolling(int64(0)), nil), 1, 3, [3]int{0, 0, 0}},
		"of a control plane of v1beta1":    {workload(controlPlane, map[string]any{"replicas": int64(3), "rolloutStrategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": int64(0)}}}, nil), 1, 3, [3]int{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			d := test.workload.demand(&Pool{}, test.devices, test.has)
			if got := [3]int{d.RollOut, d.Scale, d.Max}; got != test.want {
				t.Errorf("a roll-out needs, lack, and an autoscaler wants %v, want %v", got, test.want)
			}
			if (d.Note != "") != (d.RollOut == 0) {
				t.Errorf("the note is %q for a roll-out of %d", d.Note, d.RollOut)
			}
		})
	}
}

// world is a pool of six addresses with a control plane of three machines that hold three.
func world(label bool) (*Graph, *Workload) {
	g := &Graph{byKey: map[PoolKey]*Pool{}}
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
	w.asks(template)
	g.Workloads = append(g.Workloads, w)
	for _, name := range []string{"owner-a", "owner-b", "owner-c"} {
		m := &Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, Labels: map[string]string{"cluster.x-k8s.io/control-plane-name": "owner"},
		}}, Bindings: []ipam.Binding{{Pool: pool.PoolReference}}}
		g.Machines = append(g.Machines, m)
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
	if s := g.Summaries()[0]; !s.Attention || s.Status != "Exhausted" || s.Surge != 1 {
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
	w.Asks = append(w.Asks, w.Asks[0])
	if s := g.Summaries()[0]; s.Status != "Low: a roll-out needs 2" || !s.Attention {
		t.Errorf("the status is %q, want that a roll-out needs 2", s.Status)
	}
}

package collector

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// wholeCache is a cache that has objects whole, which the fake client knows by their metadata.
type wholeCache struct {
	client.Reader
	objects map[string][]unstructured.Unstructured
}

func (w wholeCache) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if into, ok := list.(*unstructured.UnstructuredList); ok {
		into.Items = w.objects[strings.TrimSuffix(into.GetKind(), "List")]
		return nil
	}
	return w.Reader.List(ctx, list, options...)
}

func object(kind string, spec map[string]any) unstructured.Unstructured {
	o := unstructured.Unstructured{Object: map[string]any{"kind": kind, "spec": spec}}
	o.SetNamespace("ns")
	o.SetName("md")
	return o
}

// forecaster is a collector of a pool and of a MachineDeployment that asks for it.
func forecaster(t *testing.T, watches func(schema.GroupKind) bool) *Collector {
	t.Helper()
	c := collectorOf(t, server(t, aPool("p", "10.0.0.1", "10.0.0.9"), aPool("q", "10.0.1.1", "10.0.1.9")))
	template := object("VSphereMachineTemplate", map[string]any{"template": map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"cluster.x-k8s.io/ip-pool-name": "p"}},
		"spec":     map[string]any{"network": map[string]any{"devices": []any{map[string]any{"networkName": "VM Network"}}}},
	}})
	md := object("MachineDeployment", map[string]any{
		"replicas": int64(5), "rollout": map[string]any{"strategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": "50%"}}},
		"template": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{"name": "md"}}},
	})
	c.Cache = wholeCache{c.Cache, map[string][]unstructured.Unstructured{"VSphereMachineTemplate": {template}, "MachineDeployment": {md}}}
	c.WatchesWhole = watches
	return c
}

func TestSurgeIsWhatTheLargestRollOutNeeds(t *testing.T) {
	compare(t, forecaster(t, func(schema.GroupKind) bool { return true }), `
# HELP capv_static_ip_pool_surge Most addresses that one roll-out needs of a pool beyond those that its machines hold, as far as other pools do not serve as well.
# TYPE capv_static_ip_pool_surge gauge
capv_static_ip_pool_surge{kind="IPPool",pool="p",pool_namespace="ns"} 3
capv_static_ip_pool_surge{kind="IPPool",pool="q",pool_namespace="ns"} 0
`, "capv_static_ip_pool_surge")
}

// A 0 would say that there is room.
func TestThereIsNoSurgeUnlessWorkloadsAreWatched(t *testing.T) {
	for name, watches := range map[string]func(schema.GroupKind) bool{
		"nothing":        nil,
		"templates only": func(kind schema.GroupKind) bool { return kind.Kind == "VSphereMachineTemplate" },
		"no templates":   func(kind schema.GroupKind) bool { return kind.Kind != "VSphereMachineTemplate" },
	} {
		t.Run(name, func(t *testing.T) {
			if n := testutil.CollectAndCount(forecaster(t, watches), "capv_static_ip_pool_surge"); n != 0 {
				t.Errorf("got %d series, want none", n)
			}
		})
	}
}

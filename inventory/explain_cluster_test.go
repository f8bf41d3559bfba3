package inventory

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
)

// addCluster has the Cluster of the machines known.
func (g *Graph) addCluster(change func(*capi.Cluster)) {
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "dkp"}}
	change(cluster)
	g.makers.clusters[client.ObjectKeyFromObject(cluster)] = cluster
}

func TestClusterTellsWhatKeepsItsTopology(t *testing.T) {
	g, _ := graphOf()
	g.addCluster(func(*capi.Cluster) {})
	g.closer.topology = objectOf("Cluster", "dkp", nil)
	g.closer.topology.Object["status"] = map[string]any{"conditions": []any{map[string]any{
		"type": "TopologyReconciled", "status": "False", "message": "it is refused",
	}}}
	stories, _ := g.Explain("cluster", types.NamespacedName{Namespace: "ns", Name: "dkp"})
	if len(stories) != 1 {
		t.Fatalf("got %+v, want one story", stories)
	}
	expectStory(t, stories[0], true, "! TopologyReconciled: it is refused")
	other, _ := g.Explain("cluster", types.NamespacedName{Namespace: "ns", Name: "other"})
	if len(other) > 0 {
		t.Errorf("there is a story of a Cluster that does not exist: %+v", other)
	}
}

package adoption

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

type object = procedure.Object

// state is what there was when it was read.
type state struct {
	graph *inventory.Graph
	// isServed tells whether objects of a kind can be read in the version of a reference.
	isServed func(owner metav1.OwnerReference) bool

	adapters []appsv1.Deployment
	// mistaken are Deployments that were said to be the adapter's, and are not.
	mistaken []string
	// pods are those of the adapters that have not ended.
	pods []object
	// belongings are what came with the adapter, in the order in which it is deleted, and
	// namesake is that of it which has the name of something of ours.
	belongings, namesake []object
	// isInstalled says that we are there.
	isInstalled bool

	machines map[types.UID]*inventory.Machine
	clusters map[types.UID]*inventory.Cluster
	// claims are those of the adapter that are not ours yet.
	claims []claim
}

// read reads all of it. What cannot be read is an error: nothing may be overlooked.
func (a *Adoption) read(ctx context.Context) (*state, error) {
	graph, err := a.Source.ReadWhole(ctx)
	if err != nil {
		return nil, err
	}
	s := stateOf(graph)
	s.isServed = func(owner metav1.OwnerReference) bool {
		gvk := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind)
		_, err := a.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		return !kube.IsAbsent(err)
	}
	found, err := installation.Find(ctx, a.Client)
	if err != nil {
		return nil, err
	}
	s.isInstalled = found.Webhook != nil
	if err := a.readAdapters(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

// readStopped is read, and a Stop if the adapter runs.
func (a *Adoption) readStopped(ctx context.Context) (*state, error) {
	s, err := a.read(ctx)
	if err != nil {
		return nil, err
	}
	if running := s.running(); len(running) > 0 {
		return nil, &procedure.Stop{What: "somebody has started the adapter again", Because: running, Next: "find out who, then run this again"}
	}
	return s, nil
}

func stateOf(graph *inventory.Graph) *state {
	s := &state{graph: graph, machines: map[types.UID]*inventory.Machine{}, clusters: map[types.UID]*inventory.Cluster{}}
	for _, m := range graph.Machines {
		s.machines[m.UID] = m
	}
	for _, c := range graph.Clusters {
		s.clusters[c.UID] = c
	}
	s.readClaims()
	return s
}

// clusterOn is the Cluster of a VSphereCluster, nil if it does not exist.
func (s *state) clusterOn(c *inventory.Cluster) *capi.Cluster {
	if c.Labels[clusterv1.ClusterNameLabel] != "" {
		return s.graph.ClusterOf(c)
	}
	for _, cluster := range s.graph.CAPIClusters {
		if cluster.Namespace == c.Namespace && cluster.IsOn(c.Name) {
			return cluster
		}
	}
	return nil
}

// isPaused tells whether nothing is done for an object of this Cluster, which may be nil.
func isPaused(o client.Object, cluster *capi.Cluster) bool {
	return annotations.HasPaused(o) || cluster != nil && (cluster.IsPaused() || annotations.HasPaused(cluster))
}

// missing says that we are not there.
func (s *state) missing() []string {
	if s.isInstalled {
		return nil
	}
	return []string{"capv-static-ip is not installed: there is no MutatingWebhookConfiguration " + installation.WebhookName}
}

// running is what is to be stopped.
func (s *state) running() []string {
	var texts []string
	for i := range s.adapters {
		if d := &s.adapters[i]; !procedure.IsScaledDown(d) {
			texts = append(texts, procedure.NameOf("Deployment", d))
		}
	}
	return append(texts, s.named(s.pods)...)
}

// startAgain is what to type to go back to the adapter.
func (s *state) startAgain() string {
	if len(s.adapters) == 0 {
		return "install the adapter again"
	}
	return fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=1", s.adapters[0].Namespace, s.adapters[0].Name)
}

func (s *state) named(objects []object) []string {
	texts := make([]string, 0, len(objects))
	for _, each := range objects {
		texts = append(texts, each.String())
	}
	return texts
}

// installed is all that came with the adapter.
func (s *state) installed() []client.Object {
	all := make([]client.Object, 0, len(s.belongings))
	for _, each := range s.belongings {
		all = append(all, each.Object)
	}
	return all
}

// hasEnded tells whether a Pod is only a note of one that ran.
func hasEnded(pod *corev1.Pod) bool {
	return slices.Contains([]corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}, pod.Status.Phase)
}

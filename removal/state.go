package removal

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

type object = procedure.Object

// state is what there was when it was read.
type state struct {
	graph *inventory.Graph
	// clusters are the Clusters, and zones the failure domains of CAPV.
	clusters []*capi.Cluster
	zones    []object
	// claims and addresses are those of all providers.
	claims, addresses []object

	deployments []appsv1.Deployment
	pods        []object
	// What is installed, by the step that deletes it, in its order.
	protection, webhooks, rest []object
	// kept is what is labelled as ours and stays.
	kept []kept
}

// kept is an object that stays, and why.
type kept struct {
	object
	why string
}

func (s *state) keep(o object, why string) { s.kept = append(s.kept, kept{object: o, why: why}) }

// read reads all of it. What cannot be read is an error: nothing may be overlooked.
func (r *Removal) read(ctx context.Context) (*state, error) {
	graph, err := r.Source.ReadWhole(ctx)
	if err != nil {
		return nil, err
	}
	s := &state{graph: graph}
	clusters, err := kube.List(ctx, r.Client, &capi.Cluster{})
	if err != nil {
		return nil, fmt.Errorf("listing Clusters: %w", err)
	}
	for _, cluster := range clusters {
		s.clusters = append(s.clusters, cluster.(*capi.Cluster))
	}
	for _, kind := range []client.Object{&capi.VSphereDeploymentZone{}, &capi.VSphereFailureDomain{}} {
		zones, err := r.list(ctx, kind)
		if err != nil {
			return nil, err
		}
		s.zones = append(s.zones, zones...)
	}
	if err := r.claimsAndAddresses(s); err != nil {
		return nil, err
	}
	if s.deployments, err = installation.Deployments(ctx, r.Client); err != nil {
		return nil, err
	}
	if err := r.readPods(ctx, s); err != nil {
		return nil, err
	}
	return s, r.readInstalled(ctx, s)
}

func (r *Removal) list(ctx context.Context, kind client.Object, opts ...client.ListOption) ([]object, error) {
	gvk, err := r.Client.GroupVersionKindFor(kind)
	if err != nil {
		return nil, err
	}
	found, err := kube.List(ctx, r.Client, kind, opts...)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", gvk.GroupKind(), err)
	}
	objects := make([]object, 0, len(found))
	for _, each := range found {
		// The items of a list do not say what they are.
		if metadata, ok := each.(*metav1.PartialObjectMetadata); ok {
			metadata.SetGroupVersionKind(gvk)
		}
		objects = append(objects, object{Object: each, Kind: gvk.Kind})
	}
	return objects, nil
}

// claimsAndAddresses takes them out of the pools of the graph. Two providers have
// addresses of one name.
func (r *Removal) claimsAndAddresses(s *state) error {
	name := func(of client.Object) (object, error) {
		gvk, err := r.Client.GroupVersionKindFor(of)
		return object{Object: of, Kind: gvk.GroupKind().String()}, err
	}
	for _, pool := range s.graph.Pools {
		for _, claim := range pool.Claims {
			named, err := name(claim.Object)
			if err != nil {
				return err
			}
			s.claims = append(s.claims, named)
		}
		for _, address := range pool.Addresses {
			named, err := name(address.Object)
			if err != nil {
				return err
			}
			s.addresses = append(s.addresses, named)
		}
	}
	return nil
}

// readPods finds the Pods of the manager, also those whose Deployment is gone.
func (r *Removal) readPods(ctx context.Context, s *state) error {
	pods, err := r.list(ctx, &corev1.Pod{}, installation.PodLabels())
	if err != nil {
		return err
	}
	s.pods = pods
	for i := range s.deployments {
		d := &s.deployments[i]
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err != nil {
			return fmt.Errorf("reading the selector of Deployment %s/%s: %w", d.Namespace, d.Name, err)
		}
		pods, err := r.list(ctx, &corev1.Pod{}, client.InNamespace(d.Namespace), client.MatchingLabelsSelector{Selector: selector})
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if !slices.ContainsFunc(s.pods, func(known object) bool { return known.GetUID() == pod.GetUID() }) {
				s.pods = append(s.pods, pod)
			}
		}
	}
	s.pods = slices.DeleteFunc(s.pods, hasEnded)
	return nil
}

// hasEnded tells whether a Pod is only a note of one that ran: nobody deletes those that
// were evicted.
func hasEnded(pod object) bool {
	phase := pod.Object.(*corev1.Pod).Status.Phase
	return phase == corev1.PodFailed || phase == corev1.PodSucceeded
}

// isStopped tells whether no manager is meant to run.
func (s *state) isStopped() bool {
	return !slices.ContainsFunc(s.deployments, func(d appsv1.Deployment) bool { return !procedure.IsScaledDown(&d) })
}

// startAgain is what to type when somebody has to mend what was deleted.
func (s *state) startAgain() string {
	if len(s.deployments) == 0 {
		return "only the manager can mend that: install capv-static-ip again, and run this again"
	}
	d := s.deployments[0]
	return fmt.Sprintf("only the manager can mend that: kubectl -n %s scale deployment/%s --replicas=2, and run this again", d.Namespace, d.Name)
}

// running is what is to be stopped.
func (s *state) running() []string {
	texts := s.named(s.pods)
	for i := range s.deployments {
		if d := s.deployments[i]; !procedure.IsScaledDown(&d) {
			texts = append(texts, fmt.Sprintf("Deployment %s/%s", d.Namespace, d.Name))
		}
	}
	return texts
}

func (s *state) named(objects []object) []string {
	texts := make([]string, 0, len(objects))
	for _, each := range objects {
		texts = append(texts, each.String())
	}
	return texts
}

// holders are the machines and VSphereClusters with our finalizer.
func (s *state) holders() []object {
	var holders []object
	for _, m := range s.graph.Machines {
		if controllerutil.ContainsFinalizer(m, ipam.ReleaseFinalizer) {
			holders = append(holders, object{Object: m.VSphereMachine, Kind: capi.VSphereMachineKind.Kind})
		}
	}
	for _, c := range s.graph.Clusters {
		if controllerutil.ContainsFinalizer(c, ipam.ReleaseFinalizer) {
			holders = append(holders, object{Object: c.VSphereCluster, Kind: capi.VSphereClusterKind.Kind})
		}
	}
	return holders
}

// protected are claims or addresses with our finalizer.
func protected(objects []object) []object {
	return slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return !ipam.IsProtected(o.Object) })
}

// finalized is everything with a finalizer of ours, in the order in which it is taken off:
// a machine without its own holds nothing.
func (s *state) finalized() []object {
	return slices.Concat(protected(s.addresses), protected(s.claims), s.holders())
}

// held is what keeps the manager busy.
func (s *state) held() []object {
	held := slices.Concat(s.holders(), protected(s.addresses))
	for _, claim := range s.claims {
		if isOurs(claim) || ipam.IsProtected(claim.Object) {
			held = append(held, claim)
		}
	}
	return held
}

// isOurs tells whether a claim was made, or is used, by us.
func isOurs(claim client.Object) bool {
	_, labelled := claim.GetLabels()[ipam.MachineLabel]
	return labelled
}

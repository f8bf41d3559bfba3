package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machines,verbs=get

// checkDomain tells, once, that a machine has turned out to be in another failure domain
// than its address was given for: the failure domains of its Cluster have changed in the
// moment of its creation. It keeps the address. Only a machine without a VM is looked
// at, so that a new leader need not ask about all machines that there are.
func (r *Reconciler) checkDomain(ctx context.Context, s *state, h *holding) {
	if !s.exists || s.deleting || s.moving || h.claim == nil || s.object.Spec.ProviderID != "" || !h.belongsTo(s.machineState) {
		return
	}
	noted := ipam.NotedFailureDomains(h.claim)
	owner, owned := machine.OwnerOf(s.object)
	if _, known := r.domains.get(s.uid); noted == nil || !owned || known {
		return
	}
	domain, found, err := r.domainOf(ctx, s.namespace, owner)
	if err != nil {
		// To tell is no reason to hold anything up. The next change of the machine comes here.
		klog.FromContext(ctx).Error(err, "Cannot look for the failure domain of a machine")
	}
	if err != nil || !found {
		return
	}
	r.domains.update(s.uid, func(known *bool) { *known = true })
	if slices.Contains(noted, domain) {
		return
	}
	wrongFailureDomain.Inc()
	klog.FromContext(ctx).Error(nil, "The machine is in another failure domain than its address was given for",
		"machine", client.ObjectKeyFromObject(s.object), "failureDomain", domain, "givenFor", noted)
	r.event(s, corev1.EventTypeWarning, "WrongFailureDomain", "The machine is in %s, but claim %q was made for a machine in %s: replace the machine",
		nameDomain(domain), h.claim.GetName(), nameDomains(noted))
}

// domainOf reads the failure domain of a Machine, empty if it has none.
func (r *Reconciler) domainOf(ctx context.Context, namespace string, owner metav1.OwnerReference) (domain string, found bool, err error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(capi.InScheme(r.client.Scheme(), schema.GroupKind{Group: clusterv1.GroupVersion.Group, Kind: owner.Kind}))
	err = r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: owner.Name}, obj)
	switch {
	case kube.IsAbsent(err), err == nil && obj.GetUID() != owner.UID:
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("reading Machine %s/%s: %w", namespace, owner.Name, err)
	}
	domain, _, err = unstructured.NestedString(obj.Object, "spec", "failureDomain")
	if err != nil {
		return "", false, fmt.Errorf("reading the failure domain of Machine %s/%s: %w", namespace, owner.Name, err)
	}
	return domain, true, nil
}

func nameDomain(name string) string {
	if name == "" {
		return "no failure domain"
	}
	return fmt.Sprintf("failure domain %q", name)
}

func nameDomains(names []string) string {
	named := make([]string, len(names))
	for i, name := range names {
		named[i] = nameDomain(name)
	}
	return strings.Join(named, " or ")
}

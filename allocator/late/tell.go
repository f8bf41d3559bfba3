package late

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machines,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// tellRefused puts a refusal where users look: into events on the machine, on its
// Machine, on who has made that, and on the MachineDeployment of a MachineSet.
func (r *Reconciler) tellRefused(ctx context.Context, m *candidate, refusal *ipam.Refusal) {
	klog.FromContext(ctx).Info("Cannot give a stored machine its addresses yet", "reason", refusal.Reason, "message", refusal.Message)
	for _, regarding := range append(r.ownersOf(ctx, m), m.object) {
		r.events.Eventf(regarding, nil, corev1.EventTypeWarning, string(refusal.Reason), "Inject", "%s", refusal.Message)
	}
}

// ownersOf are the Machine of a VSphereMachine and its owners: a MachineSet or a
// control plane. CAPI takes these off the VSphereMachine when the Machine owns it.
func (r *Reconciler) ownersOf(ctx context.Context, m *candidate) []runtime.Object {
	owner, ok := machine.OwnerOf(m.object)
	if !ok {
		return nil
	}
	found := []runtime.Object{referenceTo(m.Namespace, owner)}
	object := kube.MetadataOf(capi.InScheme(r.client.Scheme(), capi.MachineKind))
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: owner.Name}, object); err != nil {
		if !kube.IsAbsent(err) {
			klog.FromContext(ctx).Error(err, "Cannot find out who to tell of a machine", "Machine", klog.KRef(m.Namespace, owner.Name))
		}
		return found
	}
	owners := object.OwnerReferences
	for _, owner := range owners[:min(len(owners), machine.MaxOwners)] {
		found = append(found, referenceTo(m.Namespace, owner))
		if deployment, ok := r.deploymentOf(ctx, m.Namespace, owner); ok {
			found = append(found, referenceTo(m.Namespace, deployment))
		}
	}
	return found
}

// deploymentOf is the MachineDeployment of an owner that is a MachineSet. The cache has
// MachineSets; one that it does not know yet tells nobody.
func (r *Reconciler) deploymentOf(ctx context.Context, namespace string, owner metav1.OwnerReference) (metav1.OwnerReference, bool) {
	if schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind() != capi.MachineSetKind {
		return metav1.OwnerReference{}, false
	}
	set := kube.MetadataOf(capi.InScheme(r.client.Scheme(), capi.MachineSetKind))
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: owner.Name}, set); err != nil {
		return metav1.OwnerReference{}, false
	}
	return capi.DeploymentOf(set)
}

func referenceTo(namespace string, owner metav1.OwnerReference) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: namespace, Name: owner.Name, UID: owner.UID}
}

// tellTooLate tells that a machine is left as it is.
func (r *Reconciler) tellTooLate(m *candidate, askedBy string) {
	r.events.Eventf(m.object, nil, corev1.EventTypeWarning, "TooLate", "Inject",
		"its virtual machine exists without the address that %s asks for: replace the machine", askedBy)
}

// tellServed tells of what admission would have warned of.
func (r *Reconciler) tellServed(ctx context.Context, m *candidate, warnings []string) {
	if len(warnings) == 0 {
		return
	}
	klog.FromContext(ctx).Info("Gave a stored machine less than it may expect", "warnings", warnings)
	r.events.Eventf(m.object, nil, corev1.EventTypeWarning, string(ipam.AskedInVain), "Inject", "%s", strings.Join(warnings, "; "))
}

package removal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

// installedKinds are the kinds of what the ways to install bring, in the order in which
// they are deleted: the Namespace goes last, with whatever is left in it, and before it the
// Deployment, which tells that it is ours.
var installedKinds = []schema.GroupKind{
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"},
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
	{Group: "policy", Kind: "PodDisruptionBudget"},
	{Kind: "Service"},
	{Kind: "ConfigMap"},
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"},
	{Group: "monitoring.coreos.com", Kind: "ServiceMonitor"},
	{Group: "monitoring.coreos.com", Kind: "PodMonitor"},
	{Group: "monitoring.coreos.com", Kind: "PrometheusRule"},
	{Group: "cert-manager.io", Kind: "Certificate"},
	{Group: "cert-manager.io", Kind: "Issuer"},
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"},
	{Kind: "ServiceAccount"},
	{Group: "apps", Kind: "Deployment"},
	{Kind: namespaceKind},
}

// InstalledKinds are the kinds of what is deleted.
func InstalledKinds() []schema.GroupKind { return slices.Clone(installedKinds) }

const namespaceKind = "Namespace"

// Names of what has a step of its own, or stays.
var (
	protectionNames = []string{"capv-static-ip-protect-bindings", "capv-static-ip-protect-addresses", "capv-static-ip-protection"}
	tenancyNames    = []string{"capv-static-ip-shared-pools"}
)

// mine are the names by which objects are known that may have lost their label.
var mine = []string{installation.DeploymentName, installation.WebhookName, installation.CapacityName}

// readInstalled finds what is installed, by its label and by its names.
func (r *Removal) readInstalled(ctx context.Context, s *state) error {
	for _, kind := range installedKinds {
		objects, err := r.installedOf(ctx, kind)
		if err != nil {
			return err
		}
		for _, each := range objects {
			switch {
			case slices.Contains(protectionNames, each.GetName()):
				s.protection = append(s.protection, each)
			case slices.Contains(tenancyNames, each.GetName()):
				s.keep(each, "it holds claims to what pools say; delete it if you do not want that any more")
			case !s.isInstalled(each):
				s.keep(each, "it has our label, but neither our name nor a manager beside it; delete it if you have installed it with capv-static-ip")
			case kind.Kind == "MutatingWebhookConfiguration" || kind.Kind == "ValidatingWebhookConfiguration":
				s.webhooks = append(s.webhooks, each)
			default:
				s.rest = append(s.rest, each)
			}
		}
	}
	return r.sparedNamespaces(ctx, s)
}

func (r *Removal) installedOf(ctx context.Context, kind schema.GroupKind) ([]object, error) {
	mapping, err := r.Client.RESTMapper().RESTMapping(kind)
	if kube.IsAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", kind, err)
	}
	objects, err := r.list(ctx, kube.MetadataOf(mapping.GroupVersionKind), client.MatchingLabels{installation.AppLabel: installation.App})
	if err != nil {
		return nil, err
	}
	if kind.Group != "apps" && kind.Group != "admissionregistration.k8s.io" {
		return objects, nil
	}
	for _, name := range mine {
		more, err := r.list(ctx, kube.MetadataOf(mapping.GroupVersionKind), client.MatchingFields{"metadata.name": name})
		if err != nil {
			return nil, err
		}
		for _, each := range more {
			if !slices.ContainsFunc(objects, func(known object) bool { return known.GetUID() == each.GetUID() }) {
				objects = append(objects, each)
			}
		}
	}
	return objects, nil
}

// isInstalled tells whether an object with our label is ours. The label alone is not
// believed: whoever may set it on what others have could have that deleted.
func (s *state) isInstalled(o object) bool {
	isHome := func(namespace string) bool {
		return namespace == installation.Namespace || slices.ContainsFunc(s.deployments, func(d appsv1.Deployment) bool { return d.Namespace == namespace })
	}
	if o.Kind == namespaceKind {
		return isHome(o.GetName())
	}
	return strings.Contains(o.GetName(), installation.App) || isHome(o.GetNamespace())
}

// sparedNamespaces are those of ours in which others have something: they stay.
func (r *Removal) sparedNamespaces(ctx context.Context, s *state) error {
	var spared []object
	for _, each := range s.rest {
		if each.Kind != namespaceKind {
			continue
		}
		others, err := r.othersIn(ctx, s, each.GetName())
		if err != nil {
			return err
		}
		if others {
			spared = append(spared, each)
		}
	}
	for _, each := range spared {
		s.keep(each, "it has pools, clusters or Pods that are not ours")
	}
	s.rest = slices.DeleteFunc(s.rest, func(o object) bool {
		return slices.ContainsFunc(spared, func(kept object) bool { return kept.GetUID() == o.GetUID() })
	})
	return nil
}

func (r *Removal) othersIn(ctx context.Context, s *state, namespace string) (bool, error) {
	in := func(o object) bool { return o.GetNamespace() == namespace }
	if slices.ContainsFunc(s.claims, in) || slices.ContainsFunc(s.addresses, in) {
		return true, nil
	}
	for _, pool := range s.graph.Pools {
		if pool.Namespace == namespace {
			return true, nil
		}
	}
	if s.hasMakersIn(namespace) {
		return true, nil
	}
	pods, err := r.list(ctx, &corev1.Pod{}, client.InNamespace(namespace))
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(pods, func(pod object) bool { return pod.GetLabels()[installation.AppLabel] != installation.App }), nil
}

// hasMakersIn tells whether there are machines in a namespace, or what machines are made of:
// to delete it would delete clusters.
func (s *state) hasMakersIn(namespace string) bool {
	for key := range s.graph.Templates {
		if key.Namespace == namespace {
			return true
		}
	}
	return slices.ContainsFunc(s.graph.Machines, func(m *inventory.Machine) bool { return m.Namespace == namespace }) ||
		slices.ContainsFunc(s.graph.VMs, func(vm *capi.VSphereVM) bool { return vm.Namespace == namespace }) ||
		slices.ContainsFunc(s.graph.Clusters, func(c *inventory.Cluster) bool { return c.Namespace == namespace }) ||
		slices.ContainsFunc(s.graph.Workloads, func(w *inventory.Workload) bool { return w.GetNamespace() == namespace }) ||
		slices.ContainsFunc(s.clusters, func(c *capi.Cluster) bool { return c.Namespace == namespace })
}

// installed is all that is installed.
func (s *state) installed() []client.Object {
	var all []client.Object
	for _, each := range slices.Concat(s.protection, s.webhooks, s.rest) {
		all = append(all, each.Object)
	}
	return all
}

func (s *state) protectionObjects() []object { return s.protection }
func (s *state) webhookObjects() []object    { return s.webhooks }
func (s *state) restObjects() []object       { return s.rest }

// deleteAll deletes objects as they were read.
func (r *Removal) deleteAll(ctx context.Context, which func(*state) []object) error {
	s, err := r.read(ctx)
	if err != nil {
		return err
	}
	for _, each := range which(s) {
		uid := each.GetUID()
		err := r.Client.Delete(ctx, each.Object, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s: %w", each, err)
		}
	}
	return nil
}

// unlabelled are what cert-manager and the manager made for us. They go with the
// Namespace, where that goes.
func unlabelled(namespace string) []client.Object {
	in := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	return []client.Object{
		&corev1.Secret{ObjectMeta: in("capv-static-ip-ca")},
		&corev1.Secret{ObjectMeta: in("capv-static-ip-webhook-service-cert")},
		&coordinationv1.Lease{ObjectMeta: in(installation.LeaseName)},
	}
}

// deleteRest deletes the rest, and waits until the Namespace is gone.
func (r *Removal) deleteRest(ctx context.Context) error {
	s, err := r.read(ctx)
	if err != nil {
		return err
	}
	for _, d := range s.deployments {
		if slices.ContainsFunc(s.rest, func(o object) bool { return o.Kind == namespaceKind && o.GetName() == d.Namespace }) {
			continue
		}
		for _, each := range unlabelled(d.Namespace) {
			if err := r.Client.Delete(ctx, each); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("deleting %T %s/%s: %w", each, d.Namespace, each.GetName(), err)
			}
		}
	}
	if err := r.deleteAll(ctx, (*state).restObjects); err != nil {
		return err
	}
	return procedure.Until(ctx, r.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		s, err := r.read(ctx)
		if err != nil {
			return nil, 0, err
		}
		return s.named(s.rest), r.Timeout, nil
	})
}

// notes are what is left to the user.
func (r *Removal) notes(s *state) []string {
	var notes []string
	for _, each := range s.kept {
		notes = append(notes, fmt.Sprintf("%s stays: %s", each.object, each.why))
	}
	return append(notes, r.claimNotes(s)...)
}

package adoption

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/procedure"
)

// The names by which the adapter's manifests know it. Its lease is the same whatever prefix
// somebody gave to the rest.
const (
	adapterPrefix = "capv-static-ip-"
	adapterSuffix = "controller-manager"
	adapterName   = adapterPrefix + adapterSuffix
	adapterLease  = "controller-leader-election-capv-static-ip"
)

// belonging is a kind of what comes with the adapter, and its name, without the prefix unless
// it is whole.
type belonging struct {
	schema.GroupVersionKind
	name  string
	whole bool
}

func rbac(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: kind}
}

// inNamespace is what is beside its Deployment, and everywhere what has no namespace.
func inNamespace() []belonging {
	return []belonging{
		{rbac("RoleBinding"), "leader-election-rolebinding", false},
		{rbac("Role"), "leader-election-role", false},
		{corev1.SchemeGroupVersion.WithKind("Service"), "controller-manager-metrics-service", false},
		{coordinationv1.SchemeGroupVersion.WithKind("Lease"), adapterLease, true},
		{corev1.SchemeGroupVersion.WithKind("ConfigMap"), adapterLease, true},
	}
}

func everywhere() []belonging {
	return []belonging{
		{rbac("ClusterRoleBinding"), "manager-rolebinding", false},
		{rbac("ClusterRoleBinding"), "proxy-rolebinding", false},
		{rbac("ClusterRole"), "manager-role", false},
		{rbac("ClusterRole"), "proxy-role", false},
		{rbac("ClusterRole"), namesakeSuffix, false},
	}
}

// namesakeSuffix is that of a ClusterRole that has the same name as one of ours. Helm does
// not install over it, and deleting the adapter by its manifest would delete ours.
const namesakeSuffix = "metrics-reader"

// readAdapters finds the Deployments of the adapter in all namespaces, their Pods, and what
// else came with them. The Deployments are last: they tell where the rest is.
func (a *Adoption) readAdapters(ctx context.Context, s *state) error {
	list := &appsv1.DeploymentList{}
	if err := a.Client.List(ctx, list); err != nil {
		return fmt.Errorf("looking for the Deployment of the adapter: %w", err)
	}
	prefixes := []string{adapterPrefix}
	for _, d := range list.Items {
		if isAdapter := d.Name == adapterName || client.ObjectKeyFromObject(&d) == a.Adapter; !isAdapter {
			continue
		}
		if isOthers(&d) {
			s.mistaken = append(s.mistaken, procedure.NameOf("Deployment", &d))
			continue
		}
		s.adapters = append(s.adapters, d)
		prefix, ok := strings.CutSuffix(d.Name, adapterSuffix)
		if ok && prefix != adapterPrefix {
			prefixes = append(prefixes, prefix)
		}
		if err := a.readPods(ctx, s, &d); err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := a.find(ctx, s, d.Namespace, prefix, inNamespace()); err != nil {
			return err
		}
	}
	for _, prefix := range prefixes {
		if err := a.find(ctx, s, "", prefix, everywhere()); err != nil {
			return err
		}
	}
	for i := range s.adapters {
		s.belongings = append(s.belongings, object{Object: &s.adapters[i], Kind: "Deployment"})
	}
	return nil
}

// isOurs tells whether an object came with capv-static-ip, which has the adapter's name.
func isOurs(o client.Object) bool { return o.GetLabels()[installation.AppLabel] == installation.App }

// isOthers tells whether a Deployment is no adapter's: ours, or that of a provider of Cluster
// API, as CAPV's in the same namespace.
func isOthers(d *appsv1.Deployment) bool {
	_, isProvider := d.Labels[installation.ProviderLabel]
	return isProvider || isOurs(d)
}

// find finds what came with the adapter, and was not installed anew with us.
func (a *Adoption) find(ctx context.Context, s *state, namespace, prefix string, among []belonging) error {
	for _, each := range among {
		name := prefix + each.name
		if each.whole {
			name = each.name
		}
		found := kube.MetadataOf(each.GroupVersionKind)
		err := a.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, found)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s %s: %w", each.Kind, name, err)
		}
		if isOurs(found) {
			continue
		}
		found.SetGroupVersionKind(each.GroupVersionKind)
		s.belongings = append(s.belongings, object{Object: found, Kind: each.Kind})
		if name == adapterPrefix+namesakeSuffix {
			s.namesake = append(s.namesake, object{Object: found, Kind: each.Kind})
		}
	}
	return nil
}

// readPods finds the Pods of a Deployment by who made them. The adapter selects its own by a
// label that CAPV's Pods, in the same namespace, have as well.
func (a *Adoption) readPods(ctx context.Context, s *state, d *appsv1.Deployment) error {
	sets := kube.MetadataListOf(appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	if err := a.Client.List(ctx, sets, client.InNamespace(d.Namespace)); err != nil {
		return fmt.Errorf("listing ReplicaSets in namespace %s: %w", d.Namespace, err)
	}
	pods := &corev1.PodList{}
	if err := a.Client.List(ctx, pods, client.InNamespace(d.Namespace)); err != nil {
		return fmt.Errorf("listing Pods in namespace %s: %w", d.Namespace, err)
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		if !metav1.IsControlledBy(set, d) {
			continue
		}
		for j := range pods.Items {
			if pod := &pods.Items[j]; metav1.IsControlledBy(pod, set) && !hasEnded(pod) {
				s.pods = append(s.pods, object{Object: pod, Kind: "Pod"})
			}
		}
	}
	return nil
}

// stop stops the adapter, and sees that it has stopped: what still runs could write a machine
// by what it has read.
func (a *Adoption) stop(ctx context.Context) error {
	s := &state{}
	if err := a.readAdapters(ctx, s); err != nil {
		return err
	}
	return a.stopThem(ctx, s)
}

func (a *Adoption) stopThem(ctx context.Context, s *state) error {
	for i := range s.adapters {
		if err := procedure.ScaleDown(ctx, a.Client, &s.adapters[i]); err != nil {
			return err
		}
	}
	if err := a.deleteAll(ctx, s.namesake); err != nil {
		return err
	}
	leases := procedure.Leases{Name: adapterLease, WithLocks: true}
	err := procedure.Until(ctx, a.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		now := &state{}
		if err := a.readAdapters(ctx, now); err != nil {
			return nil, 0, err
		}
		leading, err := leases.Held(ctx, a.Client)
		return append(now.running(), leading...), a.Timeout, err
	})
	if stop := (&procedure.Stop{}); errors.As(err, &stop) {
		stop.Next = "an adapter that may still run must not be overlooked: end it, then run this again; or go back: " + s.startAgain()
	}
	return err
}

// deleteAdapter deletes what came with the adapter, one by one: its manifest has the Namespace
// of CAPV in it.
func (a *Adoption) deleteAdapter(ctx context.Context) error {
	s, err := a.readStopped(ctx)
	if err != nil {
		return err
	}
	if err := a.deleteAll(ctx, s.belongings); err != nil {
		return err
	}
	return procedure.Until(ctx, a.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		now := &state{}
		if err := a.readAdapters(ctx, now); err != nil {
			return nil, 0, err
		}
		return now.named(now.belongings), a.Timeout, nil
	})
}

// deleteAll deletes objects if they are still those that were read.
func (a *Adoption) deleteAll(ctx context.Context, objects []object) error {
	for _, each := range objects {
		uid := each.GetUID()
		err := a.Client.Delete(ctx, each.Object, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s: %w", each, err)
		}
	}
	return nil
}

// missingRights is a stop for the rights that the steps need, and that who runs them does not
// have, nil if there are none.
func (a *Adoption) missingRights(ctx context.Context, s *state) (*procedure.Stop, error) {
	needed := procedure.Rights{}
	deleted := s.namesake
	if !a.Keep {
		deleted = s.belongings
	}
	for _, each := range deleted {
		if err := needed.Need(a.Client, "delete", each.Object); err != nil {
			return nil, err
		}
	}
	if len(s.adapters) > 0 {
		needed.NeedPatch("apps", "deployments")
	}
	for _, claim := range s.stale() {
		if err := needed.Need(a.Client, "patch", claim.Object); err != nil {
			return nil, err
		}
	}
	for _, claim := range s.judged(unwritten) {
		if err := needed.Need(a.Client, "delete", claim.Object); err != nil {
			return nil, err
		}
	}
	return needed.Missing(ctx, a.Client)
}

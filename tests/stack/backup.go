package stack

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Backup is what Velero has of a namespace, in the order in which it restores.
type Backup []*unstructured.Unstructured

// ClaimsAndAddresses are the resources that docs/restore.md has people leave out of a backup.
func ClaimsAndAddresses() []string {
	return []string{
		"ipclaims.ipam.metal3.io", "ipaddresses.ipam.metal3.io",
		"ipaddressclaims.ipam.cluster.x-k8s.io", "ipaddresses.ipam.cluster.x-k8s.io",
	}
}

// Backup saves all that is in a namespace, without these resources, and without what Velero
// never restores.
func (s *Stack) Backup(ctx context.Context, namespace string, without ...string) (Backup, error) {
	without = append(slices.Clone(without), "events", "events.events.k8s.io")
	kinds, err := s.kindsInNamespaces(without)
	if err != nil {
		return nil, fmt.Errorf("finding what there is to back up: %w", err)
	}
	var backup Backup
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := s.Plane.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("backing up all of kind %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			saved, err := harness.Saved(&list.Items[i])
			if err != nil {
				return nil, fmt.Errorf("backing up %s %s: %w", kind.Kind, list.Items[i].GetName(), err)
			}
			backup = append(backup, saved)
		}
	}
	harness.InRestoreOrder(backup)
	return backup, nil
}

// kindsInNamespaces are the kinds that can be listed, and made again.
func (s *Stack) kindsInNamespaces(without []string) ([]schema.GroupVersionKind, error) {
	asked, err := discovery.NewDiscoveryClientForConfig(s.Plane.Config)
	if err != nil {
		return nil, err
	}
	all, err := asked.ServerPreferredNamespacedResources()
	if err != nil {
		return nil, err
	}
	var kinds []schema.GroupVersionKind
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "create"}}, all) {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for i := range list.APIResources {
			resource := &list.APIResources[i]
			if !slices.Contains(without, (schema.GroupResource{Group: version.Group, Resource: resource.Name}).String()) {
				kinds = append(kinds, version.WithKind(resource.Kind))
			}
		}
	}
	return kinds, nil
}

// String counts what there is of each resource, in the order in which it is restored.
func (b Backup) String() string {
	var lines []string
	for at := 0; at < len(b); {
		resource, next := harness.ResourceOf(b[at]), at
		for next < len(b) && harness.ResourceOf(b[next]) == resource {
			next++
		}
		lines = append(lines, fmt.Sprintf("%3d %s", next-at, resource))
		at = next
	}
	return strings.Join(lines, "\n")
}

// Restore makes what a backup has, and leaves what is there as it is, as Velero does. Then it
// waits until machines can be made in the Clusters again.
func (s *Stack) Restore(ctx context.Context, backup Backup) error {
	for _, saved := range backup {
		object := saved.DeepCopy()
		if err := s.leadHere(object); err != nil {
			return err
		}
		if err := s.Plane.Client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("restoring %s %s: %w", saved.GetKind(), saved.GetName(), err)
		}
	}
	for _, saved := range backup {
		if saved.GroupVersionKind().GroupKind() == clusterv1.GroupVersion.WithKind("Cluster").GroupKind() {
			if err := s.awaitProvisioned(ctx, saved.GetNamespace(), saved.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// leadHere has the kubeconfig of a Cluster lead to this control plane, which plays its API
// server too, see kubeconfigSecret. That of a real Cluster is as it was.
func (s *Stack) leadHere(object *unstructured.Unstructured) error {
	if object.GetKind() != "Secret" || !strings.HasSuffix(object.GetName(), kubeconfigSuffix) {
		return nil
	}
	content, err := os.ReadFile(s.Plane.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig for %s: %w", object.GetName(), err)
	}
	return unstructured.SetNestedField(object.Object, base64.StdEncoding.EncodeToString(content), "data", "value")
}

// Lose ends the management cluster without any warning. What it has made in the vCenter stays.
func (s *Stack) Lose() {
	s.cancel()
	s.Plane.KillAllBut(s.VCenter.Process)
}

package contract

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// served refuses a pool that the in-cluster provider, and those built like it,
// ignore: one that is paused, and any while the claim's Cluster is paused, be it
// by an annotation, or does not exist (pkg/ipamutil/reconciler.go, Reconcile).
func served(ctx context.Context, reader client.Reader, pool client.Object, name string, machine ipam.Machine) error {
	if annotations.HasPaused(pool) {
		return ipam.Refuse(ipam.PoolNotServed, "%s is not served: it is paused; resume it", name)
	}
	if machine.Cluster == "" {
		return nil
	}
	cluster := &capi.Cluster{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: machine.Namespace, Name: machine.Cluster}, cluster)
	switch {
	case kube.IsAbsent(err):
		return ipam.Refuse(ipam.PoolNotServed, "%s is not served for Cluster %q, which does not exist: create the Cluster or correct label %s of the machine",
			name, machine.Cluster, clusterv1.ClusterNameLabel)
	case err != nil:
		return fmt.Errorf("reading Cluster %s/%s: %w", machine.Namespace, machine.Cluster, err)
	case cluster.IsPaused() || annotations.HasPaused(cluster):
		return ipam.Refuse(ipam.PoolNotServed, "%s is not served for Cluster %q, which is paused: resume it", name, machine.Cluster)
	}
	return nil
}

// readers are what a pool and its addresses are read by. Addresses are watched, be the pool
// of a kind that is not.
type readers struct {
	pool, addresses client.Reader
}

// counted adds what the pool's status says of its size, and how many of its
// addresses exist: the in-cluster provider's own count of those lags behind.
func (c Provider) counted(ctx context.Context, by readers, machine ipam.Machine, pool ipam.Pool) (ipam.Pool, error) {
	counts, found, err := unstructured.NestedMap(pool.Object.(*unstructured.Unstructured).Object, "status", "ipAddresses")
	total, isCount := counts["total"].(int64)
	if err != nil || !found || !isCount || total < 0 {
		return pool, nil //nolint:nilerr // of other kinds nothing is known, their status may hold anything
	}
	used, err := c.used(ctx, by, pool)
	if err != nil {
		return ipam.Pool{}, err
	}
	outOfRange, _ := counts["outOfRange"].(int64)
	free := max(0, total-max(0, int64(used.Claims())-outOfRange))
	pool.Total = uint64(total)
	pool.Free = func(claims []string) (uint64, uint64) {
		var needed uint64
		for _, claim := range claims {
			if !used.HasClaim(types.NamespacedName{Namespace: machine.Namespace, Name: claim}) {
				needed++
			}
		}
		return uint64(free), needed
	}
	return pool, nil
}

// usage is the claims that the address objects of a pool answer, terminating
// ones included.
type usage interface {
	Claims() int
	HasClaim(claim types.NamespacedName) bool
}

// listed are claims as they were read one by one.
type listed map[types.NamespacedName]bool

// Claims implements usage.
func (l listed) Claims() int { return len(l) }

// HasClaim implements usage.
func (l listed) HasClaim(claim types.NamespacedName) bool { return l[claim] }

// used finds them by what the reader has counted, or else by listing all addresses.
func (Provider) used(ctx context.Context, by readers, pool ipam.Pool) (usage, error) {
	if counted, ok := ipam.UsedBy(by.addresses, pool.GetNamespace(), pool.Reference); ok {
		return counted, nil
	}
	addresses := &ipamv1.IPAddressList{}
	err := by.pool.List(ctx, addresses, client.InNamespace(pool.GetNamespace()), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", pool.Reference.In(pool.GetNamespace()), err)
	}
	found := listed{}
	for i := range addresses.Items {
		address := &addresses.Items[i]
		if referenceTo(address.Spec.PoolRef) == pool.Reference {
			found[types.NamespacedName{Namespace: address.Namespace, Name: address.Spec.ClaimRef.Name}] = true
		}
	}
	return found, nil
}

// familyOf is the family of the addresses that a pool of the in-cluster
// provider is for: that of the gateway, or else of the first addresses.
func familyOf(pool ipam.Pool) ipam.Family {
	content := pool.Object.(*unstructured.Unstructured).Object
	texts, _, _ := unstructured.NestedStringSlice(content, "spec", "addresses")
	if gateway, _, _ := unstructured.NestedString(content, "spec", "gateway"); gateway != "" {
		texts = []string{gateway}
	}
	if len(texts) == 0 {
		return ""
	}
	text, _, _ := strings.Cut(texts[0], "-")
	text, _, _ = strings.Cut(text, "/")
	ip, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return ""
	}
	return ipam.FamilyOf(ip)
}

// nameservers reads them from the pool's annotation.
func nameservers(pool client.Object, name string) ([]string, error) {
	servers := ipam.SplitList(pool.GetAnnotations()[ipam.NameserversAnnotation])
	var errs []error
	for _, server := range servers {
		_, err := netip.ParseAddr(server)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, ipam.Refuse(ipam.PoolInvalid, "%s has an invalid annotation %s: it must hold IP addresses separated by commas; correct it",
			name, ipam.NameserversAnnotation)
	}
	return servers, nil
}

package harness

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// poolRanges is a pool with the test of what belongs to it.
type poolRanges struct {
	ipam.PoolReference
	namespace string
	contains  func(netip.Addr) bool
	// annotations say what it is for.
	annotations map[string]string
	// reuseAfter is for how long its addresses cool down, where it says so.
	reuseAfter time.Duration
}

// reuseAfter is what a pool says of that.
func reuseAfter(pool client.Object) time.Duration {
	after, _, err := ipam.ReuseAfter(pool)
	if err != nil {
		return 0
	}
	return after
}

func readPools(ctx context.Context, c client.Reader, namespace string) ([]poolRanges, error) {
	var pools []poolRanges
	ipPools := &ipamv1.IPPoolList{}
	if err := listIfServed(ctx, c, ipPools, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for _, pool := range ipPools.Items {
		pools = append(pools, poolRanges{metal3.PoolNamed(pool.Name), pool.Namespace, func(address netip.Addr) bool {
			for _, part := range pool.Spec.Pools {
				if within(part, address) {
					return true
				}
			}
			return false
		}, pool.Annotations, reuseAfter(&pool)})
	}
	for _, kind := range []string{InClusterPoolKind, GlobalInClusterPoolKind} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: capiipamv1.GroupVersion.Group, Version: inClusterVersion, Kind: kind + "List"})
		if err := listIfServed(ctx, c, list, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
		for _, pool := range list.Items {
			texts, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "addresses")
			ref := ipam.PoolReference{APIGroup: capiipamv1.GroupVersion.Group, Kind: kind, Name: pool.GetName()}
			pools = append(pools, poolRanges{ref, pool.GetNamespace(), setOf(texts).Contains, pool.GetAnnotations(), reuseAfter(&pool)})
		}
	}
	return pools, nil
}

// stated is what a pool says by an annotation that it is for, nil if it says nothing.
func (i *inventory) stated(namespace string, of ipam.PoolReference, annotation string) []string {
	for _, pool := range i.pools {
		text, says := pool.annotations[annotation]
		if pool.PoolReference == of && (pool.namespace == namespace || pool.namespace == "") && says {
			return append([]string{}, ipam.SplitList(text)...)
		}
	}
	return nil
}

// poolOf returns the pool that an address is from, none if there is none.
func (i *inventory) poolOf(namespace string, address netip.Addr) ipam.PoolReference {
	for _, pool := range i.pools {
		if (pool.namespace == namespace || pool.namespace == "") && pool.contains(address) {
			return pool.PoolReference
		}
	}
	return ipam.PoolReference{}
}

func within(part ipamv1.Pool, address netip.Addr) bool {
	if part.Start != nil {
		start, err := netip.ParseAddr(string(*part.Start))
		if err != nil || address.Less(start) {
			return false
		}
	}
	if part.End != nil {
		end, err := netip.ParseAddr(string(*part.End))
		if err != nil || end.Less(address) {
			return false
		}
	}
	if part.Subnet != nil {
		subnet, err := netip.ParsePrefix(string(*part.Subnet))
		return err == nil && subnet.Contains(address)
	}
	return part.Start != nil && part.End != nil
}

// setOf reads addresses as the in-cluster provider has them: single ones, ranges
// and networks. What is none of these adds nothing.
func setOf(texts []string) *netipx.IPSet {
	var set netipx.IPSetBuilder
	for _, text := range texts {
		switch {
		case strings.Contains(text, "-"):
			if r, err := netipx.ParseIPRange(text); err == nil {
				set.AddRange(r)
			}
		case strings.Contains(text, "/"):
			if prefix, err := netip.ParsePrefix(text); err == nil {
				set.AddPrefix(prefix)
			}
		default:
			if address, err := netip.ParseAddr(text); err == nil {
				set.Add(address)
			}
		}
	}
	ips, err := set.IPSet()
	if err != nil {
		return &netipx.IPSet{}
	}
	return ips
}

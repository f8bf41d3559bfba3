package metal3

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// usage is what metal3 counts as taken: the addresses of the pool's
// address objects of both claim APIs, terminating ones included. metal3 goes by
// the name of the pool alone.
type usage interface {
	// Objects is their number; more, if some are outside of the pool.
	Objects() int
	Has(ip netip.Addr) bool
	// CountIn is how many are in a set, which is one of the pool's.
	CountIn(set *netipx.IPSet) uint64
}

// listed are addresses as they were read one by one.
type listed []netip.Addr

// Objects implements usage.
func (l listed) Objects() int { return len(l) }

// Has implements usage.
func (l listed) Has(ip netip.Addr) bool { return slices.Contains(l, ip) }

// CountIn implements usage.
func (l listed) CountIn(set *netipx.IPSet) uint64 {
	seen := map[netip.Addr]bool{}
	for _, ip := range l {
		if set.Contains(ip) {
			seen[ip] = true
		}
	}
	return uint64(len(seen))
}

// used finds them by what the reader has counted, or else by listing all of the
// namespace.
func (m Provider) used(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool) (usage, error) {
	if counted, ok := ipam.UsedBy(reader, pool.Namespace, PoolNamed(pool.Name)); ok {
		return counted, nil
	}
	addresses := &ipamv1.IPAddressList{}
	err := reader.List(ctx, addresses, client.InNamespace(pool.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of IPPool %s/%s: %w", pool.Namespace, pool.Name, err)
	}
	found := make(listed, 0, len(addresses.Items))
	for i := range addresses.Items {
		address := &addresses.Items[i]
		if address.Spec.Pool.Name != pool.Name {
			continue
		}
		if a, err := netip.ParseAddr(string(address.Spec.Address)); err == nil {
			found = append(found, a)
		}
	}
	return m.usedByTwin(ctx, reader, pool, found)
}

// usedByTwin adds the addresses that metal3 handed to IPAddressClaims.
func (Provider) usedByTwin(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool, found listed) (listed, error) {
	addresses := &capiipamv1.IPAddressList{}
	err := reader.List(ctx, addresses, client.InNamespace(pool.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil && !kube.IsAbsent(err) {
		return nil, fmt.Errorf("listing the addresses of IPPool %s/%s for IPAddressClaims: %w", pool.Namespace, pool.Name, err)
	}
	ranges := rangesOf(pool)
	for i := range addresses.Items {
		spec := &addresses.Items[i].Spec
		if spec.PoolRef.Name != pool.Name {
			continue
		}
		if a, err := netip.ParseAddr(spec.Address); err == nil && ranges.Contains(a) {
			found = append(found, a)
		}
	}
	return found, nil
}

package metal3

import (
	"math"
	"net/netip"
	"sync"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// rangesOf is the set of addresses that metal3 can hand out of a pool: for
// each entry of spec.pools start to end, cut to the subnet; without a start all
// of the subnet but its first address (GetIPAddress in metal3's api/v1alpha1).
// Entries that do not parse add nothing, as in metal3.
func rangesOf(pool *ipamv1.IPPool) *netipx.IPSet {
	var ranges netipx.IPSetBuilder
	for i := range pool.Spec.Pools {
		if r, ok := rangeOf(&pool.Spec.Pools[i]); ok {
			ranges.AddRange(r)
		}
	}
	set, err := ranges.IPSet()
	if err != nil {
		// Only invalid ranges make it fail, and rangeOf returns none.
		return &netipx.IPSet{}
	}
	return set
}

// usableOf is what of rangesOf a machine can be given: metal3 hands out a
// pool's own gateway, name servers, network and broadcast addresses like all others.
func usableOf(pool *ipamv1.IPPool) *netipx.IPSet {
	var usable netipx.IPSetBuilder
	for i := range pool.Spec.Pools {
		entry := &pool.Spec.Pools[i]
		r, ok := rangeOf(entry)
		if !ok || r.From().Is4() != (familyOf(pool) == ipam.IPv4) {
			continue
		}
		usable.AddRange(r)
	}
	for i := range pool.Spec.Pools {
		removeNeeded(&usable, pool, &pool.Spec.Pools[i])
	}
	set, err := usable.IPSet()
	if err != nil {
		// Only invalid ranges make it fail, and rangeOf returns none.
		return &netipx.IPSet{}
	}
	return set
}

// removeNeeded removes what the network of an entry needs for itself. What the
// entry does not say, the pool says for all.
func removeNeeded(usable *netipx.IPSetBuilder, pool *ipamv1.IPPool, entry *ipamv1.Pool) {
	gateway, servers, bits := pool.Spec.Gateway, pool.Spec.DNSServers, pool.Spec.Prefix
	if entry.Gateway != nil {
		gateway = entry.Gateway
	}
	if len(entry.DNSServers) > 0 {
		servers = entry.DNSServers
	}
	if entry.Prefix != 0 {
		bits = entry.Prefix
	}
	if gateway != nil {
		servers = append([]ipamv1.IPAddressStr{*gateway}, servers...)
	}
	for _, text := range servers {
		if ip, err := netip.ParseAddr(string(text)); err == nil {
			usable.Remove(ip)
		}
	}
	if r, ok := rangeOf(entry); ok {
		removeEnds(usable, r, bits)
	}
}

// removeEnds removes network and broadcast address of the subnets at both ends of
// a range. Ranges that span several subnets are rare, and an address that is
// counted and cannot be given is only set aside.
func removeEnds(set *netipx.IPSetBuilder, r netipx.IPRange, bits int) {
	for _, end := range []netip.Addr{r.From(), r.To()} {
		subnet, err := end.Prefix(bits)
		if err != nil {
			continue
		}
		if first := subnet.Addr(); ipam.EndOfSubnet(netip.PrefixFrom(first, bits)) != "" {
			set.Remove(first)
		}
		if last := netipx.PrefixLastIP(subnet); ipam.EndOfSubnet(netip.PrefixFrom(last, bits)) != "" {
			set.Remove(last)
		}
	}
}

// familyOf is the family of the addresses that a pool is for: that of the
// first entry.
func familyOf(pool *ipamv1.IPPool) ipam.Family {
	for i := range pool.Spec.Pools {
		if r, ok := rangeOf(&pool.Spec.Pools[i]); ok {
			return ipam.FamilyOf(r.From())
		}
	}
	return ""
}

func rangeOf(entry *ipamv1.Pool) (netipx.IPRange, bool) {
	var subnet netip.Prefix
	if entry.Subnet != nil {
		var err error
		if subnet, err = netip.ParsePrefix(string(*entry.Subnet)); err != nil {
			return netipx.IPRange{}, false
		}
	}
	if entry.Start == nil {
		if !subnet.IsValid() {
			return netipx.IPRange{}, false
		}
		first, last := subnet.Addr().Next(), netipx.PrefixLastIP(subnet)
		return netipx.IPRangeFrom(first, last), subnet.Contains(first)
	}

	first, err := netip.ParseAddr(string(*entry.Start))
	if err != nil {
		return netipx.IPRange{}, false
	}
	last := lastOfFamily(first)
	if entry.End != nil {
		if last, err = netip.ParseAddr(string(*entry.End)); err != nil {
			return netipx.IPRange{}, false
		}
	}
	if subnet.IsValid() {
		if !subnet.Contains(first) {
			return netipx.IPRange{}, false
		}
		last = earlier(last, netipx.PrefixLastIP(subnet))
	}
	r := netipx.IPRangeFrom(first, last)
	return r, r.IsValid()
}

func lastOfFamily(a netip.Addr) netip.Addr {
	return netipx.PrefixLastIP(netip.PrefixFrom(a, 0).Masked())
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

// size counts the addresses of a set, up to math.MaxUint64.
func size(set *netipx.IPSet) uint64 {
	var total uint64
	for _, p := range set.Prefixes() {
		hostBits := p.Addr().BitLen() - p.Bits()
		if hostBits >= 64 {
			return math.MaxUint64
		}
		n := uint64(1) << hostBits
		if total > math.MaxUint64-n {
			return math.MaxUint64
		}
		total += n
	}
	return total
}

// freeOf tells how many addresses of a pool are left for claims of these
// names; at least, if that is enough for them. A claim whose name is a key of
// spec.preAllocations gets that address and no other; all other claims get none
// of those. What is left is counted once, since a machine that may choose among pools
// asks thousands of times.
func freeOf(pool *ipamv1.IPPool, used usage) func(claims []string) (free, needed uint64) {
	ranges := usableOf(pool)
	total, taken := size(ranges), uint64(used.Objects()+len(pool.Spec.PreAllocations)) //nolint:gosec // nobody has fewer than none
	left := sync.OnceValue(func() uint64 { return leftOf(pool, ranges, used) })
	return func(claims []string) (free, needed uint64) {
		for _, claim := range claims {
			if _, reserved := pool.Spec.PreAllocations[claim]; !reserved {
				needed++
			}
		}
		if total >= taken && total-taken >= needed {
			// The common case, without arithmetic on thousands of addresses.
			return total - taken, needed
		}
		return left(), needed
	}
}

// leftOf counts the addresses of a pool's ranges that nobody has, and that are reserved
// for nobody.
func leftOf(pool *ipamv1.IPPool, ranges *netipx.IPSet, used usage) uint64 {
	set := unreserved(pool, ranges)
	total := size(set)
	return total - min(total, used.CountIn(set))
}

// unreserved are these addresses of a pool without those that are pre-allocated.
func unreserved(pool *ipamv1.IPPool, ranges *netipx.IPSet) *netipx.IPSet {
	var left netipx.IPSetBuilder
	left.AddSet(ranges)
	for _, text := range pool.Spec.PreAllocations {
		if a, err := netip.ParseAddr(string(text)); err == nil {
			left.Remove(a)
		}
	}
	set, err := left.IPSet()
	if err != nil {
		// Only invalid addresses make it fail, and none is added.
		return &netipx.IPSet{}
	}
	return set
}

// offers tells whether an address is in a pool, and whether a claim cannot have it: it is
// used, or reserved for the claim of another name (ipam/ippool_manager.go,
// allocateAddress).
func offers(pool *ipamv1.IPPool, used usage, ip netip.Addr, claim string) (in, taken bool) {
	if own, has := pool.Spec.PreAllocations[claim]; has {
		reserved, err := netip.ParseAddr(string(own))
		return true, err != nil || reserved != ip || used.Has(ip)
	}
	for _, text := range pool.Spec.PreAllocations {
		if reserved, err := netip.ParseAddr(string(text)); err == nil && reserved == ip {
			return true, true
		}
	}
	return rangesOf(pool).Contains(ip), used.Has(ip)
}

// Ranges implements ipam.Ranged. metal3 gives a pre-allocated address only to the claim
// that it is for.
func (Provider) Ranges(object client.Object) (all, reserved *netipx.IPSet, ok bool) {
	pool, ok := object.(*ipamv1.IPPool)
	if !ok {
		return nil, nil, false
	}
	all = rangesOf(pool)
	var rest netipx.IPSetBuilder
	rest.AddSet(all)
	rest.RemoveSet(usableOf(pool))
	for _, text := range pool.Spec.PreAllocations {
		if ip, err := netip.ParseAddr(string(text)); err == nil && all.Contains(ip) {
			rest.Add(ip)
		}
	}
	reserved, err := rest.IPSet()
	return all, reserved, err == nil
}

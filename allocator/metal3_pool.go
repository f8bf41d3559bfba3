package allocator

import (
	"math"
	"net/netip"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
)

// metal3Ranges is the set of addresses that metal3 can hand out of a pool: for
// each entry of spec.pools start to end, cut to the subnet; without a start all
// of the subnet but its first address (GetIPAddress in metal3's api/v1alpha1).
// Entries that do not parse add nothing, as in metal3.
func metal3Ranges(pool *ipamv1.IPPool) *netipx.IPSet {
	var ranges netipx.IPSetBuilder
	for i := range pool.Spec.Pools {
		if r, ok := metal3Range(&pool.Spec.Pools[i]); ok {
			ranges.AddRange(r)
		}
	}
	set, err := ranges.IPSet()
	if err != nil {
		// Only invalid ranges make it fail, and metal3Range returns none.
		return &netipx.IPSet{}
	}
	return set
}

func metal3Range(entry *ipamv1.Pool) (netipx.IPRange, bool) {
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

// metal3Free tells how many addresses of a pool are left for claims of these
// names; at least, if that is enough for them. A claim whose name is a key of
// spec.preAllocations gets that address and no other; all other claims get none
// of those.
func metal3Free(pool *ipamv1.IPPool, used []netip.Addr, claims []string) (free, needed uint64) {
	for _, claim := range claims {
		if _, reserved := pool.Spec.PreAllocations[claim]; !reserved {
			needed++
		}
	}
	ranges := metal3Ranges(pool)
	taken := uint64(len(used) + len(pool.Spec.PreAllocations))
	if total := size(ranges); total >= taken && total-taken >= needed {
		// The common case, without arithmetic on thousands of addresses.
		return total - taken, needed
	}

	left := netipx.IPSetBuilder{}
	left.AddSet(ranges)
	for _, a := range used {
		left.Remove(a)
	}
	for _, text := range pool.Spec.PreAllocations {
		if a, err := netip.ParseAddr(string(text)); err == nil {
			left.Remove(a)
		}
	}
	set, err := left.IPSet()
	if err != nil {
		return 0, needed
	}
	return size(set), needed
}

package metal3

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// probes is how many addresses are tried at random before those of a range are tried in
// order. They keep away from metal3, which takes the lowest first, and from its next one,
// which is the first free one behind the block that it has filled.
const probes = 64

// takingOf is how addresses of a pool are taken without metal3. It is nil where it is not
// known what is used; where metal3 is not seen to serve the pool; where there are addresses
// that are not named as it names them (ipam/ippool_manager.go, formatAddressName), since
// one object for each address is all that keeps two from having it; and where claims of the
// other API use the pool, of whose addresses another kind of objects are made.
func takingOf(pool *ipamv1.IPPool, used usage) *ipam.Taking {
	counted, ok := used.(ipam.Used)
	if !ok || !isServed(pool) || counted.NamedOtherwise(pool.Spec.NamePrefix) > 0 {
		return nil
	}
	if twins, known := counted.Twins(); !known || twins > 0 {
		return nil
	}
	return &ipam.Taking{
		Addresses: func(claim types.NamespacedName) iter.Seq[netip.Addr] { return addressesFor(pool, counted, claim) },
		Object:    func(claim string, ip netip.Addr) client.Object { return addressOf(pool, claim, ip) },
	}
}

// addressesFor are the addresses of a pool that a claim may have, as metal3 gives them
// (ipam/ippool_manager.go, allocateAddress): that which is pre-allocated for the claim, or
// else any that is for no other, from the first entry that has one left.
func addressesFor(pool *ipamv1.IPPool, used usage, claim types.NamespacedName) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if own, reserved := pool.Spec.PreAllocations[claim.Name]; reserved {
			if ip, err := netip.ParseAddr(string(own)); err == nil && usableOf(pool).Contains(ip) && !used.Has(ip) {
				yield(ip)
			}
			return
		}
		free, seed := unreserved(pool, usableOf(pool)), seedOf(pool, claim)
		tried := map[netip.Addr]bool{}
		once := func(ip netip.Addr) bool {
			if tried[ip] || !free.Contains(ip) || used.Has(ip) {
				return true
			}
			tried[ip] = true
			return yield(ip)
		}
		for i := range pool.Spec.Pools {
			r, ok := rangeOf(&pool.Spec.Pools[i])
			random := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // nobody is to be surprised
			if ok && leftIn(free, used, r) > 0 && !(entryRange{r, random}).each(once) {
				return
			}
		}
	}
}

// seedOf is the same on every replica, for every request for one machine.
func seedOf(pool *ipamv1.IPPool, claim types.NamespacedName) uint64 {
	hash := fnv.New64a()
	for _, part := range []string{pool.Namespace, pool.Name, claim.Name} {
		hash.Write([]byte(part + "/"))
	}
	return hash.Sum64()
}

// entryRange is the range of one entry of a pool, and the order in which it is tried.
type entryRange struct {
	netipx.IPRange
	random *rand.Rand
}

// each tries the addresses of a range, some of them twice, and returns false when it is told
// to stop.
func (r entryRange) each(try func(netip.Addr) bool) bool {
	span := distance(r.From(), r.To())
	for range probes {
		if !try(plus(r.From(), r.offset(span))) {
			return false
		}
	}
	start := plus(r.From(), r.offset(span))
	for _, part := range []netipx.IPRange{netipx.IPRangeFrom(start, r.To()), netipx.IPRangeFrom(r.From(), start)} {
		for ip := part.From(); ip.IsValid() && !part.To().Less(ip); ip = ip.Next() {
			if !try(ip) {
				return false
			}
		}
	}
	return true
}

// offset is one of 0 to span, at random.
func (r entryRange) offset(span uint64) uint64 {
	if span+1 == 0 {
		return r.random.Uint64()
	}
	return r.random.Uint64N(span + 1)
}

// leftIn is how many addresses of a range are free.
func leftIn(free *netipx.IPSet, used usage, r netipx.IPRange) uint64 {
	var builder netipx.IPSetBuilder
	builder.AddRange(r)
	builder.Intersect(free)
	within, err := builder.IPSet()
	if err != nil {
		return 0
	}
	total := size(within)
	return total - min(total, used.CountIn(within))
}

// distance is how far apart two addresses of a family are, up to what a number holds.
func distance(from, to netip.Addr) uint64 {
	a, b := from.As16(), to.As16()
	if binary.BigEndian.Uint64(a[:8]) != binary.BigEndian.Uint64(b[:8]) {
		return ^uint64(0) - binary.BigEndian.Uint64(a[8:])
	}
	return binary.BigEndian.Uint64(b[8:]) - binary.BigEndian.Uint64(a[8:])
}

// plus is the address that is so far behind another one, in the same /64.
func plus(ip netip.Addr, offset uint64) netip.Addr {
	bytes := ip.As16()
	binary.BigEndian.PutUint64(bytes[8:], binary.BigEndian.Uint64(bytes[8:])+offset)
	if ip.Is4() {
		return netip.AddrFrom16(bytes).Unmap()
	}
	return netip.AddrFrom16(bytes)
}

// dashed writes an address as it stands in names.
var dashed = strings.NewReplacer(".", "-", ":", "-")

// nameEnding is how the name of the object of an address ends, behind the prefix of its
// pool (ipam/ippool_manager.go, formatAddressName).
func nameEnding(ip string) string { return strings.TrimRight("-"+dashed.Replace(ip), "-") }

// addressOf is the object that metal3 makes of an address for a claim
// (ipam/ippool_manager.go, createAddress), but for the claim among its owners.
func addressOf(pool *ipamv1.IPPool, claim string, ip netip.Addr) client.Object {
	bits, gateway, servers := pool.Spec.Prefix, pool.Spec.Gateway, pool.Spec.DNSServers
	for i := range pool.Spec.Pools {
		entry := &pool.Spec.Pools[i]
		r, ok := rangeOf(entry)
		if !ok || !r.Contains(ip) {
			continue
		}
		bits, gateway = cmp.Or(entry.Prefix, bits), cmp.Or(entry.Gateway, gateway)
		if len(entry.DNSServers) > 0 {
			servers = entry.DNSServers
		}
		break
	}
	return &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pool.Namespace, Name: pool.Spec.NamePrefix + nameEnding(ip.String()),
			Finalizers: []string{ipamv1.IPAddressFinalizer},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: ipamv1.GroupVersion.String(), Kind: "IPPool", Name: pool.Name, UID: pool.UID,
			}},
		},
		Spec: ipamv1.IPAddressSpec{
			Address: ipamv1.IPAddressStr(ip.String()), Prefix: bits, Gateway: gateway, DNSServers: servers,
			Pool:  corev1.ObjectReference{Namespace: pool.Namespace, Name: pool.Name},
			Claim: corev1.ObjectReference{Namespace: pool.Namespace, Name: claim},
		},
	}
}

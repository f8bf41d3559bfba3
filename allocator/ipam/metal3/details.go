package metal3

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

var _ ipam.Detailed = Provider{}

// Details implements ipam.Detailed.
func (p Provider) Details(object client.Object) ipam.Details {
	pool, ok := object.(*ipamv1.IPPool)
	if !ok {
		return ipam.Details{}
	}
	details := ipam.Details{Needed: p.neededIn(pool), ToMove: toMove(pool)}
	describe(pool, &details)
	if len(pool.Spec.PreAllocations) > 0 {
		details.KeptFor = make(map[string]netip.Addr, len(pool.Spec.PreAllocations))
	}
	for claim, text := range pool.Spec.PreAllocations {
		if ip := capi.ParseAddress(string(text)); ip.IsValid() {
			details.KeptFor[claim] = ip
		}
	}
	return details
}

// describe tells what the addresses of a pool bring along. What an entry does not say, the
// pool says for all.
func describe(pool *ipamv1.IPPool, details *ipam.Details) {
	note := func(all *[]string, texts ...ipamv1.IPAddressStr) {
		for _, text := range texts {
			if !slices.Contains(*all, string(text)) {
				*all = append(*all, string(text))
			}
		}
	}
	for i := range pool.Spec.Pools {
		entry := &pool.Spec.Pools[i]
		if bits := cmp.Or(entry.Prefix, pool.Spec.Prefix); i == 0 {
			details.Bits = bits
		} else if bits != details.Bits {
			details.Bits = 0
		}
		if gateway := cmp.Or(entry.Gateway, pool.Spec.Gateway); gateway != nil {
			note(&details.Gateways, *gateway)
		}
		if servers := entry.DNSServers; len(servers) > 0 {
			note(&details.Nameservers, servers...)
		} else {
			note(&details.Nameservers, pool.Spec.DNSServers...)
		}
	}
}

// neededIn are a pool's own addresses in its ranges: metal3 hands them out like all others.
func (p Provider) neededIn(pool *ipamv1.IPPool) []ipam.NeededAddress {
	all, reserved, ok := p.Ranges(pool)
	if !ok {
		return nil
	}
	candidates := neededBy(pool.Spec.Gateway, pool.Spec.DNSServers)
	for i := range pool.Spec.Pools {
		candidates = append(candidates, neededBy(pool.Spec.Pools[i].Gateway, pool.Spec.Pools[i].DNSServers)...)
	}
	for _, r := range reserved.Ranges() {
		for _, ip := range []netip.Addr{r.From(), r.To()} {
			if what := endOfSubnet(pool, ip); what != "" {
				candidates = append(candidates, ipam.NeededAddress{What: what, IP: ip})
			}
		}
	}
	var found []ipam.NeededAddress
	for _, c := range candidates {
		isKnown := slices.ContainsFunc(found, func(n ipam.NeededAddress) bool { return n.IP == c.IP })
		if all.Contains(c.IP) && !isKnown {
			found = append(found, c)
		}
	}
	return found
}

// neededBy are a gateway and name servers.
func neededBy(gateway *ipamv1.IPAddressStr, servers []ipamv1.IPAddressStr) []ipam.NeededAddress {
	var all []ipam.NeededAddress
	if gateway != nil {
		all = append(all, ipam.NeededAddress{What: "its gateway", IP: capi.ParseAddress(string(*gateway))})
	}
	for _, server := range servers {
		all = append(all, ipam.NeededAddress{What: "its name server", IP: capi.ParseAddress(string(server))})
	}
	return all
}

// endOfSubnet says if an address is the network or broadcast address of a pool's subnet.
func endOfSubnet(pool *ipamv1.IPPool, ip netip.Addr) string {
	bits := []int{pool.Spec.Prefix}
	for i := range pool.Spec.Pools {
		bits = append(bits, cmp.Or(pool.Spec.Pools[i].Prefix, pool.Spec.Prefix))
	}
	for _, length := range bits {
		switch ipam.EndOfSubnet(netip.PrefixFrom(ip, length)) {
		case ipam.IsNetworkAddress:
			return "its network address"
		case ipam.IsBroadcast:
			return "its broadcast address"
		}
	}
	return ""
}

// toMove says what has clusterctl move a pool with a Cluster. metal3 makes the Cluster that
// a pool names an owner of it, which clusterctl follows.
func toMove(pool *ipamv1.IPPool) string {
	_, moves := pool.Labels[clusterctlv1.ClusterctlMoveLabel]
	_, movesWithAll := pool.Labels[clusterctlv1.ClusterctlMoveHierarchyLabel]
	if moves || movesWithAll || pool.Spec.ClusterName != nil && *pool.Spec.ClusterName != "" {
		return ""
	}
	return fmt.Sprintf("set spec.clusterName, or label %s=", clusterctlv1.ClusterctlMoveHierarchyLabel)
}

package inventory

import (
	"fmt"
	"net/netip"
	"slices"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Who tells everything that knows an address.
func (g *Graph) Who(ip netip.Addr) Story {
	s := Story{Title: ip.String()}
	pools := g.PoolsWith(ip)
	for _, pool := range pools {
		s.say(0, "is in %s", pool)
		g.tellHolder(&s, pool, ip)
	}
	if len(pools) == 0 {
		s.say(0, "is in no pool")
	}
	g.tellSightings(&s, ip)
	return s
}

// tellHolder tells who has an address of a pool.
func (g *Graph) tellHolder(s *Story, pool *Pool, ip netip.Addr) {
	holdings := g.Holdings(pool)
	i := slices.IndexFunc(holdings, func(h Holding) bool { return h.IP == ip })
	if i < 0 {
		if all, reserved, ok := pool.ranges(); ok && all.Contains(ip) && reserved.Contains(ip) {
			s.say(1, "reserved: the pool gives it to nobody%s", reasonOf(pool, ip))
			return
		}
		s.say(1, "free")
		return
	}
	h := holdings[i]
	device := ""
	if h.Kind == capi.VSphereMachineKind.Kind && h.State == Used {
		device = fmt.Sprintf(", device %d %q", h.Device.Index, h.Device.NetworkName)
	}
	s.say(1, "%s by %s %s%s%s", h.State, h.Kind, h.NamespacedName, device, ofCluster(h.Cluster))
	s.say(1, "claim %s, address object %s, %s", h.Address.Claim, h.Address.GetName(), protection(h.Protected))
}

// reasonOf is why an address was reserved, where that was said.
func reasonOf(pool *Pool, ip netip.Addr) string {
	reserved, err := ipam.ReservationsOf(pool.Object)
	if why := reserved[ip]; err == nil && why != "" {
		return " (" + why + ")"
	}
	return ""
}

// tellSightings tells of the objects on which an address stands.
func (g *Graph) tellSightings(s *Story, ip netip.Addr) {
	var holders []Sighting
	for _, sighting := range g.Sightings(ip) {
		how := "written by hand, no claim"
		switch {
		case sighting.Held:
			how = "held"
		case sighting.Kind == capi.VSphereVMKind.Kind:
			how = "on the VM, or reported by its guest"
		}
		if sighting.Kind != capi.VSphereVMKind.Kind {
			holders = append(holders, sighting)
		}
		s.say(0, "on %s %s: %s", sighting.Kind, sighting.NamespacedName, how)
	}
	if len(holders) < 2 {
		return
	}
	if networks := networksOf(holders); len(networks) == len(holders) {
		s.say(0, "They are on different networks: each may have it.")
		return
	}
	s.warn(0, "%d objects have it", len(holders))
	for _, holder := range holders {
		if !holder.Held {
			s.next("give %s %s another address, or take %s out of the pool", holder.Kind, holder.NamespacedName, ip)
		}
	}
}

// networksOf are the networks of some sightings, those that are the same once. An unknown
// one may be any.
func networksOf(sightings []Sighting) []string {
	var networks []string
	for _, sighting := range sightings {
		if !slices.ContainsFunc(networks, func(n string) bool { return capi.SameNetwork(n, sighting.Network) }) {
			networks = append(networks, sighting.Network)
		}
	}
	return networks
}

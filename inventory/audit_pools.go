package inventory

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"go4.org/netipx"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// listed is how many names a finding lists.
const listed = 3

// namesOf lists a few names, and how many more there are.
func namesOf(names []string) string {
	if len(names) > listed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:listed], ", "), len(names)-listed)
	}
	return strings.Join(names, ", ")
}

// aboutPool is a finding about a pool.
func aboutPool(check CheckID, pool *Pool) *Finding {
	f := about(check, Risky, Involved{Kind: pool.Kind})
	f.Object = pool.KindName() + " " + strings.TrimPrefix(pool.Namespace+"/"+pool.Name, "/")
	f.Namespace, f.Name = pool.Namespace, pool.Name
	f.Involved[0].NamespacedName = f.NamespacedName
	return f.in(pool)
}

// poolRange is one range of a pool.
type poolRange struct {
	netipx.IPRange
	pool *Pool
}

// poolsOverlap finds pools that may hand out one address both.
func (a *audit) poolsOverlap() []*Finding {
	overlaps := a.overlaps()
	var findings []*Finding
	for _, pool := range a.Pools {
		var names []string
		f := aboutPool(PoolsOverlap, pool)
		for _, other := range overlaps[pool] {
			names = append(names, other.String())
			f.in(other)
		}
		if len(names) > 0 {
			findings = append(findings, f.because("has addresses that are also of %s", namesOf(names)).
				remedy("take them out of one, or say with annotation %s of both on which networks they are", ipam.NetworksAnnotation))
		}
	}
	return findings
}

// overlaps are, for each pool, those with a range that begins in one of its own.
func (a *audit) overlaps() map[*Pool][]*Pool {
	var ranges []poolRange
	for _, pool := range a.Pools {
		if known, is := a.ranges[pool]; is {
			for _, r := range known.all.Ranges() {
				ranges = append(ranges, poolRange{r, pool})
			}
		}
	}
	slices.SortStableFunc(ranges, func(a, b poolRange) int { return a.From().Compare(b.From()) })
	overlaps := map[*Pool][]*Pool{}
	for i, one := range ranges {
		for _, other := range ranges[i+1:] {
			if one.To().Less(other.From()) {
				break
			}
			if !slices.Contains(overlaps[one.pool], other.pool) && mayBeOneNetwork(one.pool, other.pool) {
				overlaps[one.pool] = append(overlaps[one.pool], other.pool)
			}
		}
	}
	return overlaps
}

// mayBeOneNetwork tells whether two pools do not say that they are for different places.
func mayBeOneNetwork(a, b *Pool) bool {
	if a == b {
		return false
	}
	networks, others := a.stated(ipam.NetworksAnnotation), b.stated(ipam.NetworksAnnotation)
	if len(networks) > 0 && len(others) > 0 && !slices.ContainsFunc(networks, func(network string) bool {
		return slices.ContainsFunc(others, func(other string) bool { return capi.SameNetwork(network, other) })
	}) {
		return false
	}
	domains, others := a.stated(ipam.FailureDomainsAnnotation), b.stated(ipam.FailureDomainsAnnotation)
	return len(domains) == 0 || len(others) == 0 || slices.ContainsFunc(domains, func(domain string) bool { return slices.Contains(others, domain) })
}

// outsideItsPool finds addresses that are not in the ranges of their pool any more.
func (a *audit) outsideItsPool() []*Finding {
	var findings []*Finding
	for _, pool := range a.Pools {
		ranges, known := a.ranges[pool]
		if !known {
			continue
		}
		kept := slices.Collect(maps.Values(a.details[pool].KeptFor))
		f := aboutPool(OutsideItsPool, pool)
		var outside []string
		for _, address := range pool.Addresses {
			if address.IP.IsValid() && !ranges.all.Contains(address.IP) && !slices.Contains(kept, address.IP) && !slices.Contains(outside, address.IP.String()) {
				outside = append(outside, address.IP.String())
				f.on(address.IP)
			}
		}
		if len(outside) > 0 {
			slices.Sort(outside)
			findings = append(findings, f.because("has given %s, outside of its ranges", namesOf(outside)).
				remedy("put the ranges right, or replace the machines that hold them"))
		}
	}
	return findings
}

// poolGivesNeeded finds pools that hand out addresses which their network, or a Cluster,
// needs.
func (a *audit) poolGivesNeeded() []*Finding {
	var findings []*Finding
	for _, pool := range a.Pools {
		ranges, known := a.ranges[pool]
		if !known {
			continue
		}
		f := aboutPool(PoolGivesNeeded, pool)
		var needed []string
		for _, n := range slices.Concat(a.details[pool].Needed, a.endpointsIn(pool, ranges)) {
			needed = append(needed, fmt.Sprintf("%s %s", n.What, n.IP))
			f.on(n.IP)
		}
		if len(needed) > 0 {
			findings = append(findings, f.because("has in its ranges: %s", namesOf(needed)).
				remedy("take it out of the ranges: machines are never given it, others may be"))
		}
	}
	return findings
}

// endpointsIn are the endpoints of Clusters in the ranges of a pool of their namespace, or of
// all, that the pool does not know of.
func (a *audit) endpointsIn(pool *Pool, ranges poolRanges) []ipam.NeededAddress {
	var found []ipam.NeededAddress
	see := func(user capi.User) {
		for _, has := range user.Addresses() {
			isHere := pool.Namespace == "" || pool.Namespace == user.GetNamespace()
			if !isHere || !ranges.all.Contains(has.IP) || ranges.reserved.Contains(has.IP) ||
				slices.ContainsFunc(pool.Addresses, func(address Address) bool { return address.IP == has.IP }) ||
				slices.ContainsFunc(found, func(n ipam.NeededAddress) bool { return n.IP == has.IP }) {
				continue
			}
			found = append(found, ipam.NeededAddress{What: fmt.Sprintf("the endpoint of Cluster %s", user.GetName()), IP: has.IP})
		}
	}
	for _, cluster := range a.CAPIClusters {
		see(cluster)
	}
	for _, cluster := range a.Clusters {
		see(cluster.VSphereCluster)
	}
	return found
}

// poolsOfOneName finds pools of which a bare name means one.
func (a *audit) poolsOfOneName() []*Finding {
	var findings []*Finding
	for _, pool := range a.Pools {
		if pool.Object == nil || pool.Kind != "IPPool" || !isKnownKind(pool.PoolReference) {
			continue
		}
		for _, other := range a.poolsIn[pool.Namespace] {
			if other.Kind == "InClusterIPPool" && isKnownKind(other.PoolReference) && other.Object != nil && other.Name == pool.Name {
				findings = append(findings, aboutPool(PoolsOfOneName, pool).because("has the name of an InClusterIPPool of its namespace: the bare name means the IPPool").
					remedy("rename one, or write the kind where the other is meant"))
			}
		}
	}
	return findings
}

// tooFewForRollOut finds pools with fewer free addresses than the largest roll-out needs.
func (a *audit) tooFewForRollOut() []*Finding {
	var findings []*Finding
	demands := a.Demands()
	for _, pool := range a.Pools {
		usage := pool.Usage()
		if !usage.Known || a.isPartOf(pool) {
			continue
		}
		var worst *Demand
		for i := range demands {
			if d := &demands[i]; d.Pool == pool && (worst == nil || d.RollOut > worst.RollOut) {
				worst = d
			}
		}
		if worst == nil || usage.Free.Cmp(big.NewInt(int64(worst.RollOut))) >= 0 {
			continue
		}
		findings = append(findings, aboutPool(TooFewForRollOut, pool).
			because("%s free, a roll-out of %s %s needs %d", usage.Free, worst.GetKind(), worst.GetName(), worst.RollOut).remedy("add addresses"))
	}
	return findings
}

// isPartOf tells whether only some of what a pool of all namespaces has given was read.
func (a *audit) isPartOf(pool *Pool) bool { return pool.Namespace == "" && a.ofSome }

// staysBehind finds pools that clusterctl does not take along.
func (a *audit) staysBehind() []*Finding {
	var findings []*Finding
	for _, pool := range a.Pools {
		if toMove := a.details[pool].ToMove; toMove != "" {
			findings = append(findings, aboutPool(StaysBehind, pool).because("stays behind in clusterctl move").remedy("%s", toMove))
		}
	}
	return findings
}

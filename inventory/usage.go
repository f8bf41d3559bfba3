package inventory

import (
	"math/big"
	"net/netip"

	"go4.org/netipx"

	"capv-static-ip.dev/allocator/ipam"
)

// Usage is how many addresses of a pool are in each state. Used, Cooling, Reserved and
// Free add up to Total.
type Usage struct {
	// Known says that the provider tells which addresses the pool hands out, and that
	// all who use it were looked at. Otherwise only Used and Cooling mean anything.
	Known bool
	// Total are the addresses in the pool's ranges, with those outside that are in use.
	Total *big.Int
	// Reserved are those that the pool gives nobody: gateway, network, broadcast,
	// excluded, and for one claim only.
	Reserved *big.Int
	Free     *big.Int
	// Used are held, or being given back.
	Used int
	// Cooling are kept from being handed out for a while.
	Cooling int
}

// Counts are the addresses of a pool that exist.
type Counts interface {
	// Distinct is their number, and Cooling how many of them cool down.
	Distinct() int
	Cooling() int
	// CountIn is how many are in a set.
	CountIn(set *netipx.IPSet) uint64
}

// Usage counts the pool's addresses.
func (p *Pool) Usage() Usage { return p.UsageOf(p.taken()) }

// UsageOf is Usage of a pool whose addresses were counted.
func (p *Pool) UsageOf(counts Counts) Usage {
	u := Usage{Total: new(big.Int), Reserved: new(big.Int), Free: new(big.Int), Cooling: counts.Cooling()}
	distinct := counts.Distinct()
	u.Used = distinct - u.Cooling
	all, reserved, ok := p.ranges()
	if !ok || p.Partly {
		return u
	}
	u.Known = true
	// What is in use outside of the ranges belongs to the pool all the same.
	u.Total = plus(sizeOf(all), distinct-int(counts.CountIn(all))) //nolint:gosec // they are counted one by one
	u.Reserved = plus(sizeOf(reserved), -int(counts.CountIn(reserved)))
	u.Free.Sub(u.Total, u.Reserved)
	u.Free.Sub(u.Free, big.NewInt(int64(distinct)))
	return u
}

func plus(size *big.Int, n int) *big.Int { return size.Add(size, big.NewInt(int64(n))) }

// taken are addresses, each with whether it cools.
type taken map[netip.Addr]bool

// Distinct implements Counts.
func (t taken) Distinct() int { return len(t) }

// Cooling implements Counts.
func (t taken) Cooling() (count int) {
	for _, cools := range t {
		if cools {
			count++
		}
	}
	return count
}

// CountIn implements Counts.
func (t taken) CountIn(set *netipx.IPSet) (count uint64) {
	for ip := range t {
		if set.Contains(ip) {
			count++
		}
	}
	return count
}

// taken are the addresses that exist, each with whether it cools. Two objects of one
// address, as metal3 makes for claims of its two APIs, count once, and used wins.
func (p *Pool) taken() taken {
	taken := taken{}
	for _, address := range p.Addresses {
		if !address.IP.IsValid() {
			continue
		}
		before, known := taken[address.IP]
		taken[address.IP] = address.IsCooling() && (before || !known)
	}
	return taken
}

func (p *Pool) ranges() (all, reserved *netipx.IPSet, ok bool) {
	if p.Object == nil {
		return nil, nil, false
	}
	return ipam.Ranges(p.Provider, p.Object)
}

// sizeOf is the number of addresses in a set.
func sizeOf(set *netipx.IPSet) *big.Int {
	size := new(big.Int)
	for _, r := range set.Ranges() {
		size.Add(size, sizeOfRange(r))
	}
	return size
}

func sizeOfRange(r netipx.IPRange) *big.Int {
	from, to := new(big.Int).SetBytes(r.From().AsSlice()), new(big.Int).SetBytes(r.To().AsSlice())
	to.Sub(to, from)
	return to.Add(to, big.NewInt(1))
}

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

// Usage counts the pool's addresses.
func (p *Pool) Usage() Usage {
	taken := p.taken()
	u := Usage{Total: new(big.Int), Reserved: new(big.Int), Free: new(big.Int)}
	for _, cooling := range taken {
		if cooling {
			u.Cooling++
		} else {
			u.Used++
		}
	}
	all, reserved, ok := p.ranges()
	if !ok || p.Partly {
		return u
	}
	u.Known = true
	u.Total, u.Reserved = sizeOf(all), sizeOf(reserved)
	for ip := range taken {
		if !all.Contains(ip) {
			u.Total.Add(u.Total, big.NewInt(1))
		}
		if reserved.Contains(ip) {
			u.Reserved.Sub(u.Reserved, big.NewInt(1))
		}
	}
	u.Free.Sub(u.Total, u.Reserved)
	u.Free.Sub(u.Free, big.NewInt(int64(u.Used+u.Cooling)))
	return u
}

// taken are the addresses that exist, each with whether it cools. Two objects of one
// address, as metal3 makes for claims of its two APIs, count once, and used wins.
func (p *Pool) taken() map[netip.Addr]bool {
	taken := map[netip.Addr]bool{}
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

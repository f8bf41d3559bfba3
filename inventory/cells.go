package inventory

import (
	"math/big"
	"net/netip"
)

// Cell is one address of a pool.
type Cell struct {
	IP    netip.Addr
	State State
}

// Cells are all addresses of a pool of IPv4 in their order, nil if there are more than
// this, or if the pool does not say which they are.
func (g *Graph) Cells(p *Pool, most int) []Cell {
	all, reserved, ok := p.ranges()
	if !ok || sizeOf(all).Cmp(big.NewInt(int64(most))) > 0 {
		return nil
	}
	taken := p.taken()
	cells := []Cell{}
	for _, r := range all.Ranges() {
		if !r.From().Is4() {
			return nil
		}
		for ip := r.From(); r.Contains(ip); ip = ip.Next() {
			cell := Cell{IP: ip, State: Free}
			cooling, isTaken := taken[ip]
			switch {
			case isTaken && cooling:
				cell.State = Cooling
			case isTaken:
				cell.State = Used
			case reserved.Contains(ip):
				cell.State = Reserved
			}
			cells = append(cells, cell)
		}
	}
	return cells
}

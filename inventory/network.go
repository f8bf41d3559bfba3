package inventory

import (
	"fmt"
	"strings"

	"capv-static-ip.dev/allocator/ipam"
)

// Network is what a pool hands out, in words.
type Network struct {
	// Ranges are its addresses, as in 10.16.56.88-10.16.56.93/24, and More how many ranges
	// are left out.
	Ranges []string
	More   int
	// Gateways and Nameservers are those that its machines get.
	Gateways, Nameservers []string
}

// Network is what the pool says, with so many ranges at the most.
func (p *Pool) Network(most int) Network {
	if p.Object == nil {
		return Network{}
	}
	details := ipam.DetailsOf(p.Provider, p.Object)
	n := Network{Gateways: details.Gateways, Nameservers: details.Nameservers}
	if ipam.SaysNoGateway(p.Object) {
		n.Gateways = nil
	}
	length := ""
	if details.Bits > 0 {
		length = fmt.Sprintf("/%d", details.Bits)
	}
	for i, r := range p.Ranges() {
		switch {
		case i >= most:
			n.More++
		case r.From() == r.To():
			n.Ranges = append(n.Ranges, r.From().String()+length)
		default:
			n.Ranges = append(n.Ranges, r.String()+length)
		}
	}
	return n
}

// GivenInWords is what its machines get, each in words.
func (n Network) GivenInWords() []string {
	var given []string
	if len(n.Gateways) > 0 {
		given = append(given, "gateway "+strings.Join(n.Gateways, ", "))
	}
	if len(n.Nameservers) > 0 {
		given = append(given, "DNS "+strings.Join(n.Nameservers, ", "))
	}
	return given
}

// RangesInWords are the ranges in a line, empty if the pool does not say them.
func (n Network) RangesInWords() string {
	text := strings.Join(n.Ranges, ", ")
	if n.More > 0 {
		text += fmt.Sprintf(" and %d more", n.More)
	}
	return text
}

package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// Answer is what a provider wrote into an address object; it may be anything.
type Answer struct {
	IP      string
	Prefix  int
	Gateway string
}

// Bind checks the answer and makes a binding of it.
func (a Answer) Bind(pool Pool, claim string, want Want) (Binding, error) {
	ip, err := netip.ParseAddr(a.IP)
	if err != nil {
		return Binding{}, Unusable(pool, "it is not an IP address")
	}
	ip = ip.Unmap()
	if a.Prefix < 1 || a.Prefix > ip.BitLen() {
		return Binding{}, Unusable(pool, "its prefix length is %d, which must be 1 to %d", a.Prefix, ip.BitLen())
	}
	binding := Binding{
		Device:        want.Device,
		Pool:          want.Pool,
		Claim:         claim,
		Address:       netip.PrefixFrom(ip, a.Prefix),
		SearchDomains: SearchDomains(pool),
	}
	if a.Gateway == "" {
		return binding, nil
	}
	binding.Gateway, err = netip.ParseAddr(a.Gateway)
	if err != nil {
		return Binding{}, Unusable(pool, "its gateway %q is not an IP address", a.Gateway)
	}
	if binding.Gateway.Is4() != ip.Is4() {
		return Binding{}, Unusable(pool, "its gateway %s is of the other family", binding.Gateway)
	}
	return binding, checkGateway(pool, binding.Gateway)
}

// Unusable refuses an answer. The text leaves the address out: every try is
// given another one.
func Unusable(pool Pool, format string, args ...any) error {
	return Refuse(InvalidAddress, "%s answered with an unusable address: %s; correct the pool",
		pool.Reference.In(pool.GetNamespace()), fmt.Sprintf(format, args...))
}

// SplitList reads an annotation that holds a list separated by commas.
func SplitList(list string) []string {
	var entries []string
	for entry := range strings.SplitSeq(list, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}

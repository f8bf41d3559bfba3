package ipam

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Family is IPv4 or IPv6, empty where it is not known.
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// FamilyOf is the family of an address.
func FamilyOf(ip netip.Addr) Family {
	if ip.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// CheckFit refuses an address that would harm its network or its machine: the
// pool's own gateway or name server, the network itself, everybody. The provider
// would offer it again, so it is to be set aside. What is wrong with a pool as a
// whole is refused once and for all.
func CheckFit(pool Pool, b Binding, of Family) error {
	ip := b.Address.Addr()
	if text := b.Address.String(); len(text) > maxAddressText {
		return Unusable(pool, "written out with its prefix length it is longer than the %d characters that CAPV takes", maxAddressText)
	}
	if err := CheckDNS(pool.Reference.In(pool.GetNamespace()), b.Nameservers, b.SearchDomains); err != nil {
		return err
	}
	if of != "" && FamilyOf(ip) != of {
		return Refuse(PoolExhausted, "%s has no %s address left, and machines are given none of its other family: "+
			"make a pool of its own for each family", pool.Reference.In(pool.GetNamespace()), of)
	}
	cause := EndOfSubnet(b.Address)
	var what string
	switch {
	case ip == b.Gateway:
		cause, what = IsGateway, "it is the gateway itself"
	case slices.ContainsFunc(b.Nameservers, func(text string) bool { server, err := netip.ParseAddr(text); return err == nil && server == ip }):
		cause, what = IsNameserver, "it is one of the name servers"
	case cause == IsBroadcast:
		what = "it is the broadcast address of its network"
	case cause == IsNetworkAddress:
		what = "it is the address of its network itself"
	default:
		return nil
	}
	return &Unfit{Cause: cause, IP: ip, Refusal: Unusable(pool, "%s", what)}
}

// EndOfSubnet is IsNetworkAddress or IsBroadcast, or empty for an address that a host
// can have. A
// subnet of two addresses has hosts only (RFC 3021, RFC 6164); the first address
// of an IPv6 subnet belongs to its routers (RFC 4291, 2.6.1).
func EndOfSubnet(address netip.Prefix) UnfitCause {
	ip := address.Addr()
	if address.Bits() > ip.BitLen()-2 {
		return ""
	}
	switch {
	case ip == address.Masked().Addr():
		return IsNetworkAddress
	case ip.Is4() && ip == netipx.PrefixLastIP(address.Masked()):
		return IsBroadcast
	}
	return ""
}

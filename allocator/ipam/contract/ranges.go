package contract

import (
	"net/netip"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

var _ ipam.Ranged = Provider{}

// Ranges implements ipam.Ranged for the pools of the in-cluster provider, as that counts
// them (internal/poolutil/pool.go, PoolSpecToIPSet).
func (c Provider) Ranges(pool client.Object) (all, reserved *netipx.IPSet, ok bool) {
	object, isUnstructured := pool.(*unstructured.Unstructured)
	if !isUnstructured || !c.CanRequest(referenceOf(object.GroupVersionKind(), pool)) {
		return nil, nil, false
	}
	listed, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "addresses")
	excluded, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "excludedAddresses")
	all, err := addressSet(listed)
	if err != nil {
		return nil, nil, false
	}
	out, err := addressSet(excluded)
	if err != nil {
		return nil, nil, false
	}

	var usable netipx.IPSetBuilder
	usable.AddSet(all)
	usable.RemoveSet(out)
	if gateway, _, _ := unstructured.NestedString(object.Object, "spec", "gateway"); gateway != "" {
		if ip, err := netip.ParseAddr(gateway); err == nil {
			usable.Remove(ip)
		}
	}
	gives, _, _ := unstructured.NestedBool(object.Object, "spec", "allocateReservedIPAddresses")
	bits, _, _ := unstructured.NestedInt64(object.Object, "spec", "prefix")
	if ranges := all.Ranges(); !gives && len(ranges) > 0 {
		removeEnds(&usable, netip.PrefixFrom(ranges[0].From(), int(bits)))
	}

	var rest netipx.IPSetBuilder
	rest.AddSet(all)
	if set, err := usable.IPSet(); err == nil {
		rest.RemoveSet(set)
	}
	reserved, err = rest.IPSet()
	return all, reserved, err == nil
}

func referenceOf(kind schema.GroupVersionKind, pool client.Object) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: kind.Group, Kind: kind.Kind, Name: pool.GetName()}
}

// removeEnds removes the first address of a subnet, and of one of IPv4 the last.
func removeEnds(set *netipx.IPSetBuilder, subnet netip.Prefix) {
	if !subnet.IsValid() {
		return
	}
	set.Remove(subnet.Masked().Addr())
	if subnet.Addr().Is4() {
		set.Remove(netipx.PrefixLastIP(subnet))
	}
}

// addressSet reads addresses, ranges (a-b) and subnets.
func addressSet(texts []string) (*netipx.IPSet, error) {
	var set netipx.IPSetBuilder
	for _, text := range texts {
		switch {
		case strings.Contains(text, "-"):
			r, err := netipx.ParseIPRange(text)
			if err != nil {
				return nil, err
			}
			set.AddRange(r)
		case strings.Contains(text, "/"):
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, err
			}
			set.AddPrefix(prefix)
		default:
			ip, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			set.Add(ip)
		}
	}
	return set.IPSet()
}

package metal3

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

var _ ipam.Migratable = Provider{}

// nobodys begins the keys of spec.preAllocations that are no claim's: no name has a slash.
const nobodys = "capv-static-ip.dev/"

// shape is what a migration changes of a pool.
type shape struct {
	Pools          []ipamv1.Pool                  `json:"pools"`
	PreAllocations map[string]ipamv1.IPAddressStr `json:"preAllocations,omitempty"`
}

// record is the content of ipam.PoolMigrationAnnotation.
type record struct {
	// Before is what the pool was before it was frozen, nil if it is not.
	Before *shape `json:"before,omitempty"`
	// Reserved are the keys of spec.preAllocations that Reserve has added.
	Reserved []string `json:"reserved,omitempty"`
}

func recordOf(object client.Object) (*ipamv1.IPPool, record, error) {
	pool, ok := object.(*ipamv1.IPPool)
	if !ok {
		return nil, record{}, fmt.Errorf("%T is no IPPool", object)
	}
	var r record
	if text := pool.Annotations[ipam.PoolMigrationAnnotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, record{}, fmt.Errorf("reading annotation %s: %w", ipam.PoolMigrationAnnotation, err)
		}
	}
	return pool, r, nil
}

// keep writes the record, unless it says nothing.
func (r record) keep(pool *ipamv1.IPPool) error {
	if r.Before == nil && len(r.Reserved) == 0 {
		delete(pool.Annotations, ipam.PoolMigrationAnnotation)
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	kube.SetAnnotation(pool, ipam.PoolMigrationAnnotation, string(text))
	return nil
}

// original is what the pool is without what a migration has made of it. Of one that is frozen,
// that is what it was before, and the addresses that people have kept since.
func (r record) original(pool *ipamv1.IPPool) shape {
	if r.Before != nil {
		own := map[string]ipamv1.IPAddressStr{}
		maps.Copy(own, r.Before.PreAllocations)
		for key, ip := range pool.Spec.PreAllocations {
			if key != nobodys+string(ip) {
				own[key] = ip
			}
		}
		return shape{Pools: r.Before.Pools, PreAllocations: own}
	}
	own := maps.Clone(pool.Spec.PreAllocations)
	maps.DeleteFunc(own, func(key string, _ ipamv1.IPAddressStr) bool { return slices.Contains(r.Reserved, key) })
	return shape{Pools: pool.Spec.Pools, PreAllocations: own}
}

// set makes the pool this, with some addresses kept for claims, or for nobody.
func (s shape) set(pool *ipamv1.IPPool, kept map[string]ipamv1.IPAddressStr) {
	pool.Spec.Pools, pool.Spec.PreAllocations = s.Pools, nil
	if len(s.PreAllocations)+len(kept) == 0 {
		return
	}
	pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{}
	maps.Copy(pool.Spec.PreAllocations, s.PreAllocations)
	maps.Copy(pool.Spec.PreAllocations, kept)
}

// forNobody are pre-allocations that no claim can use.
func forNobody(ips []netip.Addr) map[string]ipamv1.IPAddressStr {
	kept := make(map[string]ipamv1.IPAddressStr, len(ips))
	for _, ip := range ips {
		kept[nobodys+ip.String()] = ipamv1.IPAddressStr(ip.String())
	}
	return kept
}

func keptForNobody(pool *ipamv1.IPPool) []netip.Addr {
	kept := maps.Clone(pool.Spec.PreAllocations)
	maps.DeleteFunc(kept, func(key string, _ ipamv1.IPAddressStr) bool { return !strings.HasPrefix(key, nobodys) })
	return addressesOf(kept)
}

// addressesOf are the addresses that claims have, or that are kept for them, by their names.
func addressesOf(byClaim map[string]ipamv1.IPAddressStr) []netip.Addr {
	var ips []netip.Addr
	for _, text := range byClaim {
		if ip := capi.ParseAddress(string(text)); ip.IsValid() {
			ips = append(ips, ip)
		}
	}
	return ips
}

// Freeze implements ipam.Migratable: the pool consists of what is in use, and each of that
// is kept for nobody. metal3's webhook takes nothing less.
func (Provider) Freeze(object client.Object, used []netip.Addr) error {
	pool, r, err := recordOf(object)
	if err != nil {
		return err
	}
	// What has been freed stays: the webhook goes by a status that lags behind, until a claim on
	// the pool or the pool itself changes.
	used = slices.Concat(used, keptForNobody(pool), addressesOf(pool.Status.Allocations))
	original := r.original(pool)
	r = record{Before: &original}
	if len(used) == 0 {
		used = firstOf(original)
	}
	// A pool without ranges is invalid. What users have kept for a claim is not: metal3 gives it
	// to that claim without a look at whether it is free.
	if narrow := narrowed(original.Pools, used); len(narrow) > 0 {
		shape{Pools: narrow}.set(pool, forNobody(used))
	}
	return r.keep(pool)
}

// firstOf is the first address of a pool, to which it is cut down if nothing of it is in use.
func firstOf(s shape) []netip.Addr {
	pool := &ipamv1.IPPool{}
	pool.Spec.Pools = s.Pools
	for _, r := range rangesOf(pool).Ranges() {
		return []netip.Addr{r.From()}
	}
	return nil
}

// IsFrozen implements ipam.Migratable.
func (Provider) IsFrozen(object client.Object) bool {
	_, r, err := recordOf(object)
	return err == nil && r.Before != nil
}

// Close implements ipam.Migratable: it is frozen for good already.
func (p Provider) Close(object client.Object, used []netip.Addr) error { return p.Freeze(object, used) }

// narrowed are entries of a pool cut down to some addresses, with what they say of these.
func narrowed(entries []ipamv1.Pool, used []netip.Addr) []ipamv1.Pool {
	var narrow []ipamv1.Pool
	left := slices.Clone(used)
	for i := range entries {
		within, ok := rangeOf(&entries[i])
		if !ok {
			continue
		}
		var here netipx.IPSetBuilder
		for _, ip := range left {
			if within.Contains(ip) {
				here.Add(ip)
			}
		}
		left = slices.DeleteFunc(left, within.Contains)
		narrow = append(narrow, entriesOf(&here, entries[i])...)
	}
	var outside netipx.IPSetBuilder
	for _, ip := range left {
		outside.Add(ip)
	}
	return append(narrow, entriesOf(&outside, ipamv1.Pool{})...)
}

func entriesOf(builder *netipx.IPSetBuilder, like ipamv1.Pool) []ipamv1.Pool {
	set, err := builder.IPSet()
	if err != nil {
		return nil
	}
	var entries []ipamv1.Pool
	for _, r := range set.Ranges() {
		first, last := ipamv1.IPAddressStr(r.From().String()), ipamv1.IPAddressStr(r.To().String())
		entries = append(entries, ipamv1.Pool{Start: &first, End: &last, Prefix: like.Prefix, Gateway: like.Gateway, DNSServers: like.DNSServers})
	}
	return entries
}

// Thaw implements ipam.Migratable.
func (Provider) Thaw(object client.Object, kept []netip.Addr) error {
	pool, r, err := recordOf(object)
	if err != nil {
		return err
	}
	// From now on the pool is its users' again, who may change it.
	added := forNobody(kept)
	r.original(pool).set(pool, added)
	return record{Reserved: slices.Sorted(maps.Keys(added))}.keep(pool)
}

// Reserve implements ipam.Migratable: metal3 gives an address of spec.preAllocations to the
// claim of that name alone.
func (Provider) Reserve(object client.Object, kept map[string]netip.Addr) error {
	pool, r, err := recordOf(object)
	if err != nil {
		return err
	}
	original := r.original(pool)
	added := make(map[string]ipamv1.IPAddressStr, len(kept))
	for claim, ip := range kept {
		switch own, has := original.PreAllocations[claim]; {
		case !has:
			added[claim] = ipamv1.IPAddressStr(ip.String())
		case capi.ParseAddress(string(own)) != ip:
			// What users keep for the claim stays theirs. It cannot have both.
			maps.Copy(added, forNobody([]netip.Addr{ip}))
		}
	}
	original.set(pool, added)
	return record{Reserved: slices.Sorted(maps.Keys(added))}.keep(pool)
}

// Withholds implements ipam.Migratable: it is in no range, or kept for nobody, and for no claim.
func (Provider) Withholds(object client.Object, ip netip.Addr) bool {
	pool, ok := object.(*ipamv1.IPPool)
	if !ok || !rangesOf(pool).Contains(ip) {
		return ok
	}
	kept := false
	for key, text := range pool.Spec.PreAllocations {
		if capi.ParseAddress(string(text)) != ip {
			continue
		}
		if !strings.HasPrefix(key, nobodys) {
			return false
		}
		kept = true
	}
	return kept
}

// HasNoted implements ipam.Migratable. metal3 does not tell; what it gives twice all the
// same is found when the claim is bound.
func (Provider) HasNoted(client.Object) bool { return true }

// RestsWhenFrozen implements ipam.Migratable.
func (Provider) RestsWhenFrozen() bool { return false }

// Clash implements ipam.Migratable. metal3 names addresses by the prefix of their pool, and
// serves claims of both APIs on pools of the name that they give, whatever the kind.
func (Provider) Clash(object, other client.Object) string {
	pool, ok := object.(*ipamv1.IPPool)
	if !ok {
		return ""
	}
	if twin, ok := other.(*ipamv1.IPPool); ok {
		if pool.Name != twin.Name && pool.Spec.NamePrefix == twin.Spec.NamePrefix {
			return fmt.Sprintf("both pools have the namePrefix %q, so that their addresses have the same names: give the new one another", pool.Spec.NamePrefix)
		}
		return ""
	}
	if pool.Name == other.GetName() {
		return fmt.Sprintf("both pools are named %q, and metal3 takes claims on the one for claims on the other: give the new one another name", pool.Name)
	}
	return ""
}

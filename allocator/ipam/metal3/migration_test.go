package metal3

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// shaped is a pool of two entries, of which the second has a gateway of its own.
func shaped() *ipamv1.IPPool {
	text := func(s string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(s)) }
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	pool.Spec.Pools = []ipamv1.Pool{
		{Start: text("10.0.0.1"), End: text("10.0.0.9")},
		{Start: text("10.0.0.20"), End: text("10.0.0.29"), Gateway: text("10.0.0.254")},
	}
	pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"vip": "10.0.0.3", "later": "10.0.0.9"}
	return pool
}

// written are the ranges of a pool, with their gateways, and what is kept for whom.
func written(pool *ipamv1.IPPool) string {
	var parts []string
	for _, entry := range pool.Spec.Pools {
		part := fmt.Sprintf("%s-%s", *entry.Start, *entry.End)
		if entry.Gateway != nil {
			part += " by " + string(*entry.Gateway)
		}
		parts = append(parts, part)
	}
	for _, key := range slices.Sorted(maps.Keys(pool.Spec.PreAllocations)) {
		parts = append(parts, key+"="+string(pool.Spec.PreAllocations[key]))
	}
	return strings.Join(parts, "; ")
}

func TestShapesOfAPoolThatAddressesAreMovedFromOrTo(t *testing.T) {
	const before = "10.0.0.1-10.0.0.9; 10.0.0.20-10.0.0.29 by 10.0.0.254; later=10.0.0.9; vip=10.0.0.3"
	freeze := func(used ...string) func(client.Object) error {
		return func(pool client.Object) error { return Provider{}.Freeze(pool, ips(used...)) }
	}
	thaw := func(kept ...string) func(client.Object) error {
		return func(pool client.Object) error { return Provider{}.Thaw(pool, ips(kept...)) }
	}
	reserve := func(claim, ip string) func(client.Object) error {
		return func(pool client.Object) error {
			return Provider{}.Reserve(pool, map[string]netip.Addr{claim: netip.MustParseAddr(ip)})
		}
	}
	shorten := func(object client.Object) error {
		pool := object.(*ipamv1.IPPool)
		pool.Spec.Pools = pool.Spec.Pools[:1]
		delete(pool.Spec.PreAllocations, "later")
		return nil
	}
	count := func(claim, ip string) func(client.Object) error {
		return func(pool client.Object) error {
			pool.(*ipamv1.IPPool).Status.Allocations = map[string]ipamv1.IPAddressStr{claim: ipamv1.IPAddressStr(ip)}
			return nil
		}
	}
	byHand := func(key, ip string) func(client.Object) error {
		return func(pool client.Object) error {
			pool.(*ipamv1.IPPool).Spec.PreAllocations[key] = ipamv1.IPAddressStr(ip)
			return nil
		}
	}
	withhold := func(pool client.Object) error { return Provider{}.Withhold(pool, netip.MustParseAddr("10.0.0.5")) }
	giveBack := func(pool client.Object) error { return Provider{}.Return(pool, netip.MustParseAddr("10.0.0.5")) }
	const reserved5 = "capv-static-ip.dev/reserved-10.0.0.5=10.0.0.5; "
	unreserve := func(pool client.Object) error { return Provider{}.Reserve(pool, nil) }
	const nobodys1, nobodys2, nobodys20 = "capv-static-ip.dev/10.0.0.1=10.0.0.1; ", "capv-static-ip.dev/10.0.0.2=10.0.0.2; ", "capv-static-ip.dev/10.0.0.20=10.0.0.20"
	for name, test := range map[string]struct {
		steps []func(client.Object) error
		want  string
		plain bool
	}{
		"frozen to what is in use":                             {[]func(client.Object) error{freeze("10.0.0.1", "10.0.0.2", "10.0.0.20")}, "10.0.0.1-10.0.0.2; 10.0.0.20-10.0.0.20 by 10.0.0.254; " + nobodys1 + nobodys2 + nobodys20, false},
		"frozen with its own claim":                            {[]func(client.Object) error{freeze("10.0.0.3")}, "10.0.0.3-10.0.0.3; capv-static-ip.dev/10.0.0.3=10.0.0.3", false},
		"frozen, and one has come":                             {[]func(client.Object) error{freeze("10.0.0.1"), freeze("10.0.0.1", "10.0.0.2")}, "10.0.0.1-10.0.0.2; " + nobodys1 + strings.TrimSuffix(nobodys2, "; "), false},
		"frozen, and one has gone":                             {[]func(client.Object) error{freeze("10.0.0.1", "10.0.0.2"), freeze("10.0.0.2")}, "10.0.0.1-10.0.0.2; " + nobodys1 + strings.TrimSuffix(nobodys2, "; "), false},
		"frozen, and metal3 counts one that has gone":          {[]func(client.Object) error{count("cp-0", "10.0.0.2"), freeze("10.0.0.1")}, "10.0.0.1-10.0.0.2; " + nobodys1 + strings.TrimSuffix(nobodys2, "; "), false},
		"frozen, nothing is in use":                            {[]func(client.Object) error{freeze()}, "10.0.0.1-10.0.0.1; " + strings.TrimSuffix(nobodys1, "; "), false},
		"thawed, and frozen again":                             {[]func(client.Object) error{freeze("10.0.0.1"), thaw("10.0.0.1"), freeze()}, "10.0.0.1-10.0.0.1; " + strings.TrimSuffix(nobodys1, "; "), false},
		"thawed, people have kept one meanwhile":               {[]func(client.Object) error{freeze("10.0.0.1"), byHand("lb", "10.0.0.1"), freeze("10.0.0.1"), thaw()}, strings.Replace(before, "later=10.0.0.9", "later=10.0.0.9; lb=10.0.0.1", 1), true},
		"frozen, and one is reserved":                          {[]func(client.Object) error{freeze("10.0.0.1"), withhold}, "10.0.0.1-10.0.0.1; " + strings.TrimSuffix(nobodys1, "; "), false},
		"thawed, one is reserved":                              {[]func(client.Object) error{freeze("10.0.0.1"), withhold, freeze("10.0.0.1"), thaw()}, strings.Replace(before, "later", reserved5+"later", 1), true},
		"thawed, that is undone":                               {[]func(client.Object) error{freeze("10.0.0.1"), withhold, giveBack, thaw()}, before, true},
		"moved to, one is reserved":                            {[]func(client.Object) error{reserve("cp-0", "10.0.0.1"), withhold, unreserve}, strings.Replace(before, "later", reserved5+"later", 1), true},
		"thawed":                                               {[]func(client.Object) error{freeze("10.0.0.1"), thaw()}, before, true},
		"thawed, one has moved":                                {[]func(client.Object) error{freeze("10.0.0.1"), thaw("10.0.0.1")}, strings.Replace(before, "later", nobodys1+"later", 1), false},
		"thawed, its users edit it":                            {[]func(client.Object) error{freeze("10.0.0.1"), thaw("10.0.0.1"), shorten, freeze("10.0.0.2"), thaw()}, "10.0.0.1-10.0.0.9; vip=10.0.0.3", true},
		"reserved":                                             {[]func(client.Object) error{reserve("cp-0", "10.0.0.1")}, strings.Replace(before, "later", "cp-0=10.0.0.1; later", 1), false},
		"reserved for another":                                 {[]func(client.Object) error{reserve("cp-0", "10.0.0.1"), reserve("cp-1", "10.0.0.2")}, strings.Replace(before, "later", "cp-1=10.0.0.2; later", 1), false},
		"reserved for nobody more":                             {[]func(client.Object) error{reserve("cp-0", "10.0.0.1"), unreserve}, before, true},
		"reserved as users have it":                            {[]func(client.Object) error{reserve("vip", "10.0.0.3"), unreserve}, before, true},
		"reserved for a name that users have kept another for": {[]func(client.Object) error{reserve("vip", "10.0.0.1")}, strings.Replace(before, "later", nobodys1+"later", 1), false},
		"and for it no more":                                   {[]func(client.Object) error{reserve("vip", "10.0.0.1"), unreserve}, before, true},
		"moved back to":                                        {[]func(client.Object) error{freeze("10.0.0.1"), reserve("cp-0", "10.0.0.1")}, strings.Replace(before, "later", "cp-0=10.0.0.1; later", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			pool := shaped()
			for _, step := range test.steps {
				if err := step(pool); err != nil {
					t.Fatal(err)
				}
			}
			if got := written(pool); got != test.want {
				t.Errorf("it is\n%s\nwant\n%s", got, test.want)
			}
			if _, noted := pool.Annotations[ipam.PoolMigrationAnnotation]; noted == test.plain {
				t.Errorf("what it was before is noted: %v", noted)
			}
		})
	}
}

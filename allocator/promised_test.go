package allocator

import (
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
)

func TestAddressThatWasPromisedIsKnownUntilItsMachineIsStored(t *testing.T) {
	ip, now := netip.MustParseAddr("10.0.0.1"), time.Now()
	to := func(name, network string, at time.Time) promise {
		return promise{machine: holderKey{NamespacedName: types.NamespacedName{Namespace: "ns", Name: name}}, networks: []string{network}, at: at}
	}
	for name, test := range map[string]struct {
		next  promise
		taken bool
	}{
		"to another machine":                   {to("b", "lan", now), true},
		"on a network that is not known":       {to("b", "", now), true},
		"to the same machine":                  {to("a", "lan", now), false},
		"on another network":                   {to("b", "storage", now), false},
		"when the first request is long over":  {to("b", "lan", now.Add(promiseTime)), false},
		"on either of two networks":            {promise{machine: holderKey{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "b"}}, networks: []string{"storage", "lan"}, at: now}, true},
		"on the same network by its full path": {to("b", "/DC0/network/lan", now), true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &promised{}
			p.add(ip, to("a", "lan", now))

			if got := len(p.add(ip, test.next)) > 0; got != test.taken {
				t.Errorf("it is promised already: %v, want %v", got, test.taken)
			}
		})
	}

	t.Run("and no longer", func(t *testing.T) {
		p := &promised{}
		p.add(ip, to("a", "lan", now))
		p.drop(ip, holderKey{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "a"}})

		if earlier := p.add(ip, to("b", "lan", now)); len(earlier) > 0 {
			t.Errorf("it is still promised to %v", earlier)
		}
	})

	t.Run("and a VSphereCluster is another holder than the machine of its name", func(t *testing.T) {
		p := &promised{}
		p.add(ip, to("a", "lan", now))
		endpoint := to("a", "", now)
		endpoint.machine.kind = ipam.OfCluster

		if earlier := p.add(ip, endpoint); len(earlier) == 0 {
			t.Error("it is promised to nobody else")
		}
	})

	t.Run("and what is old is forgotten", func(t *testing.T) {
		p := &promised{}
		p.add(ip, to("a", "lan", now))
		p.add(netip.MustParseAddr("10.0.0.2"), to("b", "lan", now.Add(2*promiseTime)))

		if _, known := p.addresses[ip]; known {
			t.Error("it is remembered")
		}
	})
}

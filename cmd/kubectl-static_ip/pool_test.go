package main

import (
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
)

// aPool has 10.0.0.30 and 10.0.0.31, 10.0.0.33 and 10.0.0.36, the last of which is its gateway.
func aPool() *inventory.Pool {
	pool := &ipamv1.IPPool{}
	pool.Spec.Prefix, pool.Spec.DNSServers = 24, []ipamv1.IPAddressStr{"10.0.0.53"}
	gateway := ipamv1.IPAddressStr("10.0.0.36")
	pool.Spec.Gateway = &gateway
	for _, r := range [][2]ipamv1.IPAddressStr{{"10.0.0.30", "10.0.0.31"}, {"10.0.0.33", "10.0.0.33"}, {"10.0.0.36", "10.0.0.36"}} {
		pool.Spec.Pools = append(pool.Spec.Pools, ipamv1.Pool{Start: &r[0], End: &r[1]})
	}
	return &inventory.Pool{PoolKey: inventory.PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("lab")}, Provider: metal3.Provider{}, Object: pool}
}

func TestGridHasEachAddressAtItsPlace(t *testing.T) {
	o, printed := printing("")
	o.grid(&inventory.Graph{}, aPool(), map[netip.Addr]string{netip.MustParseAddr("10.0.0.33"): "it is on two"})
	want := `# used   ~ cooling   . free   x reserved   ! problem
10.0.0.0                                      ..
10.0.0.32        !  x

`
	if printed() != want {
		t.Errorf("it draws\n%s\nwant\n%s", printed(), want)
	}
}

func TestHeaderSaysWhatAPoolHandsOutAndWhatIsWrongWithIt(t *testing.T) {
	o, printed := printing("")
	pool := aPool()
	problems := inventory.ProblemsOf([]inventory.Finding{{Check: "SIP-015", Object: "IPPool ns/lab", Text: "stays behind", Pools: []inventory.PoolKey{pool.PoolKey}}})
	o.header(&inventory.Graph{}, pool, problems)
	want := `ns/IPPool/lab   10.0.0.30-10.0.0.31/24, 10.0.0.33/24, 10.0.0.36/24   gateway 10.0.0.36   DNS 10.0.0.53
4 addresses: 0 used, 0 cooling, 1 reserved, 3 free.
! SIP-015: IPPool ns/lab stays behind

`
	if printed() != want {
		t.Errorf("it says\n%s\nwant\n%s", printed(), want)
	}
}

func TestAddressOfAProblemIsListedThoughNobodyHasIt(t *testing.T) {
	notes := map[netip.Addr]string{netip.MustParseAddr("10.0.0.33"): "SIP-017: it is written by hand"}
	for output, want := range map[string]string{
		"":                                  "ADDRESS     STATE   HOLDER   DEVICE   CLUSTER   VM    AGE   PROBLEM\n10.0.0.33   free    -        -        -         -     -     ! SIP-017: it is written by hand\n",
		"jsonpath={.items[*].problem}":      "SIP-017: it is written by hand",
		"name":                              "holding.cli.capv-static-ip.dev/10.0.0.33\n",
		"custom-columns=S:.state,A:.absent": "S      A\nfree   <none>\n",
	} {
		o, printed := printing(output)
		if err := o.show(holdingList(&inventory.Graph{}, aPool(), notes)); err != nil || printed() != want {
			t.Errorf("-o %q prints %q (%v), want %q", output, printed(), err, want)
		}
	}
}

package e2e

import (
	"fmt"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/tests/harness"
)

// fixture is what a test that plays with either provider has to know of it.
type fixture struct {
	// name is that of the provider.
	name string
	// ask makes machines of a template ask for an address of a pool.
	ask func(pool string) harness.Option
	// pool is a pool with the addresses of a scene from first to last.
	pool func(s *scene, name string, first, last byte) client.Object
	// reference is how a pool of the name "pool" is referred to.
	reference ipam.PoolReference
	// grown gives a pool the addresses from first to last.
	grown func(s *scene, first, last byte) func(client.Object)
	// answer is the address that a claim is bound to.
	answer func(s *scene, claim string) (string, error)
}

// Both have the same gateway, the same name servers and the same search domains.
var (
	// metal3 is asked by the label that manifests have had for years.
	metal3Pools = fixture{
		name:      "metal3",
		reference: metal3.PoolNamed("pool"),
		grown:     metal3Grown,
		answer:    metal3Answer,
		ask:       harness.WithPool,
		pool: func(s *scene, name string, first, last byte) client.Object {
			pool := harness.Pool(s.ns, harness.PoolNamed(name), harness.PoolRange(s.address(first), s.address(last)))
			gateway := ipamv1.IPAddressStr(s.address(1))
			pool.Spec.Gateway = &gateway
			pool.Spec.DNSServers = []ipamv1.IPAddressStr{ipamv1.IPAddressStr(s.address(2)), ipamv1.IPAddressStr(s.address(3))}
			harness.WithAnnotation(ipam.SearchDomainsAnnotation, "dkp.example.com,example.com")(pool)
			return pool
		},
	}
	// inCluster is asked by our annotation.
	inCluster = fixture{
		name:      "in-cluster",
		reference: contract.InClusterPool("pool"),
		grown:     inClusterGrown,
		answer:    contractAnswer,
		ask: func(pool string) harness.Option {
			return harness.WithAnnotation("pools.capv-static-ip.dev/0", harness.InClusterPoolKind+"/"+pool)
		},
		pool: func(s *scene, name string, first, last byte) client.Object {
			return harness.InClusterPool(s.ns, harness.InClusterNamed(name),
				harness.InClusterAddresses(s.address(first)+"-"+s.address(last)),
				harness.InClusterField(s.address(1), "gateway"),
				harness.InClusterWith(harness.WithAnnotation(ipam.NameserversAnnotation, s.address(2)+","+s.address(3))),
				harness.InClusterWith(harness.WithAnnotation(ipam.SearchDomainsAnnotation, "dkp.example.com,example.com")),
			)
		},
	}
)

// String says which provider it is.
func (i fixture) String() string { return fmt.Sprintf("with %s", i.name) }

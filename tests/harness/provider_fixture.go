package harness

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// Fixture is an IPAM provider, for tests that are the same with each. What is
// told here of its pools is true of all that Pool makes, whatever the provider.
type Fixture struct {
	// Name is that of the provider.
	Name string
	// Provider reads its claims and its addresses.
	Provider ipam.Provider
	// PoolName is the name of a pool that is given no other.
	PoolName string
	// AskedBy is how a sentence names what Ask writes on a machine.
	AskedBy string

	// network is what all addresses of a pool begin with.
	network   string
	reference func(name string) ipam.PoolReference
	ask       func(pool string) Option
	pool      func(namespace string) client.Object
}

var (
	// OfMetal3 is metal3's. It is asked by the label that manifests have had for
	// years.
	OfMetal3 = Fixture{
		Name:     "metal3",
		Provider: metal3.Provider{}, PoolName: DefaultPool,
		AskedBy: "label " + PoolLabel + " of the VSphereMachine", ask: WithPool,
		network: "10.16.56.", reference: metal3.PoolNamed,
		pool: func(namespace string) client.Object { return Pool(namespace) },
	}
	// OfInCluster is the in-cluster provider's. It is asked by our annotation.
	OfInCluster = Fixture{
		Name:     "in-cluster",
		Provider: contract.Provider{}, PoolName: DefaultInClusterPool,
		AskedBy: "annotation " + devicePool + " of the VSphereMachine",
		ask:     func(pool string) Option { return WithAnnotation(devicePool, InClusterPoolKind+"/"+pool) },
		network: "10.16.57.", reference: contract.InClusterPool,
		pool: func(namespace string) client.Object { return InClusterPool(namespace) },
	}
	// Fixtures are all of them.
	Fixtures = []Fixture{OfMetal3, OfInCluster}
	// Providers read the claims and addresses of all.
	Providers = ipam.NewProviders(OfInCluster.Provider, OfMetal3.Provider)
)

// devicePool is the annotation that asks for the first device of a machine.
const devicePool = "pools.capv-static-ip.dev/0"

// Is tells whether both are the same provider's: for what it alone does.
func (f Fixture) Is(other Fixture) bool { return f.Name == other.Name }

// Pool is a pool with the addresses 88 to 93, a gateway, 1, and two name servers,
// 10 and 11. Options change it like any other object.
func (f Fixture) Pool(namespace string, options ...Option) client.Object {
	pool := f.pool(namespace)
	WithNameservers(f.IP(10), f.IP(11))(pool)
	return with(pool, options)
}

// IP is an address of the network of its pools, by its last number.
func (f Fixture) IP(last int) string { return fmt.Sprintf("%s%d", f.network, last) }

// WithIPs makes a pool consist of the addresses from first to last.
func (f Fixture) WithIPs(first, last int) Option { return WithRange(f.IP(first), f.IP(last)) }

// Injected is a device as it must be stored when it got the address with this
// last number from a pool as Pool makes it.
func (f Fixture) Injected(device capvv1.NetworkDeviceSpec, last int) capvv1.NetworkDeviceSpec {
	got := device.DeepCopy()
	got.IPAddrs = []string{f.IP(last) + "/24"}
	got.Gateway4 = f.IP(1)
	got.Nameservers = []string{f.IP(10), f.IP(11)}
	return *got
}

// Reference is how a pool of this name is referred to.
func (f Fixture) Reference(name string) ipam.PoolReference { return f.reference(name) }

// Ask makes a machine, or the machines of a template, ask for an address of a pool.
func (f Fixture) Ask(pool string) Option { return f.ask(pool) }

// Claim is a request for an address of a pool as somebody other than us makes it.
func (f Fixture) Claim(namespace, name, pool string, options ...Option) client.Object {
	machine := ipam.Machine{NamespacedName: types.NamespacedName{Namespace: namespace}}
	claim := f.Provider.NewClaim(ipam.ClaimSpec{Name: name, Machine: machine, Pool: f.reference(pool)})
	claim.SetAnnotations(nil)
	return with(claim, options)
}

// ProviderOf is the provider whose API a claim, or an address, is of.
func ProviderOf(object client.Object) ipam.Provider {
	switch object.(type) {
	case *ipamv1.IPClaim, *ipamv1.IPAddress:
		return OfMetal3.Provider
	default:
		return OfInCluster.Provider
	}
}

// onPool changes a pool of either provider.
func onPool(metal3 func(*ipamv1.IPPool), inCluster InClusterOption) Option {
	return func(object client.Object) {
		switch pool := object.(type) {
		case *ipamv1.IPPool:
			metal3(pool)
		case *unstructured.Unstructured:
			inCluster(pool)
		default:
			panic(fmt.Sprintf("a %T is no pool", object))
		}
	}
}

// WithPoolName gives a pool, and so metal3's addresses, another name.
func WithPoolName(name string) Option { return onPool(PoolNamed(name), InClusterNamed(name)) }

// WithRange makes a pool consist of one range.
func WithRange(first, last string) Option {
	return onPool(PoolRange(first, last), InClusterAddresses(first+"-"+last))
}

// WithPrefix gives a pool another prefix length.
func WithPrefix(bits int) Option {
	return onPool(func(pool *ipamv1.IPPool) { pool.Spec.Prefix = bits }, InClusterField(int64(bits), "prefix"))
}

// WithGateway gives a pool another gateway; none if it is empty.
func WithGateway(gateway string) Option {
	if gateway == "" {
		return onPool(func(pool *ipamv1.IPPool) { pool.Spec.Gateway = nil }, InClusterField(nil, "gateway"))
	}
	return onPool(func(pool *ipamv1.IPPool) { pool.Spec.Gateway = address(gateway) }, InClusterField(gateway, "gateway"))
}

// WithNameservers gives a pool other name servers, or none. The in-cluster
// provider has no place for them but our annotation.
func WithNameservers(servers ...string) Option {
	return onPool(func(pool *ipamv1.IPPool) {
		pool.Spec.DNSServers = nil
		for _, server := range servers {
			pool.Spec.DNSServers = append(pool.Spec.DNSServers, ipamv1.IPAddressStr(server))
		}
	}, func(pool *unstructured.Unstructured) {
		if len(servers) > 0 {
			WithAnnotation(ipam.NameserversAnnotation, strings.Join(servers, ", "))(pool)
			return
		}
		annotations := pool.GetAnnotations()
		delete(annotations, ipam.NameserversAnnotation)
		pool.SetAnnotations(annotations)
	})
}

// WithSearchDomains gives a pool search domains, separated by commas.
func WithSearchDomains(domains string) Option {
	return WithAnnotation(ipam.SearchDomainsAnnotation, domains)
}

package integration

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const (
	// inClusterFirst and inClusterSecond are what the first two claims on an
	// in-cluster pool get here.
	inClusterFirst  = "10.16.57.88"
	inClusterSecond = "10.16.57.89"
	// inClusterRef names the default in-cluster pool of a namespace.
	inClusterRef = harness.InClusterPoolKind + "/" + harness.DefaultInClusterPool
	// inClusterName is how sentences name that pool.
	inClusterName = `InClusterIPPool "dkp-in-cluster" in namespace "NAMESPACE"`
	// nameservers is the annotation of a pool with its DNS servers.
	nameservers = "capv-static-ip.dev/nameservers"
)

// withPoolOf asks for an address of a pool for one device, which is named by its
// index or its deviceName.
func withPoolOf(device, ref string) harness.Option {
	return harness.WithAnnotation("pools.capv-static-ip.dev/"+device, ref)
}

// inClusterPool makes a pool, and the Cluster of the machines: the in-cluster
// provider serves no claim whose Cluster does not exist.
func (s *scene) inClusterPool(options ...harness.InClusterOption) *unstructured.Unstructured {
	s.Helper()
	pool := harness.InClusterPool(s.ns, options...)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster), pool)
	return pool
}

// inClusterMachine is a machine whose first device asks for an address of the
// default in-cluster pool.
func (s *scene) inClusterMachine(name string, options ...harness.Option) *capvv1.VSphereMachine {
	return harness.Machine(s.ns, name, append([]harness.Option{withPoolOf("0", inClusterRef)}, options...)...)
}

// inClusterInjected is a device as it must be stored when it got this address
// from harness.InClusterPool as it is.
func inClusterInjected(device capvv1.NetworkDeviceSpec, address string) capvv1.NetworkDeviceSpec {
	got := device.DeepCopy()
	got.IPAddrs, got.Gateway4 = []string{address}, "10.16.57.1"
	return *got
}

// pool makes a pool, and the Cluster of the machines: the in-cluster provider
// serves no claim whose Cluster does not exist.
func (s *scene) pool(f harness.Fixture, options ...harness.Option) client.Object {
	s.Helper()
	pool := f.Pool(s.ns, options...)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster), pool)
	return pool
}

// asks is a machine that asks for an address of the provider's default pool.
func (s *scene) asks(f harness.Fixture, name string, options ...harness.Option) *capvv1.VSphereMachine {
	return harness.Machine(s.ns, name, append([]harness.Option{f.Ask(f.PoolName)}, options...)...)
}

// poolText begins a sentence about the provider's default pool.
func poolText(f harness.Fixture) string {
	return f.Reference(f.PoolName).Kind + ` "` + f.PoolName + `" in namespace "NAMESPACE"`
}

// exhausted is the denial of a machine for which the provider's default pool has no
// address, as in exhausted(f, "2 of 2 addresses in use").
func exhausted(f harness.Fixture, cause string) string {
	return poolText(f) + " is exhausted: " + cause + "; add addresses to the pool or delete a machine that holds one"
}

// expectClaims checks that the scene has so many claims.
func (s *scene) expectClaims(want int) {
	s.Helper()
	if claims := s.claims(); len(claims) != want {
		s.Errorf("there are the claims %v, want %d", names(claims), want)
	}
}

// foreignClaim is a claim on the provider's default pool as somebody else makes it.
func (s *scene) foreignClaim(f harness.Fixture, name string, options ...harness.Option) client.Object {
	s.Helper()
	claim := f.Claim(s.ns, name, f.PoolName, options...)
	s.create(claim)
	return claim
}

// rival is somebody else who wants the address that is in use. With the in-cluster
// provider it is a claim, which is bound in the very moment in which the address is
// free. metal3 never looks again at a claim that it had no address for, so there it
// is a machine, which is made when the address is free.
type rival struct {
	*scene
	f     harness.Fixture
	claim client.Object
	name  string
}

func (s *scene) rival(f harness.Fixture, name string) rival {
	s.Helper()
	r := rival{scene: s, f: f, name: name}
	if f.Is(harness.OfInCluster) {
		r.claim = s.foreignClaim(f, name)
	}
	return r
}

// hasNothing returns an error if the rival has an address.
func (r rival) hasNothing() error {
	if r.claim == nil {
		return nil
	}
	return r.isUnbound(r.claim)
}

// gets waits until the rival has this address.
func (r rival) gets(ip string) {
	r.Helper()
	if r.claim != nil {
		r.boundTo(r.claim, ip)
		return
	}
	r.returned(ip)
	r.create(r.asks(r.f, r.name))
	if got := r.ip(r.name); got != ip {
		r.Errorf("the next machine got %s, want the address that came back, %s", got, ip)
	}
}

// isUnbound returns an error if a claim has an address.
func (s *scene) isUnbound(claim client.Object) error {
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		return err
	}
	if address := harness.ProviderOf(claim).ReadClaim(claim).Address; address != "" {
		return fmt.Errorf("claim %s has address %s", claim.GetName(), address)
	}
	return nil
}

// boundTo waits until a claim has this address.
func (s *scene) boundTo(claim client.Object, ip string) {
	s.Helper()
	if address := s.bind(claim); address.IP != ip {
		s.Errorf("claim %s has %s, want %s", claim.GetName(), address.IP, ip)
	}
}

// bind waits until a provider has bound a claim, and reads it as it then stays.
func (s *scene) bind(claim client.Object) ipam.Address {
	s.Helper()
	address, err := harness.WaitBound(s.Context(), s.env.Client, claim, harness.Soon)
	if err != nil {
		s.Fatal(err)
	}
	return address
}

// createGlobal makes an object without a namespace, which goes with the test.
func (s *scene) createGlobal(objects ...client.Object) {
	s.Helper()
	s.create(objects...)
	s.Cleanup(func() {
		for _, object := range objects {
			// The provider refuses to delete a pool that is in use.
			if err := s.env.Client.Delete(context.Background(), object); client.IgnoreNotFound(err) != nil {
				s.Logf("deleting %T %s: %v", object, object.GetName(), err)
			}
		}
	})
}

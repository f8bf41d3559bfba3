package integration

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
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

// allClaims lists the claims of all APIs in the namespace.
func (s *scene) allClaims() []client.Object {
	s.Helper()
	var all []client.Object
	for _, claim := range s.claims() {
		all = append(all, &claim)
	}
	for _, claim := range s.addressClaims() {
		all = append(all, &claim)
	}
	return all
}

// addressClaims lists the claims of the Cluster API IPAM contract.
func (s *scene) addressClaims() []capiipamv1.IPAddressClaim {
	s.Helper()
	list := &capiipamv1.IPAddressClaimList{}
	if err := s.env.Client.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	return list.Items
}

// addressClaim reads the claim of a machine's device.
func (s *scene) addressClaim(machine string, device int) (*capiipamv1.IPAddressClaim, error) {
	claim := &capiipamv1.IPAddressClaim{}
	return claim, s.env.Client.Get(s.Context(), s.key(ipam.ClaimName(machine, device)), claim)
}

// ipAddress finds the object of an address of the contract; there must be no
// second one.
func (s *scene) ipAddress(ip string) (*capiipamv1.IPAddress, error) {
	list := &capiipamv1.IPAddressList{}
	if err := s.env.Client.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
		return nil, err
	}
	var found *capiipamv1.IPAddress
	for i := range list.Items {
		if list.Items[i].Spec.Address != ip {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s and %s are both for %s", found.Name, list.Items[i].Name, ip)
		}
		found = &list.Items[i]
	}
	if found == nil {
		return nil, fmt.Errorf("no address object is for %s", ip)
	}
	return found, nil
}

// inClusterSettled is settled for a machine with one in-cluster address.
func (s *scene) inClusterSettled(name string) string {
	s.Helper()
	ip := s.ip(name)
	s.eventually("machine "+name+" to adopt its claim", func(context.Context) error {
		return s.isInClusterAdopted(name, ip)
	})
	return ip
}

func (s *scene) isInClusterAdopted(name, ip string) error {
	claim, err := s.addressClaim(name, 0)
	if err != nil {
		return err
	}
	owner := capi.OwnerMachine(claim)
	if machine := s.machine(name); owner.UID != machine.UID || owner.Controller == nil || !*owner.Controller {
		return fmt.Errorf("claim %s has owners %v, want machine %s", claim.Name, claim.OwnerReferences, machine.UID)
	}
	if _, moves := claim.Labels[clusterctlv1.ClusterctlMoveLabel]; !moves {
		return fmt.Errorf("claim %s has labels %v, want that of what moves", claim.Name, claim.Labels)
	}
	return s.isInClusterProtected(ip)
}

// isInClusterProtected returns an error unless our finalizer keeps the address.
func (s *scene) isInClusterProtected(ip string) error {
	address, err := s.ipAddress(ip)
	if err != nil {
		return err
	}
	if !slices.Contains(address.Finalizers, ipam.InUseFinalizer) {
		return fmt.Errorf("address %s has finalizers %v, want ours", address.Name, address.Finalizers)
	}
	return nil
}

// inClusterReturned waits until nothing is left of an address but its place in
// the pool.
func (s *scene) inClusterReturned(ip string) {
	s.Helper()
	s.eventually(ip+" to be back in its pool", func(context.Context) error {
		if address, err := s.ipAddress(ip); err == nil {
			return fmt.Errorf("%s exists, deleted at %v, with finalizers %v", address.Name, address.DeletionTimestamp, address.Finalizers)
		}
		return nil
	})
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

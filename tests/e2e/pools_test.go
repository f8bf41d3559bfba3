package e2e

import (
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// pool is a pool with the addresses of a scene from first to last. Whatever the
// provider, it has the same gateway, name servers and search domains.
func (s *scene) pool(of harness.Fixture, name string, first, last byte, options ...harness.Option) client.Object {
	return of.Pool(s.ns, append([]harness.Option{
		harness.WithPoolName(name),
		harness.WithRange(s.address(first), s.address(last)),
		harness.WithGateway(s.address(1)),
		harness.WithNameservers(s.address(2), s.address(3)),
		harness.WithSearchDomains("dkp.example.com,example.com"),
	}, options...)...)
}

// boundTo is the address that a claim is bound to.
func (s *scene) boundTo(by harness.Fixture, name string) (string, error) {
	claim := ipam.EmptyClaim(by.Provider)
	claim.SetNamespace(s.ns)
	claim.SetName(name)
	address, err := harness.WaitBound(s.Context(), s.stack.Plane.Client, claim, harness.Soon)
	if err != nil {
		return "", err
	}
	if address.Claim != name {
		return "", fmt.Errorf("claim %s names address %s, which answers %s", name, address.GetName(), address.Claim)
	}
	return address.IP, nil
}

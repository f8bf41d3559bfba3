package measure

import (
	"context"
	"fmt"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// FirstDevice is the annotation that asks for the first device of a machine.
const FirstDevice = ipam.PoolsAnnotationPrefix + "0"

// Source is where addresses come from: the pools of one IPAM provider.
type Source struct {
	// Name is the provider's.
	Name string
	// Pool is a pool with thousands of addresses of 10.<network>.0.0/16, from the first one on.
	// Machines on one network must not have the same address, whatever pools they are of.
	Pool func(namespace string, network int) client.Object
	// Ask makes a machine ask for an address of that pool.
	Ask harness.Option
	// Claims and Addresses are empty lists of the provider's objects.
	Claims, Addresses client.ObjectList
	// Claim is a bare claim on that pool.
	Claim func(namespace, name string) client.Object
	// HasAddress tells whether a claim is bound.
	HasAddress func(claim client.Object) bool
}

// IsBound tells whether the claim of an event is bound.
func (s Source) IsBound(event watch.Event) bool {
	claim, ok := event.Object.(client.Object)
	return ok && s.HasAddress(claim)
}

// Metal3 gives addresses of an IPPool.
func Metal3() Source {
	return Source{
		Name: "metal3",
		Pool: func(namespace string, network int) client.Object {
			return harness.Pool(namespace, harness.PoolRange(first(network), last(network)))
		},
		Ask:    harness.WithPool(harness.DefaultPool),
		Claims: &ipamv1.IPClaimList{}, Addresses: &ipamv1.IPAddressList{},
		Claim:      func(namespace, name string) client.Object { return harness.Claim(namespace, name, harness.DefaultPool) },
		HasAddress: func(claim client.Object) bool { return claim.(*ipamv1.IPClaim).Status.Address != nil },
	}
}

// InCluster gives addresses of an InClusterIPPool.
func InCluster() Source {
	return Source{
		Name: "in-cluster",
		Pool: func(namespace string, network int) client.Object {
			return harness.InClusterPool(namespace, harness.InClusterAddresses(first(network)+"-"+last(network)),
				harness.InClusterField(int64(16), "prefix"), harness.InClusterField(fmt.Sprintf("10.%d.255.254", network), "gateway"))
		},
		Ask:    harness.WithAnnotation(FirstDevice, harness.InClusterPoolKind+"/"+harness.DefaultInClusterPool),
		Claims: &capiipamv1.IPAddressClaimList{}, Addresses: &capiipamv1.IPAddressList{},
		Claim: func(namespace, name string) client.Object {
			return harness.AddressClaim(namespace, name, harness.InClusterPoolKind, harness.DefaultInClusterPool,
				harness.WithClaimCluster(harness.DefaultCluster))
		},
		HasAddress: IsAnswered,
	}
}

// IsAnswered tells whether a claim of the Cluster API IPAM contract is bound.
func IsAnswered(claim client.Object) bool {
	return claim.(*capiipamv1.IPAddressClaim).Status.AddressRef.Name != ""
}

func first(network int) string { return fmt.Sprintf("10.%d.0.1", network) }

func last(network int) string { return fmt.Sprintf("10.%d.63.254", network) }

// retryAfter is the pause after a failure, which is Cluster API's first one.
const retryAfter = time.Second

// Insist creates a machine that is to be stored with so many addresses. It tries again if
// that fails for want of time, as Cluster API does: where a provider has more to do than it
// can while a request may take, it is denied, or the API server gives up on the webhook. It
// tells how often that was.
func Insist(ctx context.Context, c client.Client, machine *capvv1.VSphereMachine, addresses int) (failed int64, err error) {
	for {
		err := c.Create(ctx, machine)
		switch {
		case err == nil && len(harness.Addresses(machine)) != addresses:
			return failed, fmt.Errorf("creating machine %s: it has addresses %v, want %d", machine.Name, harness.Addresses(machine), addresses)
		case err == nil:
			return failed, nil
		case !apierrors.IsForbidden(err) && !apierrors.IsInternalError(err):
			return failed, fmt.Errorf("creating machine %s: %w", machine.Name, err)
		}
		failed++
		select {
		case <-ctx.Done():
			return failed, fmt.Errorf("creating machine %s: %w", machine.Name, err)
		case <-time.After(retryAfter):
		}
	}
}

package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
)

// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ippools,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ipclaims,verbs=get;list;watch;create;update;patch;delete
// Dropping an owner reference needs the right to delete, where the admission
// plugin OwnerReferencesPermissionEnforcement runs.
// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ipaddresses,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch

const (
	// metal3RequestAnnotation makes metal3 bind a claim to this very address or
	// not at all (ipam/utils.go, IPAddressAnnotation).
	metal3RequestAnnotation = "ipAddress"

	// metal3Address and metal3AddressClaim are metal3's finalizers on the objects of
	// the IPAM contract, as it answers claims of both APIs (ipam/ippool_manager.go).
	metal3Address      = "ipam.metal3.io/ipaddress"
	metal3AddressClaim = "ipam.metal3.io/ipaddressclaim"

	// metal3Exhausted is what metal3 writes into a claim's status.errorMessage
	// (ipam/ippool_manager.go, allocateAddress).
	metal3Exhausted = "Exhausted IP Pools"
)

// Metal3 is the provider behind metal3 IPPools: IPClaim and IPAddress.
type Metal3 struct{}

var _ Provider = Metal3{}

// Metal3Pool refers to the metal3 IPPool of this name.
func Metal3Pool(name string) PoolReference {
	return PoolReference{APIGroup: ipamv1.GroupVersion.Group, Kind: "IPPool", Name: name}
}

// Serves implements Provider.
func (Metal3) Serves(pool PoolReference) bool {
	return pool == Metal3Pool(pool.Name)
}

// Pools implements Provider.
func (Metal3) Pools() []client.Object {
	return []client.Object{&ipamv1.IPPool{}}
}

// IsFull implements Provider. metal3 says on a claim that its pool is exhausted.
func (Metal3) IsFull(client.Object) bool { return false }

// Kinds implements Provider.
func (Metal3) Kinds() (claim, address client.Object) {
	return &ipamv1.IPClaim{}, &ipamv1.IPAddress{}
}

// NewClaim implements Provider.
func (Metal3) NewClaim(name string, machine Machine, pool PoolReference) client.Object {
	return &ipamv1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: machine.Namespace, Name: name},
		Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{Name: pool.Name, Namespace: machine.Namespace}},
	}
}

// CanRequest implements Provider.
func (Metal3) CanRequest(PoolReference) bool { return true }

// Request implements Provider.
func (Metal3) Request(claim client.Object, ip netip.Addr) {
	SetAnnotation(claim, metal3RequestAnnotation, ip.String())
}

// Requested implements Provider: the claim itself asks.
func (Metal3) Requested(string, Binding) client.Object { return nil }

// GoesByName implements Provider (ipam/ippool_manager.go, createAddress).
func (Metal3) GoesByName() bool { return true }

// HonoursFinalizers implements Provider (ipam/ippool_manager.go, updateAddress).
func (Metal3) HonoursFinalizers() bool { return true }

// IsFree implements Provider.
func (Metal3) IsFree(obj client.Object) bool {
	return !slices.ContainsFunc(obj.GetFinalizers(), func(f string) bool {
		return f != ipamv1.IPClaimFinalizer && f != ipamv1.IPAddressFinalizer && f != metal3Address && f != metal3AddressClaim
	})
}

// Gives implements Provider. What is outside the ranges is not handed out.
func (Metal3) Gives(pool Pool, ip netip.Addr) bool {
	object := pool.Object.(*ipamv1.IPPool)
	return metal3Usable(object).Contains(ip) || !metal3Ranges(object).Contains(ip)
}

// WhyNotBound implements Provider. metal3 says nothing while it cannot make an
// address object because there is one of that name.
func (m Metal3) WhyNotBound(ctx context.Context, reader client.Reader, pool Pool, claim Claim) string {
	object := pool.Object.(*ipamv1.IPPool)
	if ip := m.reservedAndUsed(ctx, reader, object, claim); ip.IsValid() {
		return fmt.Sprintf("its spec.preAllocations reserve %s for this claim, which another claim has: correct the pool, or release that claim", ip)
	}
	pools := &ipamv1.IPPoolList{}
	if err := reader.List(ctx, pools, client.InNamespace(object.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return ""
	}
	for i := range pools.Items {
		other := &pools.Items[i]
		if other.Name != object.Name && other.Spec.NamePrefix == object.Spec.NamePrefix && metal3Ranges(other).Overlaps(metal3Ranges(object)) {
			return fmt.Sprintf("IPPool %q has some of its addresses and the same namePrefix %q, so that their address objects have the same names: "+
				"give one of the pools another namePrefix", other.Name, other.Spec.NamePrefix)
		}
	}
	return ""
}

// reservedAndUsed is the address that the pool reserves for a claim, if another
// claim has it.
func (m Metal3) reservedAndUsed(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool, claim Claim) netip.Addr {
	ip, err := netip.ParseAddr(string(pool.Spec.PreAllocations[claim.GetName()]))
	if err != nil {
		return netip.Addr{}
	}
	used, err := m.used(ctx, reader, pool)
	if err != nil || !slices.Contains(used, ip) {
		return netip.Addr{}
	}
	return ip
}

// Twin implements Provider: metal3 serves IPAddressClaims on its pools, too.
func (Metal3) Twin() Provider { return Contract{} }

// Abandons implements Provider. metal3 looks at claims pool by pool, so it never
// comes to those of a pool that does not exist.
func (Metal3) Abandons(ctx context.Context, cached, live client.Reader, claim Claim) (bool, error) {
	key := client.ObjectKey{Namespace: claim.GetNamespace(), Name: claim.Pool.Name}
	for _, reader := range []client.Reader{cached, live} {
		switch err := reader.Get(ctx, key, &ipamv1.IPPool{}); {
		case err == nil:
			return false, nil
		case !IsAbsent(err):
			return false, fmt.Errorf("reading IPPool %s: %w", key, err)
		}
	}
	return true, nil
}

// Claim implements Provider.
func (Metal3) Claim(obj client.Object) Claim {
	claim := obj.(*ipamv1.IPClaim)
	view := Claim{Object: claim, Pool: Metal3Pool(claim.Spec.Pool.Name)}
	if claim.Status.Address != nil {
		view.Address = claim.Status.Address.Name
	}
	if claim.Status.ErrorMessage != nil {
		view.Failure = *claim.Status.ErrorMessage
		view.Exhausted = view.Failure == metal3Exhausted
	}
	return view
}

// Address implements Provider.
func (Metal3) Address(obj client.Object) Address {
	address := obj.(*ipamv1.IPAddress)
	return Address{
		Object: address,
		Pool:   Metal3Pool(address.Spec.Pool.Name),
		Claim:  address.Spec.Claim.Name,
		IP:     string(address.Spec.Address),
	}
}

// Pool implements Provider. metal3 says nothing about a pool that it does not
// serve, so what it would ignore is looked for here.
func (m Metal3) Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error) {
	namespace := machine.Namespace
	pool := &ipamv1.IPPool{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: want.Pool.Name}, pool)
	switch {
	case meta.IsNoMatchError(err):
		return Pool{}, Refuse(PoolNotFound, "IPPool %q in namespace %q, asked for by %s, cannot exist: "+
			"the metal3 IP Address Manager is not installed; install it", want.Pool.Name, namespace, want.AskedBy)
	case apierrors.IsNotFound(err):
		return Pool{}, Refuse(PoolNotFound, "IPPool %q not found in namespace %q, asked for by %s: "+
			"create the pool or correct its name there", want.Pool.Name, namespace, want.AskedBy)
	case err != nil:
		return Pool{}, fmt.Errorf("reading IPPool %s/%s: %w", namespace, want.Pool.Name, err)
	case !pool.DeletionTimestamp.IsZero():
		return Pool{}, Refuse(PoolTerminating, "IPPool %q in namespace %q is being deleted: "+
			"name another pool in %s", pool.Name, namespace, want.AskedBy)
	}
	if err := m.served(ctx, reader, pool); err != nil {
		return Pool{}, err
	}
	used, err := m.used(ctx, reader, pool)
	if err != nil {
		return Pool{}, err
	}
	return Pool{
		Object:    pool,
		Reference: want.Pool,
		Total:     size(metal3Usable(pool)),
		Free:      func(claims []string) (uint64, uint64) { return metal3Free(pool, used, claims) },
	}, nil
}

// served refuses a pool that metal3 ignores: one whose Cluster does not exist
// or is paused (controllers/ippool_controller.go, Reconcile).
func (Metal3) served(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool) error {
	if pool.Spec.ClusterName == nil {
		return nil
	}
	cluster := &capi.Cluster{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: pool.Namespace, Name: *pool.Spec.ClusterName}, cluster)
	switch {
	case IsAbsent(err):
		return Refuse(PoolNotServed, "IPPool %q in namespace %q is not served: its spec.clusterName is %q, and that Cluster does not exist; "+
			"create the Cluster or correct the pool", pool.Name, pool.Namespace, *pool.Spec.ClusterName)
	case err != nil:
		return fmt.Errorf("reading Cluster %s/%s of IPPool %s: %w", pool.Namespace, *pool.Spec.ClusterName, pool.Name, err)
	case cluster.IsPaused() || annotations.HasPaused(pool):
		return Refuse(PoolNotServed, "IPPool %q in namespace %q is not served: it or its Cluster %q is paused; "+
			"resume it", pool.Name, pool.Namespace, cluster.Name)
	}
	return nil
}

// used lists the addresses that metal3 counts as taken: those of the pool's
// address objects of both claim APIs, terminating ones included. metal3 goes by
// the name of the pool alone.
func (m Metal3) used(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool) ([]netip.Addr, error) {
	addresses := &ipamv1.IPAddressList{}
	err := reader.List(ctx, addresses, client.InNamespace(pool.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of IPPool %s/%s: %w", pool.Namespace, pool.Name, err)
	}
	used := make([]netip.Addr, 0, len(addresses.Items))
	for i := range addresses.Items {
		address := &addresses.Items[i]
		if address.Spec.Pool.Name != pool.Name {
			continue
		}
		if a, err := netip.ParseAddr(string(address.Spec.Address)); err == nil {
			used = append(used, a)
		}
	}
	return m.usedByTwin(ctx, reader, pool, used)
}

// usedByTwin adds the addresses that metal3 handed to IPAddressClaims.
func (Metal3) usedByTwin(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool, used []netip.Addr) ([]netip.Addr, error) {
	addresses := &capiipamv1.IPAddressList{}
	err := reader.List(ctx, addresses, client.InNamespace(pool.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil && !IsAbsent(err) {
		return nil, fmt.Errorf("listing the addresses of IPPool %s/%s for IPAddressClaims: %w", pool.Namespace, pool.Name, err)
	}
	ranges := metal3Ranges(pool)
	for i := range addresses.Items {
		spec := &addresses.Items[i].Spec
		if spec.PoolRef.Name != pool.Name {
			continue
		}
		if a, err := netip.ParseAddr(spec.Address); err == nil && ranges.Contains(a) {
			used = append(used, a)
		}
	}
	return used, nil
}

// Bind implements Provider.
func (Metal3) Bind(pool Pool, address Address, want Want) (Binding, error) {
	metal3Address := address.Object.(*ipamv1.IPAddress)
	answer := answer{IP: address.IP, Prefix: metal3Address.Spec.Prefix}
	if gateway := metal3Address.Spec.Gateway; gateway != nil {
		answer.Gateway = string(*gateway)
	}
	binding, err := answer.bind(pool, address.Claim, want)
	if err != nil {
		return Binding{}, err
	}
	ranges := metal3Ranges(pool.Object.(*ipamv1.IPPool))
	if !ranges.Contains(binding.Address.Addr()) {
		return Binding{}, unusable(pool, "it is outside the pool's ranges")
	}
	for _, server := range metal3Address.Spec.DNSServers {
		binding.Nameservers = append(binding.Nameservers, string(server))
	}
	return binding, checkFit(pool, binding, metal3Family(pool.Object.(*ipamv1.IPPool)))
}

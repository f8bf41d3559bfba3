package metal3

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/kube"
)

// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ippools,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ipclaims,verbs=get;list;watch;create;update;patch;delete
// Dropping an owner reference needs the right to delete, where the admission
// plugin OwnerReferencesPermissionEnforcement runs.
// +kubebuilder:rbac:groups=ipam.metal3.io,resources=ipaddresses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch

const (
	// RequestAnnotation makes metal3 bind a claim to this very address or
	// not at all (ipam/utils.go, IPAddressAnnotation).
	RequestAnnotation = "ipAddress"

	// addressFinalizer and claimFinalizer are metal3's finalizers on the objects of
	// the IPAM contract, as it answers claims of both APIs (ipam/ippool_manager.go).
	addressFinalizer = "ipam.metal3.io/ipaddress"
	claimFinalizer   = "ipam.metal3.io/ipaddressclaim"

	// exhausted is what metal3 writes into a claim's status.errorMessage
	// (ipam/ippool_manager.go, allocateAddress).
	exhausted = "Exhausted IP Pools"
)

// Provider is the provider behind metal3 IPPools: IPClaim and IPAddress.
type Provider struct{}

var (
	_ ipam.Provider  = Provider{}
	_ ipam.Requester = Provider{}
	_ ipam.Abandoner = Provider{}
	_ ipam.Twinned   = Provider{}
	_ ipam.Shorthand = Provider{}
	_ ipam.Ranged    = Provider{}
	_ ipam.Naming    = Provider{}
)

// Name implements ipam.Provider.
func (Provider) Name() string { return "metal3" }

// PoolNamed refers to the metal3 IPPool of this name.
func PoolNamed(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: ipamv1.GroupVersion.Group, Kind: "IPPool", Name: name}
}

// Serves implements ipam.Pools.
func (Provider) Serves(pool ipam.PoolReference) bool {
	return pool == PoolNamed(pool.Name)
}

// PoolKinds implements ipam.Pools.
func (Provider) PoolKinds() []client.Object {
	return []client.Object{&ipamv1.IPPool{}}
}

// IsFull implements ipam.Pools. metal3 says on a claim that its pool is exhausted.
func (Provider) IsFull(client.Object) bool { return false }

// Kinds implements ipam.Objects.
func (Provider) Kinds() (claim, address client.Object) {
	return &ipamv1.IPClaim{}, &ipamv1.IPAddress{}
}

// NewClaim implements ipam.Claims.
func (Provider) NewClaim(spec ipam.ClaimSpec) client.Object {
	namespace := spec.Machine.Namespace
	claim := &ipamv1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: spec.Name},
		Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{Name: spec.Pool.Name, Namespace: namespace}},
	}
	if spec.IP.IsValid() {
		claim.Annotations = map[string]string{RequestAnnotation: spec.IP.String()}
	}
	// metal3 puts its finalizer on each claim that it looks at, which is a write of its
	// own (ipam/ippool_manager.go, createAddress). A claim that comes with it saves that.
	// Without metal3 nobody would take it off: it has to be seen to serve the pool.
	if isServed(spec.PoolObject) {
		controllerutil.AddFinalizer(claim, ipamv1.IPClaimFinalizer)
	}
	return claim
}

// isServed tells whether metal3 has looked at a pool: it protects it, and says when it
// last wrote its status. A copy that was moved or restored has the finalizer alone,
// whether or not there is a metal3 where it came to.
func isServed(pool client.Object) bool {
	object, ok := pool.(*ipamv1.IPPool)
	return ok && controllerutil.ContainsFinalizer(object, ipamv1.IPPoolFinalizer) && object.Status.LastUpdated != nil
}

// CanRequest implements ipam.Requester.
func (Provider) CanRequest(ipam.PoolReference) bool { return true }

// Request implements ipam.Requester.
func (Provider) Request(claim client.Object, ip netip.Addr) {
	kube.SetAnnotation(claim, RequestAnnotation, ip.String())
}

// Requested implements ipam.Requester: the claim itself asks.
func (Provider) Requested(string, ipam.Binding) client.Object { return nil }

// Traits implements ipam.Claims (ipam/ippool_manager.go, createAddress and
// updateAddress).
func (Provider) Traits() ipam.Traits {
	return ipam.Traits{BindsByName: true, KeepsFinalizedClaims: true}
}

// ByName implements ipam.Shorthand.
func (Provider) ByName(name string) ipam.PoolReference { return PoolNamed(name) }

// Shared implements ipam.Shorthand: every IPPool is its namespace's.
func (Provider) Shared(string) (ipam.PoolReference, bool) { return ipam.PoolReference{}, false }

// EmptyPool implements ipam.Shorthand.
func (Provider) EmptyPool(ipam.PoolReference) client.Object { return &ipamv1.IPPool{} }

// HasOnlyOwnFinalizers implements ipam.Objects.
func (Provider) HasOnlyOwnFinalizers(obj client.Object) bool {
	return !slices.ContainsFunc(obj.GetFinalizers(), func(f string) bool {
		return f != ipamv1.IPClaimFinalizer && f != ipamv1.IPAddressFinalizer && f != addressFinalizer && f != claimFinalizer
	})
}

// Gives implements ipam.Pools. What is outside the ranges is not handed out.
func (Provider) Gives(pool ipam.Pool, ip netip.Addr) bool {
	object := pool.Object.(*ipamv1.IPPool)
	return usableOf(object).Contains(ip) || !rangesOf(object).Contains(ip)
}

// WhyNotBound implements ipam.Claims. metal3 says nothing while it cannot make an
// address object because there is one of that name.
func (m Provider) WhyNotBound(ctx context.Context, reader client.Reader, pool ipam.Pool, claim ipam.Claim) string {
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
		if other.Name != object.Name && other.Spec.NamePrefix == object.Spec.NamePrefix && rangesOf(other).Overlaps(rangesOf(object)) {
			return fmt.Sprintf("IPPool %q has some of its addresses and the same namePrefix %q, so that their address objects have the same names: "+
				"give one of the pools another namePrefix", other.Name, other.Spec.NamePrefix)
		}
	}
	return ""
}

// reservedAndUsed is the address that the pool reserves for a claim, if another
// claim has it.
func (m Provider) reservedAndUsed(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool, claim ipam.Claim) netip.Addr {
	ip, err := netip.ParseAddr(string(pool.Spec.PreAllocations[claim.GetName()]))
	if err != nil {
		return netip.Addr{}
	}
	used, err := m.used(ctx, reader, pool)
	if err != nil || !used.Has(ip) {
		return netip.Addr{}
	}
	return ip
}

// Twin implements ipam.Twinned: metal3 serves IPAddressClaims on its pools, too.
func (Provider) Twin() ipam.Objects { return contract.Provider{} }

// Abandons implements ipam.Abandoner. metal3 looks at claims pool by pool, so it never
// comes to those of a pool that does not exist.
func (m Provider) Abandons(ctx context.Context, cached, live client.Reader, claim ipam.Claim) (bool, error) {
	pool, err := m.Read(ctx, cached, live, claim.GetNamespace(), claim.Pool)
	return err == nil && pool == nil, err
}

// Read implements ipam.Pools.
func (Provider) Read(ctx context.Context, cached, live client.Reader, namespace string, ref ipam.PoolReference) (client.Object, error) {
	key := client.ObjectKey{Namespace: namespace, Name: ref.Name}
	for _, reader := range []client.Reader{cached, live} {
		pool := &ipamv1.IPPool{}
		switch err := reader.Get(ctx, key, pool); {
		case err == nil:
			return pool, nil
		case !kube.IsAbsent(err):
			return nil, fmt.Errorf("reading IPPool %s: %w", key, err)
		}
	}
	return nil, nil
}

// ReadClaim implements ipam.Objects.
func (Provider) ReadClaim(obj client.Object) ipam.Claim {
	claim := obj.(*ipamv1.IPClaim)
	view := ipam.Claim{Object: claim, Pool: PoolNamed(claim.Spec.Pool.Name)}
	view.Requested, _ = netip.ParseAddr(claim.Annotations[RequestAnnotation])
	if claim.Status.Address != nil {
		view.Address = claim.Status.Address.Name
	}
	if claim.Status.ErrorMessage != nil {
		view.Failure = *claim.Status.ErrorMessage
		view.Exhausted = view.Failure == exhausted
	}
	return view
}

// ReadAddress implements ipam.Objects.
func (Provider) ReadAddress(obj client.Object) ipam.Address {
	address := obj.(*ipamv1.IPAddress)
	return ipam.Address{
		Object: address,
		Pool:   PoolNamed(address.Spec.Pool.Name),
		Claim:  address.Spec.Claim.Name,
		IP:     string(address.Spec.Address),
	}
}

// NamePrefix implements ipam.Naming.
func (Provider) NamePrefix(address ipam.Address) (string, bool) {
	return strings.CutSuffix(address.GetName(), nameEnding(address.IP))
}

// Pool implements ipam.Pools. metal3 says nothing about a pool that it does not
// serve, so what it would ignore is looked for here.
func (m Provider) Pool(ctx context.Context, reader client.Reader, machine ipam.Machine, want ipam.Want) (ipam.Pool, error) {
	namespace := machine.Namespace
	pool := &ipamv1.IPPool{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: want.Pool.Name}, pool)
	switch {
	case kube.IsAbsent(err):
		return ipam.Pool{}, absent(namespace, want, apierrors.IsNotFound(err))
	case err != nil:
		return ipam.Pool{}, fmt.Errorf("reading IPPool %s/%s: %w", namespace, want.Pool.Name, err)
	case !pool.DeletionTimestamp.IsZero():
		return ipam.Pool{}, ipam.Refuse(ipam.PoolTerminating, "IPPool %q in namespace %q is being deleted: "+
			"name another pool in %s", pool.Name, namespace, want.AskedBy)
	}
	if err := m.served(ctx, reader, pool); err != nil {
		return ipam.Pool{}, err
	}
	if err := checkDNS(pool, want.Pool.In(namespace)); err != nil {
		return ipam.Pool{}, err
	}
	used, err := m.used(ctx, reader, pool)
	if err != nil {
		return ipam.Pool{}, err
	}
	return ipam.Pool{
		Object:    pool,
		Reference: want.Pool,
		Total:     size(usableOf(pool)),
		Free:      freeOf(pool, used),
		Offers:    func(ip netip.Addr, claim string) (bool, bool) { return offers(pool, used, ip, claim) },
		Taking:    takingOf(pool, used),
	}, nil
}

// absent refuses a pool that does not exist, though others of its kind may, or
// cannot.
func absent(namespace string, want ipam.Want, served bool) error {
	var kinds []string
	for _, other := range want.AlsoMissing {
		kinds = append(kinds, other.Kind)
	}
	others := strings.Join(kinds, " and no ")
	switch {
	case served && others == "":
		return ipam.Refuse(ipam.PoolNotFound, "IPPool %q not found in namespace %q, asked for by %s: "+
			"create the pool or correct its name there", want.Pool.Name, namespace, want.AskedBy)
	case served:
		return ipam.Refuse(ipam.PoolNotFound, "no IPPool and no %s %q can be used in namespace %q, asked for by %s: "+
			"create the one that you mean or correct its name there", others, want.Pool.Name, namespace, want.AskedBy)
	case others == "":
		return ipam.Refuse(ipam.PoolNotFound, "IPPool %q in namespace %q, asked for by %s, cannot exist: "+
			"the metal3 IP Address Manager is not installed; install it", want.Pool.Name, namespace, want.AskedBy)
	}
	return ipam.Refuse(ipam.PoolNotFound, "no IPPool and no %s %q can be used in namespace %q, asked for by %s: "+
		"create the one that you mean or correct its name there; for an IPPool install the metal3 IP Address Manager first", others, want.Pool.Name, namespace, want.AskedBy)
}

// checkDNS refuses a pool whose devices could not hold what it says for all of its
// addresses, or for those of one entry.
func checkDNS(pool *ipamv1.IPPool, name string) error {
	lists := [][]ipamv1.IPAddressStr{pool.Spec.DNSServers}
	for i := range pool.Spec.Pools {
		lists = append(lists, pool.Spec.Pools[i].DNSServers)
	}
	for _, list := range lists {
		servers := make([]string, len(list))
		for i, server := range list {
			servers[i] = string(server)
		}
		if err := ipam.CheckDNS(name, servers, ipam.SearchDomains(pool)); err != nil {
			return err
		}
	}
	return nil
}

// served refuses a pool that metal3 ignores: one whose Cluster does not exist
// or is paused (controllers/ippool_controller.go, Reconcile).
func (Provider) served(ctx context.Context, reader client.Reader, pool *ipamv1.IPPool) error {
	if pool.Spec.ClusterName == nil {
		return nil
	}
	cluster := &capi.Cluster{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: pool.Namespace, Name: *pool.Spec.ClusterName}, cluster)
	switch {
	case kube.IsAbsent(err):
		return ipam.Refuse(ipam.PoolNotServed, "IPPool %q in namespace %q is not served: its spec.clusterName is %q, and that Cluster does not exist; "+
			"create the Cluster or correct the pool", pool.Name, pool.Namespace, *pool.Spec.ClusterName)
	case err != nil:
		return fmt.Errorf("reading Cluster %s/%s of IPPool %s: %w", pool.Namespace, *pool.Spec.ClusterName, pool.Name, err)
	case cluster.IsPaused() || annotations.HasPaused(pool):
		return ipam.Refuse(ipam.PoolNotServed, "IPPool %q in namespace %q is not served: it or its Cluster %q is paused; "+
			"resume it", pool.Name, pool.Namespace, cluster.Name)
	}
	return nil
}

// Bind implements ipam.Claims.
func (Provider) Bind(pool ipam.Pool, address ipam.Address, want ipam.Want) (ipam.Binding, error) {
	metal3Address := address.Object.(*ipamv1.IPAddress)
	answer := ipam.Answer{IP: address.IP, Prefix: metal3Address.Spec.Prefix}
	if gateway := metal3Address.Spec.Gateway; gateway != nil {
		answer.Gateway = string(*gateway)
	}
	binding, err := answer.Bind(pool, address.Claim, want)
	if err != nil {
		return ipam.Binding{}, err
	}
	ranges := rangesOf(pool.Object.(*ipamv1.IPPool))
	if !ranges.Contains(binding.Address.Addr()) {
		return ipam.Binding{}, ipam.Unusable(pool, "it is outside the pool's ranges")
	}
	for _, server := range metal3Address.Spec.DNSServers {
		binding.Nameservers = append(binding.Nameservers, string(server))
	}
	return binding, ipam.CheckFit(pool, binding, familyOf(pool.Object.(*ipamv1.IPPool)))
}

package contract

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=inclusterippools;globalinclusterippools,verbs=get;list;watch
// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=ipaddressclaims,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=ipaddresses,verbs=get;list;watch;create;patch;delete

const (
	// hostnameAnnotation on a claim spares providers that register host names
	// (the Infoblox provider) the search for a Machine, which does not exist yet.
	hostnameAnnotation = "ipam.cluster.x-k8s.io/hostname"

	// ownFinalizers begins the names of the finalizers that providers built
	// on the in-cluster provider's pkg/ipamutil put on claims and addresses.
	ownFinalizers = "ipam.cluster.x-k8s.io/"
	// protectPoolFinalizer and releaseAddressFinalizer are those of the in-cluster
	// provider on the pools and claims that it serves.
	protectPoolFinalizer    = ownFinalizers + "ProtectPool"
	releaseAddressFinalizer = ownFinalizers + "ReleaseAddress"

	// maxGraceSeconds is what the API allows of a grace period, so that it fits a
	// duration.
	maxGraceSeconds = 1 << 31

	// AggregationLabel on a ClusterRole gives its rules to the manager: that is
	// how it may read pools of kinds that it does not know.
	AggregationLabel = "capv-static-ip.dev/aggregate-to-manager"
)

// Kinds of pools of the in-cluster provider.
const (
	InClusterKind       = "InClusterIPPool"
	GlobalInClusterKind = "GlobalInClusterIPPool"
)

var inClusterVersion = schema.GroupVersion{Group: ipamv1.GroupVersion.Group, Version: "v1alpha2"}

// Provider is the provider behind every pool that honours the CAPI IPAM
// contract: IPAddressClaim and IPAddress.
// See https://cluster-api.sigs.k8s.io/developer/providers/contracts/ipam
type Provider struct {
	// Mapper knows which kinds are served, in which version and scope.
	Mapper meta.RESTMapper
	// Live reads pools of kinds that are not watched.
	Live client.Reader
}

var (
	_ ipam.Provider  = Provider{}
	_ ipam.Requester = Provider{}
	_ ipam.Shorthand = Provider{}
	_ ipam.Lingering = Provider{}
)

// Name implements ipam.Provider.
func (Provider) Name() string { return "contract" }

// InClusterPool refers to the InClusterIPPool of this name.
func InClusterPool(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: inClusterVersion.Group, Kind: InClusterKind, Name: name}
}

// AddToScheme adds the claim API in the version that is served: v1beta2,
// or v1beta1 where there is only that. What is read and written here has the
// same form in both.
func AddToScheme(scheme *runtime.Scheme, mapper meta.RESTMapper) error {
	claim := ipamv1.GroupVersion.WithKind("IPAddressClaim").GroupKind()
	version := ipamv1.GroupVersion
	if _, err := mapper.RESTMapping(claim, version.Version); meta.IsNoMatchError(err) {
		if _, err := mapper.RESTMapping(claim, "v1beta1"); err == nil {
			version.Version = "v1beta1"
		}
	} else if err != nil {
		return fmt.Errorf("looking for the version of %s: %w", claim, err)
	}
	scheme.AddKnownTypes(version, &ipamv1.IPAddressClaim{}, &ipamv1.IPAddressClaimList{}, &ipamv1.IPAddress{}, &ipamv1.IPAddressList{})
	metav1.AddToGroupVersion(scheme, version)
	return nil
}

// Serves implements ipam.Pools. Whatever kind is asked for may honour the contract.
func (Provider) Serves(ipam.PoolReference) bool { return true }

// PoolKinds implements ipam.Pools.
func (Provider) PoolKinds() []client.Object {
	return []client.Object{
		unstructuredPool(inClusterVersion.WithKind(InClusterKind)),
		unstructuredPool(inClusterVersion.WithKind(GlobalInClusterKind)),
	}
}

func unstructuredPool(kind schema.GroupVersionKind) *unstructured.Unstructured {
	pool := &unstructured.Unstructured{}
	pool.SetGroupVersionKind(kind)
	return pool
}

// IsFull implements ipam.Pools. The in-cluster provider says nothing on a claim
// that it cannot bind.
func (Provider) IsFull(pool client.Object) bool {
	free, found, err := unstructured.NestedInt64(pool.(*unstructured.Unstructured).Object, "status", "ipAddresses", "free")
	return err == nil && found && free <= 0
}

// Kinds implements ipam.Objects.
func (Provider) Kinds() (claim, address client.Object) {
	return &ipamv1.IPAddressClaim{}, &ipamv1.IPAddress{}
}

// NewClaim implements ipam.Claims.
func (c Provider) NewClaim(spec ipam.ClaimSpec) client.Object {
	claim := &ipamv1.IPAddressClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   spec.Machine.Namespace,
			Name:        spec.Name,
			Annotations: map[string]string{hostnameAnnotation: hostOf(spec)},
		},
		Spec: ipamv1.IPAddressClaimSpec{
			ClusterName: spec.Machine.Cluster,
			PoolRef:     ipamv1.IPPoolReference{APIGroup: spec.Pool.APIGroup, Kind: spec.Pool.Kind, Name: spec.Pool.Name},
		},
	}
	// The in-cluster provider only puts its finalizer on a claim when it first looks at
	// it, and binds it when it sees that write (pkg/ipamutil/reconciler.go, Reconcile). A
	// claim that comes with it is bound at the first look. Without the provider nobody
	// would take it off: it has to be seen to serve the pool.
	if c.isInCluster(spec.Pool) && isServed(spec.PoolObject) {
		controllerutil.AddFinalizer(claim, releaseAddressFinalizer)
	}
	return claim
}

// isServed tells whether the in-cluster provider has looked at a pool: it protects and
// counts it. A copy that was moved or restored has the finalizer alone, whether or not
// there is a provider where it came to. Of others than its pools nothing is told.
func isServed(pool client.Object) bool {
	object, ok := pool.(*unstructured.Unstructured)
	if !ok || !controllerutil.ContainsFinalizer(object, protectPoolFinalizer) {
		return false
	}
	_, isCounted, err := unstructured.NestedFieldNoCopy(object.Object, "status", "ipAddresses")
	return isCounted && err == nil
}

// CanRequest implements ipam.Requester. The contract has no such thing, but the
// in-cluster provider does.
func (c Provider) CanRequest(pool ipam.PoolReference) bool { return c.isInCluster(pool) }

func (Provider) isInCluster(pool ipam.PoolReference) bool {
	return pool.APIGroup == inClusterVersion.Group && (pool.Kind == InClusterKind || pool.Kind == GlobalInClusterKind)
}

// Request implements ipam.Requester.
func (Provider) Request(client.Object, netip.Addr) {}

// Gives implements ipam.Pools.
func (Provider) Gives(pool ipam.Pool, ip netip.Addr) bool {
	content := pool.Object.(*unstructured.Unstructured).Object
	gateway, _, _ := unstructured.NestedString(content, "spec", "gateway")
	bits, _, _ := unstructured.NestedInt64(content, "spec", "prefix")
	b := ipam.Binding{Address: netip.PrefixFrom(ip, int(bits))}
	b.Gateway, _ = netip.ParseAddr(gateway)
	b.Nameservers, _ = nameservers(pool, pool.GetName())
	return ipam.CheckFit(pool, b, "") == nil
}

// WhyNotBound implements ipam.Claims.
func (Provider) WhyNotBound(_ context.Context, _ client.Reader, pool ipam.Pool, claim ipam.Claim) string {
	if claim.Waits == "" {
		return ""
	}
	return fmt.Sprintf("its IPAM provider says %q on the claim; see the status of the pool and the log of the IPAM controller of %s", claim.Waits, pool.Reference.APIGroup)
}

// Requested implements ipam.Requester. The in-cluster provider takes an address of the
// claim's name that exists for the one that it has given to the claim
// (internal/controllers/ipaddressclaim_address.go, EnsureAddress).
func (c Provider) Requested(namespace string, b ipam.Binding) client.Object {
	if !c.CanRequest(b.Pool) {
		return nil
	}
	address := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: b.Claim},
		Spec: ipamv1.IPAddressSpec{
			ClaimRef: ipamv1.IPAddressClaimReference{Name: b.Claim},
			PoolRef:  ipamv1.IPPoolReference{APIGroup: b.Pool.APIGroup, Kind: b.Pool.Kind, Name: b.Pool.Name},
			Address:  b.Address.Addr().String(),
			Prefix:   new(int32(b.Address.Bits())), //nolint:gosec // it is 128 at the most
		},
	}
	if b.Gateway.IsValid() {
		address.Spec.Gateway = b.Gateway.String()
	}
	return address
}

// Traits implements ipam.Claims: none. The in-cluster provider makes an address
// that it finds the claim's own, and frees it whatever is on the claim; the
// contract asks for neither.
func (Provider) Traits() ipam.Traits { return ipam.Traits{} }

// ByName implements ipam.Shorthand.
func (Provider) ByName(name string) ipam.PoolReference { return InClusterPool(name) }

// Shared implements ipam.Shorthand.
func (Provider) Shared(name string) (ipam.PoolReference, bool) {
	return ipam.PoolReference{APIGroup: inClusterVersion.Group, Kind: GlobalInClusterKind, Name: name}, true
}

// EmptyPool implements ipam.Shorthand.
func (Provider) EmptyPool(pool ipam.PoolReference) client.Object {
	return unstructuredPool(inClusterVersion.WithKind(pool.Kind))
}

// HasOnlyOwnFinalizers implements ipam.Objects.
func (Provider) HasOnlyOwnFinalizers(obj client.Object) bool {
	return !slices.ContainsFunc(obj.GetFinalizers(), func(f string) bool {
		return !strings.HasPrefix(f, ownFinalizers)
	})
}

// Pool implements ipam.Pools.
func (c Provider) Pool(ctx context.Context, reader client.Reader, machine ipam.Machine, want ipam.Want) (ipam.Pool, error) {
	kind := schema.GroupKind{Group: want.Pool.APIGroup, Kind: want.Pool.Kind}
	mapping, watched, err := c.mapping(kind)
	if meta.IsNoMatchError(err) {
		return ipam.Pool{}, ipam.Refuse(ipam.PoolNotFound, "%s, asked for by %s, cannot exist: no kind %s is served; install its IPAM provider or correct the kind",
			want.Pool.In(machine.Namespace), want.AskedBy, kind)
	}
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("looking for kind %s: %w", kind, err)
	}
	key := client.ObjectKey{Name: want.Pool.Name}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		key.Namespace = machine.Namespace
	}
	name := want.Pool.In(key.Namespace)
	by := readers{pool: reader, addresses: reader}
	if !watched {
		reader = c.Live
		by.pool = reader
	}

	pool := unstructuredPool(mapping.GroupVersionKind)
	err = reader.Get(ctx, key, pool)
	_, handsOutPrefixes, _ := unstructured.NestedInt64(pool.Object, "spec", "allocationPrefixLength")
	switch {
	case apierrors.IsNotFound(err):
		return ipam.Pool{}, ipam.Refuse(ipam.PoolNotFound, "%s not found, asked for by %s: create the pool or correct its name there", name, want.AskedBy)
	case apierrors.IsForbidden(err):
		return ipam.Pool{}, ipam.Refuse(ipam.PoolForbidden, "%s cannot be read: grant get on %s to capv-static-ip, in a ClusterRole with label %s: \"true\"",
			name, mapping.Resource.GroupResource(), AggregationLabel)
	case err != nil:
		return ipam.Pool{}, fmt.Errorf("reading %s: %w", name, err)
	case !pool.GetDeletionTimestamp().IsZero():
		return ipam.Pool{}, ipam.Refuse(ipam.PoolTerminating, "%s is being deleted: name another pool in %s", name, want.AskedBy)
	case handsOutPrefixes:
		return ipam.Pool{}, ipam.Refuse(ipam.PoolInvalid, "%s hands out prefixes, and a device needs an address: name a pool of addresses in %s", name, want.AskedBy)
	}
	if err := served(ctx, reader, pool, name, machine); err != nil {
		return ipam.Pool{}, err
	}
	servers, err := nameservers(pool, name)
	if err != nil {
		return ipam.Pool{}, err
	}
	if err := ipam.CheckDNS(name, servers, ipam.SearchDomains(pool)); err != nil {
		return ipam.Pool{}, err
	}
	return c.counted(ctx, by, machine, ipam.Pool{Object: pool, Reference: want.Pool, Silent: true, Watched: watched})
}

// Read implements ipam.Pools.
func (c Provider) Read(ctx context.Context, cached, live client.Reader, namespace string, ref ipam.PoolReference) (client.Object, error) {
	mapping, watched, err := c.mapping(schema.GroupKind{Group: ref.APIGroup, Kind: ref.Kind})
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the kind of %s: %w", ref, err)
	}
	key := client.ObjectKey{Name: ref.Name}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		key.Namespace = namespace
	}
	readers := []client.Reader{live}
	if watched {
		readers = []client.Reader{cached, live}
	}
	for _, reader := range readers {
		pool := unstructuredPool(mapping.GroupVersionKind)
		err := reader.Get(ctx, key, pool)
		switch {
		case err == nil:
			return pool, nil
		case !kube.IsAbsent(err):
			return nil, fmt.Errorf("reading %s: %w", ref.In(key.Namespace), err)
		}
	}
	return nil, nil
}

// Lingers implements ipam.Lingering. The in-cluster provider holds the claim, and with
// it the address, for its grace period (internal/controllers/ipaddressclaim_address.go,
// ReleaseAddress).
func (c Provider) Lingers(pool client.Object) time.Duration {
	object, ok := pool.(*unstructured.Unstructured)
	kind := pool.GetObjectKind().GroupVersionKind()
	if !ok || !c.CanRequest(ipam.PoolReference{APIGroup: kind.Group, Kind: kind.Kind}) {
		return 0
	}
	seconds, _, err := unstructured.NestedInt64(object.Object, "spec", "addressReuseGracePeriodSeconds")
	if err != nil {
		return 0
	}
	return time.Duration(max(0, min(seconds, maxGraceSeconds))) * time.Second
}

// mapping finds the version and the scope of a kind of pool, and whether it is
// watched.
func (c Provider) mapping(kind schema.GroupKind) (mapping *meta.RESTMapping, watched bool, err error) {
	watched = slices.ContainsFunc(c.PoolKinds(), func(pool client.Object) bool {
		return pool.GetObjectKind().GroupVersionKind().GroupKind() == kind
	})
	if watched {
		mapping, err = c.Mapper.RESTMapping(kind, inClusterVersion.Version)
		if !meta.IsNoMatchError(err) {
			return mapping, true, err
		}
	}
	mapping, err = c.Mapper.RESTMapping(kind)
	return mapping, false, err
}

// Bind implements ipam.Claims.
func (Provider) Bind(pool ipam.Pool, address ipam.Address, want ipam.Want) (ipam.Binding, error) {
	spec := address.Object.(*ipamv1.IPAddress).Spec
	answer := ipam.Answer{IP: address.IP, Gateway: spec.Gateway}
	if spec.Prefix != nil {
		answer.Prefix = int(*spec.Prefix)
	}
	binding, err := answer.Bind(pool, address.Claim, want)
	if err != nil {
		return ipam.Binding{}, err
	}
	binding.Nameservers, err = nameservers(pool, pool.Reference.In(pool.GetNamespace()))
	if err != nil {
		return ipam.Binding{}, err
	}
	return binding, ipam.CheckFit(pool, binding, familyOf(pool))
}

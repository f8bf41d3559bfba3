package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=inclusterippools;globalinclusterippools,verbs=get;list;watch
// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=ipaddressclaims,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=ipam.cluster.x-k8s.io,resources=ipaddresses,verbs=get;list;watch;create;patch;delete

const (
	// hostnameAnnotation on a claim spares providers that register host names
	// (the Infoblox provider) the search for a Machine, which does not exist yet.
	hostnameAnnotation = "ipam.cluster.x-k8s.io/hostname"

	// contractFinalizers begins the names of the finalizers that providers built
	// on the in-cluster provider's pkg/ipamutil put on claims and addresses.
	contractFinalizers = "ipam.cluster.x-k8s.io/"

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

// Contract is the provider behind every pool that honours the CAPI IPAM
// contract: IPAddressClaim and IPAddress.
// See https://cluster-api.sigs.k8s.io/developer/providers/contracts/ipam
type Contract struct {
	// Mapper knows which kinds are served, in which version and scope.
	Mapper meta.RESTMapper
	// Live reads pools of kinds that are not watched.
	Live client.Reader
}

var _ Provider = Contract{}

// InClusterPool refers to the InClusterIPPool of this name.
func InClusterPool(name string) PoolReference {
	return PoolReference{APIGroup: inClusterVersion.Group, Kind: InClusterKind, Name: name}
}

// AddContractToScheme adds the claim API in the version that is served: v1beta2,
// or v1beta1 where there is only that. What is read and written here has the
// same form in both.
func AddContractToScheme(scheme *runtime.Scheme, mapper meta.RESTMapper) error {
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

// Serves implements Provider. Whatever kind is asked for may honour the contract.
func (Contract) Serves(PoolReference) bool { return true }

// Pools implements Provider.
func (Contract) Pools() []client.Object {
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

// IsFull implements Provider. The in-cluster provider says nothing on a claim
// that it cannot bind.
func (Contract) IsFull(pool client.Object) bool {
	free, found, err := unstructured.NestedInt64(pool.(*unstructured.Unstructured).Object, "status", "ipAddresses", "free")
	return err == nil && found && free <= 0
}

// Kinds implements Provider.
func (Contract) Kinds() (claim, address client.Object) {
	return &ipamv1.IPAddressClaim{}, &ipamv1.IPAddress{}
}

// NewClaim implements Provider.
func (Contract) NewClaim(name string, machine Machine, pool PoolReference) client.Object {
	return &ipamv1.IPAddressClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   machine.Namespace,
			Name:        name,
			Annotations: map[string]string{hostnameAnnotation: machine.Name},
		},
		Spec: ipamv1.IPAddressClaimSpec{
			ClusterName: machine.Cluster,
			PoolRef:     ipamv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name},
		},
	}
}

// CanRequest implements Provider. The contract has no such thing, but the
// in-cluster provider does.
func (Contract) CanRequest(pool PoolReference) bool {
	return pool.APIGroup == inClusterVersion.Group && (pool.Kind == InClusterKind || pool.Kind == GlobalInClusterKind)
}

// Request implements Provider.
func (Contract) Request(client.Object, netip.Addr) {}

// Gives implements Provider.
func (Contract) Gives(pool Pool, ip netip.Addr) bool {
	content := pool.Object.(*unstructured.Unstructured).Object
	gateway, _, _ := unstructured.NestedString(content, "spec", "gateway")
	bits, _, _ := unstructured.NestedInt64(content, "spec", "prefix")
	b := Binding{Address: netip.PrefixFrom(ip, int(bits))}
	b.Gateway, _ = netip.ParseAddr(gateway)
	b.Nameservers, _ = nameservers(pool, pool.GetName())
	return checkFit(pool, b, "") == nil
}

// WhyNotBound implements Provider.
func (Contract) WhyNotBound(_ context.Context, _ client.Reader, pool Pool, claim Claim) string {
	if claim.Waits == "" {
		return ""
	}
	return fmt.Sprintf("its IPAM provider says %q on the claim; see the status of the pool and the log of the IPAM controller of %s", claim.Waits, pool.Reference.APIGroup)
}

// Twin implements Provider.
func (Contract) Twin() Provider { return nil }

// Requested implements Provider. The in-cluster provider takes an address of the
// claim's name that exists for the one that it has given to the claim
// (internal/controllers/ipaddressclaim_address.go, EnsureAddress).
func (c Contract) Requested(namespace string, b Binding) client.Object {
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

// GoesByName implements Provider. The in-cluster provider makes the address the
// claim's own.
func (Contract) GoesByName() bool { return false }

// HonoursFinalizers implements Provider. The contract does not ask for it, and
// the in-cluster provider frees an address whatever is on its claim.
func (Contract) HonoursFinalizers() bool { return false }

// IsFree implements Provider.
func (Contract) IsFree(obj client.Object) bool {
	return !slices.ContainsFunc(obj.GetFinalizers(), func(f string) bool {
		return !strings.HasPrefix(f, contractFinalizers)
	})
}

// Abandons implements Provider. The in-cluster provider finishes the deletion of
// a claim whose pool is gone, and of others nothing is known.
func (Contract) Abandons(context.Context, client.Reader, client.Reader, Claim) (bool, error) {
	return false, nil
}

// Claim implements Provider.
func (Contract) Claim(obj client.Object) Claim {
	claim := obj.(*ipamv1.IPAddressClaim)
	view := Claim{
		Object:  claim,
		Pool:    contractPool(claim.Spec.PoolRef),
		Address: claim.Status.AddressRef.Name,
	}
	ready := meta.FindStatusCondition(claim.Status.Conditions, ipamv1.IPAddressClaimReadyCondition)
	if view.Address == "" && ready != nil && ready.Status == metav1.ConditionFalse {
		switch ready.Reason {
		case ipamv1.IPAddressClaimReadyPoolExhaustedReason:
			view.Failure, view.Exhausted = ready.Reason, true
		case ipamv1.IPAddressClaimReadyAllocationFailedReason:
			view.Failure = ready.Reason
		default:
			view.Waits = ready.Reason
		}
	}
	return view
}

// Address implements Provider.
func (Contract) Address(obj client.Object) Address {
	address := obj.(*ipamv1.IPAddress)
	return Address{
		Object: address,
		Pool:   contractPool(address.Spec.PoolRef),
		Claim:  address.Spec.ClaimRef.Name,
		IP:     address.Spec.Address,
	}
}

func contractPool(ref ipamv1.IPPoolReference) PoolReference {
	return PoolReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
}

// Pool implements Provider.
func (c Contract) Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error) {
	kind := schema.GroupKind{Group: want.Pool.APIGroup, Kind: want.Pool.Kind}
	mapping, watched, err := c.mapping(kind)
	if meta.IsNoMatchError(err) {
		return Pool{}, Refuse(PoolNotFound, "%s, asked for by %s, cannot exist: no kind %s is served; install its IPAM provider or correct the kind",
			want.Pool.In(machine.Namespace), want.AskedBy, kind)
	}
	if err != nil {
		return Pool{}, fmt.Errorf("looking for kind %s: %w", kind, err)
	}
	key := client.ObjectKey{Name: want.Pool.Name}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		key.Namespace = machine.Namespace
	}
	name := want.Pool.In(key.Namespace)
	if !watched {
		reader = c.Live
	}

	pool := unstructuredPool(mapping.GroupVersionKind)
	err = reader.Get(ctx, key, pool)
	_, handsOutPrefixes, _ := unstructured.NestedInt64(pool.Object, "spec", "allocationPrefixLength")
	switch {
	case apierrors.IsNotFound(err):
		return Pool{}, Refuse(PoolNotFound, "%s not found, asked for by %s: create the pool or correct its name there", name, want.AskedBy)
	case apierrors.IsForbidden(err):
		return Pool{}, Refuse(PoolForbidden, "%s cannot be read: grant get on %s to capv-static-ip, in a ClusterRole with label %s: \"true\"",
			name, mapping.Resource.GroupResource(), AggregationLabel)
	case err != nil:
		return Pool{}, fmt.Errorf("reading %s: %w", name, err)
	case !pool.GetDeletionTimestamp().IsZero():
		return Pool{}, Refuse(PoolTerminating, "%s is being deleted: name another pool in %s", name, want.AskedBy)
	case handsOutPrefixes:
		return Pool{}, Refuse(PoolInvalid, "%s hands out prefixes, and a device needs an address: name a pool of addresses in %s", name, want.AskedBy)
	}
	if err := served(ctx, reader, pool, name, machine); err != nil {
		return Pool{}, err
	}
	if _, err := nameservers(pool, name); err != nil {
		return Pool{}, err
	}
	return c.counted(ctx, reader, machine, Pool{Object: pool, Reference: want.Pool, Silent: true, Watched: watched})
}

// mapping finds the version and the scope of a kind of pool, and whether it is
// watched.
func (c Contract) mapping(kind schema.GroupKind) (mapping *meta.RESTMapping, watched bool, err error) {
	watched = slices.ContainsFunc(c.Pools(), func(pool client.Object) bool {
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

// Bind implements Provider.
func (Contract) Bind(pool Pool, address Address, want Want) (Binding, error) {
	spec := address.Object.(*ipamv1.IPAddress).Spec
	answer := answer{IP: address.IP, Gateway: spec.Gateway}
	if spec.Prefix != nil {
		answer.Prefix = int(*spec.Prefix)
	}
	binding, err := answer.bind(pool, address.Claim, want)
	if err != nil {
		return Binding{}, err
	}
	binding.Nameservers, err = nameservers(pool, pool.Reference.In(pool.GetNamespace()))
	if err != nil {
		return Binding{}, err
	}
	return binding, checkFit(pool, binding, contractFamily(pool))
}

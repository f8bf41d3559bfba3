package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachines;vspherevms;vsphereclusters,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch

// byIP is the name of the cache index that finds whatever has an address.
const byIP = "capv-static-ip.dev/ip"

// userSources are the kinds that may have addresses, indexed by these.
func userSources() []informers.Source {
	var sources []informers.Source
	for _, kind := range capi.Users() {
		sources = append(sources, informers.Source{Object: kind, Indexes: map[string]client.IndexerFunc{byIP: indexByIP}})
	}
	return sources
}

func indexByIP(obj client.Object) []string {
	var values []string
	for _, place := range obj.(capi.User).Addresses() {
		values = append(values, place.IP.String())
	}
	return values
}

// User is an object that has an address: on a device, in the status of a VM, or
// as the endpoint of a control plane.
type User struct {
	Kind string
	types.NamespacedName
	// Object is as it was read last: a *capi.VSphereMachine, *capi.VSphereVM,
	// *capi.VSphereCluster or *capi.Cluster.
	Object client.Object
}

// In is how a sentence for readers of this namespace names the user. What other
// namespaces hold is not theirs to know.
func (u User) In(namespace string) string {
	if u.Namespace != namespace {
		return fmt.Sprintf("a %s of another namespace", u.Kind)
	}
	return fmt.Sprintf("%s %q", u.Kind, u.Name)
}

// Search finds what has an address. What the cache knows is asked again live.
type Search struct {
	Cache client.Client
	Live  client.Reader
}

// Users finds what has an address on a network in this management cluster,
// whoever put it there: other pools and providers, a hand, a webhook after ours,
// a restore. Not among them are the excepted machine, which is the one that asks, and
// machines that are done (their VMs are).
func (s Search) Users(ctx context.Context, except types.NamespacedName, place capi.Place) ([]User, error) {
	var found []User
	for _, kind := range capi.Users() {
		users, err := s.usersIn(ctx, metav1.NamespaceAll, kind, except, place)
		if err != nil {
			return nil, err
		}
		found = append(found, users...)
	}
	return found, nil
}

// MachinesIn is Users for the machines of one namespace alone, or of all if that is
// empty. Those of others are not read: where many networks have the same ranges,
// there are as many machines with one address.
func (s Search) MachinesIn(ctx context.Context, namespace string, except types.NamespacedName, place capi.Place) ([]User, error) {
	return s.usersIn(ctx, namespace, &capi.VSphereMachine{}, except, place)
}

// HasElsewhere tells whether the cache has a machine of another namespace with the
// address.
func (s Search) HasElsewhere(ctx context.Context, except types.NamespacedName, place capi.Place) (bool, error) {
	machines, err := s.cached(ctx, metav1.NamespaceAll, &capi.VSphereMachine{}, except, place)
	return slices.ContainsFunc(machines, func(m client.Object) bool { return m.GetNamespace() != except.Namespace }), err
}

func (s Search) usersIn(ctx context.Context, namespace string, kind capi.User, except types.NamespacedName, place capi.Place) ([]User, error) {
	gvk, err := s.Cache.GroupVersionKindFor(kind)
	if err != nil {
		return nil, fmt.Errorf("finding the kind of what has %s: %w", place.IP, err)
	}
	objects, err := s.cached(ctx, namespace, kind, except, place)
	if err != nil {
		return nil, err
	}
	var found []User
	for _, obj := range objects {
		fresh := kind.DeepCopyObject().(capi.User)
		has, err := confirmUser(ctx, s.Live, client.ObjectKeyFromObject(obj), fresh, place)
		if err != nil {
			return nil, fmt.Errorf("reading %s %s: %w", gvk.Kind, client.ObjectKeyFromObject(obj), err)
		}
		if has {
			found = append(found, User{Kind: gvk.Kind, NamespacedName: client.ObjectKeyFromObject(obj), Object: fresh})
		}
	}
	return found, nil
}

// cached are the objects of a kind that have an address, by the word of the cache.
func (s Search) cached(ctx context.Context, namespace string, kind capi.User, except types.NamespacedName, place capi.Place) ([]client.Object, error) {
	objects, err := kube.List(ctx, s.Cache, kind, client.InNamespace(namespace), client.MatchingFields{byIP: place.IP.String()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing what has %s: %w", place.IP, err)
	}
	return slices.DeleteFunc(objects, func(obj client.Object) bool {
		_, isMachine := obj.(*capi.VSphereMachine)
		return isMachine && client.ObjectKeyFromObject(obj) == except || !has(obj.(capi.User), place)
	}), nil
}

// confirmUser reads a user from the API server, and tells whether it still has the
// address.
func confirmUser(ctx context.Context, live client.Reader, key types.NamespacedName, fresh capi.User, place capi.Place) (bool, error) {
	if err := live.Get(ctx, key, fresh); err != nil {
		if kube.IsAbsent(err) {
			return false, nil
		}
		return false, err
	}
	if _, isMachine := fresh.(*capi.VSphereMachine); isMachine && IsDone(fresh) {
		return false, nil
	}
	return has(fresh, place), nil
}

func has(u capi.User, place capi.Place) bool {
	for _, p := range u.Addresses() {
		if p.IP == place.IP && capi.SameNetwork(p.Network, place.Network) {
			return true
		}
	}
	return false
}

// InUse finds what else has an address that is on a device of the machine, or
// that it is about to be given.
func (a *Allocator) InUse(ctx context.Context, machine ipam.Machine, network string, ip netip.Addr) ([]User, error) {
	search, place := Search{Cache: a.client, Live: a.live}, capi.Place{IP: ip.Unmap(), Network: network}
	if machine.Kind == ipam.OfMachine {
		return search.Users(ctx, machine.NamespacedName, place)
	}
	users, err := search.Users(ctx, types.NamespacedName{}, place)
	return slices.DeleteFunc(users, func(user User) bool { return user.isOf(machine) }), err
}

// isOf tells whether a user has an address as the endpoint of a VSphereCluster: that
// itself, its Cluster, or a VM of this, whose guest reports it.
func (u User) isOf(cluster ipam.Machine) bool {
	if u.Namespace != cluster.Namespace {
		return false
	}
	switch object := u.Object.(type) {
	case *capi.VSphereCluster:
		return u.Name == cluster.Name
	case *capi.Cluster:
		return u.Name == cluster.Cluster || object.IsOn(cluster.Name)
	case *capi.VSphereVM:
		return cluster.Cluster != "" && object.Labels[clusterv1.ClusterNameLabel] == cluster.Cluster
	}
	return false
}

// checkUnused refuses an address that something else has, although the provider
// thinks that it is free.
func (a *Allocator) checkUnused(ctx context.Context, al *allocation, b ipam.Binding) error {
	for _, network := range al.want.Networks() {
		users, err := a.InUse(ctx, al.Machine, network, b.Address.Addr())
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return inUse(al, b, users)
		}
	}
	return nil
}

// usedAddress is the refusal of an address, with those that use it.
type usedAddress struct {
	*ipam.Unfit
	users []User
}

// Unwrap leads to the Unfit.
func (u *usedAddress) Unwrap() error { return u.Unfit }

// inUse is the refusal of an address that these users have, for readers of a
// namespace.
func inUse(al *allocation, b ipam.Binding, users []User) error {
	return &usedAddress{users: users, Unfit: &ipam.Unfit{Cause: ipam.UsedByOther, IP: b.Address.Addr(), Refusal: ipam.Refuse(ipam.AddressInUse,
		"%s answered with %s, which %s uses: keep the pool from handing it out, or replace what uses it",
		al.poolName(), b.Address.Addr(), users[0].In(al.Machine.Namespace))}}
}

// IsDone tells whether a machine is being deleted and nobody but us and the
// garbage collector is left on it. Waiting for the latter's finalizers would be
// a deadlock: it waits for what the machine owns.
func IsDone(machine client.Object) bool {
	return !machine.GetDeletionTimestamp().IsZero() && !slices.ContainsFunc(machine.GetFinalizers(), func(f string) bool {
		switch f {
		case ipam.ReleaseFinalizer, metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents:
			return false
		}
		return true
	})
}

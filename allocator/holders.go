package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// holdersIndex is the name of the cache index that finds machines by what their
// annotation says they hold.
const holdersIndex = "capv-static-ip.dev/address"

// machineSource is the machines' metadata, indexed by the addresses they hold.
func machineSource() Source {
	return Source{Object: MetadataOf(MachineKind), Indexes: map[string]client.IndexerFunc{
		holdersIndex: func(obj client.Object) []string {
			bindings, err := ParseBindings(obj.GetAnnotations()[BindingsAnnotation])
			if err != nil {
				return nil
			}
			var values []string
			for _, b := range bindings.Bindings {
				values = append(values, holdersIndexValue(b.Pool, b.Address.Addr()))
			}
			return values
		},
	}}
}

func holdersIndexValue(pool PoolReference, ip netip.Addr) string {
	return pool.String() + "/" + ip.Unmap().String()
}

// Holders are the machines whose annotation says that they hold an address of
// the pool that machines of this namespace mean by the reference: all machines,
// if pools of its kind have no namespace. The client needs the informer of
// Sources behind it.
func Holders(ctx context.Context, c client.Client, namespace string, pool PoolReference, ip netip.Addr) ([]types.NamespacedName, error) {
	mapping, err := c.RESTMapper().RESTMapping(schema.GroupKind{Group: pool.APIGroup, Kind: pool.Kind})
	if err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("looking for the scope of %s: %w", pool, err)
	}
	if err == nil && mapping.Scope.Name() == meta.RESTScopeNameRoot {
		namespace = metav1.NamespaceAll
	}
	machines := MetadataListOf(MachineKind)
	err = c.List(ctx, machines, client.InNamespace(namespace), client.MatchingFields{holdersIndex: holdersIndexValue(pool, ip)})
	if err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("listing the machines that hold %s: %w", ip, err)
	}
	names := make([]types.NamespacedName, len(machines.Items))
	for i := range machines.Items {
		names[i] = client.ObjectKeyFromObject(&machines.Items[i])
	}
	return names, nil
}

// seeUnheld refuses an address that another machine has, although the provider
// thinks that it is free: after a restore, or a move to a management cluster
// whose pool does not know what the machines brought with them.
func (a *Allocator) seeUnheld(ctx context.Context, machine Machine, pool Pool, b Binding) error {
	holders, err := Holders(ctx, a.client, machine.Namespace, b.Pool, b.Address.Addr())
	if err != nil {
		return err
	}
	for _, key := range holders {
		if key == machine.NamespacedName {
			continue
		}
		holder := MetadataOf(MachineKind)
		err := a.live.Get(ctx, key, holder)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading VSphereMachine %s: %w", key, err)
		}
		if err == nil && !IsDone(holder) {
			where := ""
			if key.Namespace != machine.Namespace {
				where = fmt.Sprintf(" in namespace %q", key.Namespace)
			}
			return Refuse(AddressInUse, "%s answered with %s, which VSphereMachine %q%s uses: keep the pool from handing it out, or replace that machine",
				b.Pool.In(pool.GetNamespace()), b.Address.Addr(), key.Name, where)
		}
	}
	return nil
}

// IsDone tells whether a machine is being deleted and nobody but us and the
// garbage collector is left on it. Waiting for the latter's finalizers would be
// a deadlock: it waits for what the machine owns.
func IsDone(machine client.Object) bool {
	return !machine.GetDeletionTimestamp().IsZero() && !slices.ContainsFunc(machine.GetFinalizers(), func(f string) bool {
		switch f {
		case ReleaseFinalizer, metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents:
			return false
		}
		return true
	})
}

package lifecycle

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// Names of cache indexes.
const (
	// byMachine finds claims and addresses by the machine they name.
	byMachine = "capv-static-ip.dev/machine"
	// byIP finds addresses by what they are.
	byIP = "capv-static-ip.dev/object-ip"
	// byCoolingPool finds addresses that cool down, by their pool.
	byCoolingPool = "capv-static-ip.dev/cooling"
	// waiting finds claims of requests that wait to be bound, by their pool.
	waiting = "capv-static-ip.dev/waiting"
)

// machineOfClaim is the machine that a claim names: in its mark, by its owner, in
// its maker's offer, or, as the static IP adapter did, by its own name. That adapter gave
// a device one address.
func machineOfClaim(claim client.Object) string {
	if name := ipam.MachineOf(claim); name != "" {
		return name
	}
	if isOfEndpoint(claim) {
		return ""
	}
	if owner := capi.OwnerMachine(claim); owner.Name != "" {
		return owner.Name
	}
	if name := claim.GetAnnotations()[ipam.ForAnnotation]; name != "" {
		return name
	}
	machine, slot, _, _ := ipam.ParseClaimName(claim.GetName())
	label, ours := claim.GetLabels()[ipam.MachineLabel]
	if slot.Nth > 0 || ours && label != ipam.MachineLabelValue(machine) {
		// That of the endpoint of VSphereCluster "prod-1" has such a name, too, and during a
		// move no annotation.
		return ""
	}
	return machine
}

// isOfEndpoint tells whether a claim, or an address, is that of the endpoint of a control
// plane, which is not looked after here: ours, or the static IP adapter's.
func isOfEndpoint(obj client.Object) bool {
	return ipam.HolderOf(obj).Kind == ipam.OfCluster || slices.ContainsFunc(obj.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.Kind == capi.VSphereClusterKind.Kind
	})
}

// machineOfAddress is the machine that an address names, in our annotation or by
// the name of its claim. Addresses of claims that are not ours name none; nor
// do, while unprotected, those of claims whose names had to be cut.
func machineOfAddress(provider ipam.Provider) func(client.Object) string {
	return func(address client.Object) string {
		if name := ipam.MachineOf(address); name != "" || isOfEndpoint(address) {
			return name
		}
		name, _, _, _ := ipam.ParseClaimName(provider.ReadAddress(address).Claim)
		if ipam.IsProtected(address) || address.GetLabels()[ipam.MachineLabel] == ipam.MachineLabelValue(name) {
			return name
		}
		return ""
	}
}

func indexByMachine(machineOf func(client.Object) string) map[string]client.IndexerFunc {
	return map[string]client.IndexerFunc{byMachine: func(obj client.Object) []string {
		if name := machineOf(obj); name != "" {
			return []string{name}
		}
		return nil
	}}
}

// indexAddresses indexes addresses by the machine they name, and by what they are.
func indexAddresses(provider ipam.Provider) map[string]client.IndexerFunc {
	indexes := indexByMachine(machineOfAddress(provider))
	indexes[byIP] = func(obj client.Object) []string {
		return []string{capi.ParseAddress(provider.ReadAddress(obj).IP).String()}
	}
	indexes[byCoolingPool] = func(obj client.Object) []string {
		if !ipam.IsReleased(obj) || isOfEndpoint(obj) {
			return nil
		}
		return []string{provider.ReadAddress(obj).Pool.String()}
	}
	return indexes
}

// machinesCoolingIn are those whose addresses cool down in a pool; of one without a
// namespace, in all.
func (r *Reconciler) machinesCoolingIn(ctx context.Context, provider ipam.Provider, pool ipam.PoolReference, namespace string) []reconcile.Request {
	objects, err := kube.List(ctx, r.client, ipam.EmptyAddress(provider), client.InNamespace(namespace), client.MatchingFields{byCoolingPool: pool.String()})
	if err != nil {
		// They are looked at again when they have cooled down, at the latest.
		return nil
	}
	var requests []reconcile.Request
	for _, obj := range objects {
		requests = append(requests, reconcile.Request{NamespacedName: keyIn(obj, ipam.MachineOf(obj))})
	}
	return requests
}

// machinesOn are those that the objects of a VM's addresses name.
func (r *Reconciler) machinesOn(ctx context.Context, vm *capi.VSphereVM) []types.NamespacedName {
	var machines []types.NamespacedName
	for _, provider := range r.providers {
		machineOf := machineOfAddress(provider)
		for _, place := range vm.Addresses() {
			objects, err := kube.List(ctx, r.client, ipam.EmptyAddress(provider),
				client.InNamespace(vm.Namespace), client.MatchingFields{byIP: place.IP.String()})
			if err != nil {
				// The address is looked at again all the same, only later.
				continue
			}
			for _, obj := range objects {
				if name := machineOf(obj); name != "" {
					machines = append(machines, keyIn(vm, name))
				}
			}
		}
	}
	return machines
}

// indexClaims indexes claims by the machine they name, and those that wait.
func indexClaims(provider ipam.Provider) map[string]client.IndexerFunc {
	indexes := indexByMachine(machineOfClaim)
	indexes[waiting] = func(obj client.Object) []string {
		claim := provider.ReadClaim(obj)
		if wasAdopted(claim) || !ipam.IsMarked(claim, ipam.MachineOf(claim)) || claim.Address != "" || claim.Failure != "" || !claim.GetDeletionTimestamp().IsZero() {
			return nil
		}
		return []string{claim.Pool.String()}
	}
	return indexes
}

func (r *Reconciler) claimsNaming(ctx context.Context, machine types.NamespacedName) ([]ipam.Claim, error) {
	var claims []ipam.Claim
	for _, provider := range r.providers {
		list, err := r.listNaming(ctx, machine, ipam.EmptyClaim(provider))
		if err != nil {
			return nil, fmt.Errorf("listing claims: %w", err)
		}
		for _, obj := range list {
			claims = append(claims, provider.ReadClaim(obj))
		}
	}
	return claims, nil
}

func (r *Reconciler) addressesNaming(ctx context.Context, machine types.NamespacedName) ([]ipam.Address, error) {
	var addresses []ipam.Address
	for _, provider := range r.providers {
		list, err := r.listNaming(ctx, machine, ipam.EmptyAddress(provider))
		if err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		}
		for _, obj := range list {
			addresses = append(addresses, provider.ReadAddress(obj))
		}
	}
	return addresses, nil
}

// listNaming lists the objects of a kind that name the machine, from the cache.
func (r *Reconciler) listNaming(ctx context.Context, machine types.NamespacedName, kind client.Object) ([]client.Object, error) {
	return kube.List(ctx, r.client, kind, client.InNamespace(machine.Namespace), client.MatchingFields{byMachine: machine.Name})
}

// claim reads a claim on a pool from the first of these that has it: from the
// cache or, where that has none, from the API server. It returns nil if none has.
func (r *Reconciler) claim(ctx context.Context, key types.NamespacedName, pool ipam.PoolReference, readers ...client.Reader) (*ipam.Claim, error) {
	provider := r.providers.For(pool)
	obj := ipam.EmptyClaim(provider)
	if found, err := getAny(ctx, key, obj, readers...); err != nil || !found {
		return nil, err
	}
	claim := provider.ReadClaim(obj)
	return &claim, nil
}

// address reads an address of a claim API, likewise.
func (r *Reconciler) address(ctx context.Context, key types.NamespacedName, provider ipam.Provider) (*ipam.Address, error) {
	obj := ipam.EmptyAddress(provider)
	if found, err := getAny(ctx, key, obj, r.client, r.live); err != nil || !found {
		return nil, err
	}
	address := provider.ReadAddress(obj)
	return &address, nil
}

func getAny(ctx context.Context, key types.NamespacedName, obj client.Object, readers ...client.Reader) (bool, error) {
	for _, reader := range readers {
		err := reader.Get(ctx, key, obj)
		if err == nil {
			return true, nil
		}
		if !kube.IsAbsent(err) {
			return false, fmt.Errorf("reading %T %s: %w", obj, key, err)
		}
	}
	return false, nil
}

// exists asks the API server.
func (r *Reconciler) exists(ctx context.Context, key client.ObjectKey, obj client.Object) (bool, error) {
	err := r.live.Get(ctx, key, obj)
	if kube.IsAbsent(err) {
		return false, nil
	}
	return err == nil, err
}

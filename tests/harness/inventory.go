package harness

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// inventory is what the API server holds in a namespace, or in all.
type inventory struct {
	machines  []*holder
	vms       []capvv1.VSphereVM
	claims    []ipam.Claim
	addresses []ipam.Address
	pools     []poolRanges
	endpoints endpoints
	// domains are the failure domains of Machines, by the UIDs of these.
	domains map[types.UID]string

	machineByName  map[types.NamespacedName]*holder
	machineByUID   map[types.UID]*holder
	vmByOwner      map[types.UID]*capvv1.VSphereVM
	vmByAddress    map[spot]bool
	claimByUID     map[types.UID]*ipam.Claim
	addressByPlace map[place]*ipam.Address
}

// place is where an address is at home.
type place struct {
	namespace string
	pool      ipam.PoolReference
	address   netip.Addr
}

// spot is where a machine or a VM uses an address.
type spot struct {
	namespace string
	address   netip.Addr
}

// holder is a machine and what it holds.
type holder struct {
	*capvv1.VSphereMachine
	// addresses are those on its devices.
	addresses map[netip.Addr]bool
	// networks are those that the addresses are on, where the machine says.
	networks map[netip.Addr]string
	// bindings are what its annotation says, and unreadable why it says nothing.
	bindings   ipam.Bindings
	unreadable error
	// pools has the pool of each address that is bound by us.
	pools map[netip.Addr]ipam.PoolReference
}

// readInventory reads machines first: what they hold is then looked for in
// what was there at that time or later.
func readInventory(ctx context.Context, c client.Reader, namespace string) (*inventory, error) {
	machines, vms := &capvv1.VSphereMachineList{}, &capvv1.VSphereVMList{}
	for _, list := range []client.ObjectList{machines, vms} {
		if err := listIfServed(ctx, c, list, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
	}
	i := &inventory{vms: vms.Items, domains: map[types.UID]string{}}
	for n := range machines.Items {
		i.machines = append(i.machines, newHolder(&machines.Items[n]))
	}
	for _, f := range Fixtures {
		if err := i.readClaims(ctx, c, namespace, f.Provider); err != nil {
			return nil, err
		}
	}
	var err error
	if i.endpoints, err = readEndpoints(ctx, c, namespace); err != nil {
		return nil, err
	}
	if i.pools, err = readPools(ctx, c, namespace); err != nil {
		return nil, err
	}
	owners := &clusterv1.MachineList{}
	if err := listIfServed(ctx, c, owners, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for _, owner := range owners.Items {
		i.domains[owner.UID] = owner.Spec.FailureDomain
	}
	i.index()
	return i, nil
}

// listIfServed leaves the list empty on a control plane without the API: it
// holds none of its objects.
func listIfServed(ctx context.Context, c client.Reader, list client.ObjectList, options ...client.ListOption) error {
	if err := c.List(ctx, list, options...); err != nil && !meta.IsNoMatchError(err) {
		return err
	}
	return nil
}

func (i *inventory) readClaims(ctx context.Context, c client.Reader, namespace string, provider ipam.Provider) error {
	claims, err := List(ctx, c, ipam.EmptyClaim(provider), client.InNamespace(namespace))
	if err != nil && !meta.IsNoMatchError(err) {
		return err
	}
	addresses, err := List(ctx, c, ipam.EmptyAddress(provider), client.InNamespace(namespace))
	if err != nil && !meta.IsNoMatchError(err) {
		return err
	}
	for _, claim := range claims {
		i.claims = append(i.claims, provider.ReadClaim(claim))
	}
	for _, address := range addresses {
		i.addresses = append(i.addresses, provider.ReadAddress(address))
	}
	return nil
}

// List lists the objects of the kind of this empty one.
func List(ctx context.Context, c client.Reader, kind client.Object, options ...client.ListOption) ([]client.Object, error) {
	gvk, err := apiutil.GVKForObject(kind, Scheme)
	if err != nil {
		return nil, err
	}
	empty, err := Scheme.New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err != nil {
		return nil, err
	}
	list, ok := empty.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is no list", empty)
	}
	if err := c.List(ctx, list, options...); err != nil {
		return nil, err
	}
	var objects []client.Object
	each(list, func(object client.Object) { objects = append(objects, object) })
	return objects, nil
}

func each(list client.ObjectList, do func(client.Object)) {
	// It fails only if a list is none, or if what it is to do fails.
	_ = meta.EachListItem(list, func(item runtime.Object) error {
		if object, ok := item.(client.Object); ok {
			do(object)
		}
		return nil
	})
}

func (i *inventory) index() {
	i.machineByName, i.machineByUID = map[types.NamespacedName]*holder{}, map[types.UID]*holder{}
	for _, machine := range i.machines {
		i.machineByName[client.ObjectKeyFromObject(machine)] = machine
		i.machineByUID[machine.UID] = machine
	}
	i.vmByOwner, i.vmByAddress = map[types.UID]*capvv1.VSphereVM{}, map[spot]bool{}
	for n := range i.vms {
		i.vmByOwner[capi.OwnerMachine(&i.vms[n]).UID] = &i.vms[n]
		for address := range vmAddresses(&i.vms[n]) {
			i.vmByAddress[spot{i.vms[n].Namespace, address}] = true
		}
	}
	i.claimByUID = map[types.UID]*ipam.Claim{}
	for n := range i.claims {
		i.claimByUID[i.claims[n].GetUID()] = &i.claims[n]
	}
	i.addressByPlace = map[place]*ipam.Address{}
	for n := range i.addresses {
		object := &i.addresses[n]
		// An object that is going is not what keeps an address, if there is another.
		if address, err := netip.ParseAddr(object.IP); err == nil {
			where := place{object.GetNamespace(), object.Pool, address}
			if i.addressByPlace[where] == nil || object.GetDeletionTimestamp() == nil {
				i.addressByPlace[where] = object
			}
		}
	}
}

// claimOf is the claim that an address answers, nil if it is gone.
func (i *inventory) claimOf(address *ipam.Address) *ipam.Claim {
	for _, owner := range address.GetOwnerReferences() {
		if claim := i.claimByUID[owner.UID]; claim != nil {
			return claim
		}
	}
	return nil
}

// isOnVM tells whether a VM uses the address that a claim holds.
func (i *inventory) isOnVM(claim *ipam.Claim) bool {
	for n := range i.addresses {
		address := &i.addresses[n]
		if owner := i.claimOf(address); owner == nil || owner.GetUID() != claim.GetUID() {
			continue
		}
		if ip, err := netip.ParseAddr(address.IP); err == nil && i.vmByAddress[spot{address.GetNamespace(), ip}] {
			return true
		}
	}
	return false
}

// vmAddresses are those on the devices of a VM, and those that it reports.
func vmAddresses(vm *capvv1.VSphereVM) map[netip.Addr]bool {
	addresses := map[netip.Addr]bool{}
	for _, address := range deviceAddresses(vm.Spec.Network.Devices) {
		addresses[address] = true
	}
	reported := slices.Clone(vm.Status.Addresses)
	for _, network := range vm.Status.Network {
		reported = append(reported, network.IPAddrs...)
	}
	for _, text := range reported {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			addresses[prefix.Addr()] = true
		} else if address, err := netip.ParseAddr(text); err == nil {
			addresses[address] = true
		}
	}
	return addresses
}

func newHolder(machine *capvv1.VSphereMachine) *holder {
	h := &holder{VSphereMachine: machine, addresses: map[netip.Addr]bool{}, networks: map[netip.Addr]string{}, pools: map[netip.Addr]ipam.PoolReference{}}
	for _, device := range machine.Spec.Network.Devices {
		for _, address := range deviceAddresses([]capvv1.NetworkDeviceSpec{device}) {
			h.networks[address] = device.NetworkName
		}
	}
	for _, address := range deviceAddresses(machine.Spec.Network.Devices) {
		h.addresses[address] = true
	}
	annotation, ok := machine.Annotations[ipam.BindingsAnnotation]
	if !ok {
		return h
	}
	h.bindings, h.unreadable = ipam.ParseBindings(annotation)
	for _, binding := range h.bindings.Bindings {
		h.pools[binding.Address.Addr()] = binding.Pool
	}
	return h
}

// deviceAddresses leaves out what is not an address: users may write anything.
func deviceAddresses(devices []capvv1.NetworkDeviceSpec) []netip.Addr {
	var addresses []netip.Addr
	for _, device := range devices {
		for _, text := range device.IPAddrs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				addresses = append(addresses, prefix.Addr())
			}
		}
	}
	return addresses
}

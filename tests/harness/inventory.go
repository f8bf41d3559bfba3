package harness

import (
	"context"
	"net/netip"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator"
)

// inventory is what the API server holds in a namespace, or in all.
type inventory struct {
	machines  []*holder
	vms       []capvv1.VSphereVM
	claims    []ipamv1.IPClaim
	addresses []ipamv1.IPAddress
	pools     []ipamv1.IPPool

	machineByName  map[types.NamespacedName]*holder
	machineByUID   map[types.UID]*holder
	vmByOwner      map[types.UID]*capvv1.VSphereVM
	claimByName    map[types.NamespacedName]*ipamv1.IPClaim
	addressByPlace map[place]*ipamv1.IPAddress
}

// place is where an address is at home.
type place struct {
	namespace, pool string
	address         netip.Addr
}

// holder is a machine and what it holds.
type holder struct {
	*capvv1.VSphereMachine
	// addresses are those on its devices.
	addresses map[netip.Addr]bool
	// bindings are what its annotation says, and unreadable why it says nothing.
	bindings   allocator.Bindings
	unreadable error
	// pools has the pool of each address that is bound by us.
	pools map[netip.Addr]allocator.PoolReference
}

// readInventory reads machines first: what they hold is then looked for in
// what was there at that time or later.
func readInventory(ctx context.Context, c client.Reader, namespace string) (*inventory, error) {
	var (
		machines  capvv1.VSphereMachineList
		vms       capvv1.VSphereVMList
		claims    ipamv1.IPClaimList
		addresses ipamv1.IPAddressList
		pools     ipamv1.IPPoolList
	)
	for _, list := range []client.ObjectList{&machines, &vms, &claims, &addresses, &pools} {
		// A control plane without the provider's API holds none of its objects.
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil && !meta.IsNoMatchError(err) {
			return nil, err
		}
	}
	i := &inventory{vms: vms.Items, claims: claims.Items, addresses: addresses.Items, pools: pools.Items}
	for n := range machines.Items {
		i.machines = append(i.machines, newHolder(&machines.Items[n]))
	}
	i.index()
	return i, nil
}

func (i *inventory) index() {
	i.machineByName, i.machineByUID = map[types.NamespacedName]*holder{}, map[types.UID]*holder{}
	for _, machine := range i.machines {
		i.machineByName[client.ObjectKeyFromObject(machine)] = machine
		i.machineByUID[machine.UID] = machine
	}
	i.vmByOwner = map[types.UID]*capvv1.VSphereVM{}
	for n := range i.vms {
		i.vmByOwner[allocator.OwnerMachine(&i.vms[n]).UID] = &i.vms[n]
	}
	i.claimByName = map[types.NamespacedName]*ipamv1.IPClaim{}
	for n := range i.claims {
		i.claimByName[client.ObjectKeyFromObject(&i.claims[n])] = &i.claims[n]
	}
	i.addressByPlace = map[place]*ipamv1.IPAddress{}
	for n := range i.addresses {
		object := &i.addresses[n]
		// An object that is going is not what keeps an address, if there is another.
		if address, err := netip.ParseAddr(string(object.Spec.Address)); err == nil {
			where := place{object.Namespace, object.Spec.Pool.Name, address}
			if i.addressByPlace[where] == nil || object.DeletionTimestamp == nil {
				i.addressByPlace[where] = object
			}
		}
	}
}

func newHolder(machine *capvv1.VSphereMachine) *holder {
	h := &holder{VSphereMachine: machine, addresses: map[netip.Addr]bool{}, pools: map[netip.Addr]allocator.PoolReference{}}
	for _, address := range deviceAddresses(machine.Spec.Network.Devices) {
		h.addresses[address] = true
	}
	annotation, ok := machine.Annotations[allocator.BindingsAnnotation]
	if !ok {
		return h
	}
	h.bindings, h.unreadable = allocator.ParseBindings(annotation)
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

// poolOf returns the name of the pool that an address is from, if there is one.
func (i *inventory) poolOf(namespace string, address netip.Addr) string {
	for _, pool := range i.pools {
		if pool.Namespace != namespace {
			continue
		}
		for _, part := range pool.Spec.Pools {
			if within(part, address) {
				return pool.Name
			}
		}
	}
	return ""
}

func within(part ipamv1.Pool, address netip.Addr) bool {
	if part.Start != nil {
		start, err := netip.ParseAddr(string(*part.Start))
		if err != nil || address.Less(start) {
			return false
		}
	}
	if part.End != nil {
		end, err := netip.ParseAddr(string(*part.End))
		if err != nil || end.Less(address) {
			return false
		}
	}
	if part.Subnet != nil {
		subnet, err := netip.ParsePrefix(string(*part.Subnet))
		return err == nil && subnet.Contains(address)
	}
	return part.Start != nil && part.End != nil
}

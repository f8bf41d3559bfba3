package harness

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// The names under which violations are reported, which are those of docs/design.md.
const (
	invariantUnique    = "I1"
	invariantHeld      = "I2"
	invariantNoOrphans = "I3"
	invariantEndpoints = "I10"
	invariantInPlace   = "I9"
)

// Violation is a state of the API server that must not be.
type Violation struct {
	// Invariant is the name that docs/design.md gives it: I1, I2, I3, I9 or I10.
	Invariant string
	// Detail says which objects are in that state, and how.
	Detail string
}

// Error names the invariant and what broke it.
func (v *Violation) Error() string { return v.Invariant + " is violated: " + v.Detail }

// ByHandAnnotation on a VSphereVM, with any value, says that somebody made it beside
// CAPV: it never was one of a machine of ours, and may have any address.
const ByHandAnnotation = "test.capv-static-ip.dev/by-hand"

// InvariantOptions says where and how strictly to look.
type InvariantOptions struct {
	// Namespaces are those to look at; all if empty.
	Namespaces []string
	// GracePeriod is how long a claim may be without a machine since its last
	// use. 0 allows no such claim, which is what a denied create and a dry run
	// have to leave behind.
	GracePeriod time.Duration
	// ReuseAfter is for how long addresses cool down whose pools say nothing of that.
	ReuseAfter time.Duration
}

// CheckInvariants looks once at what the API server holds, and returns what
// breaks the invariants: no address held twice, or given while it cools down (I1), none
// back in its pool while its machine or VM exists (I2), no claim and no protected address
// without a machine, unless it cools down (I3; and so I4), none of a pool that is for
// other networks or failure domains (I9), and no endpoint free that a Cluster uses (I10).
//
// It reads one kind after the other. While things change, use AwaitInvariants.
func CheckInvariants(ctx context.Context, c client.Reader, options InvariantOptions) []error {
	namespaces := options.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var violations []error
	for _, namespace := range namespaces {
		inventory, err := readInventory(ctx, c, namespace)
		if err != nil {
			violations = append(violations, fmt.Errorf("reading the state of namespace %q: %w", namespace, err))
			continue
		}
		violations = slices.Concat(violations, inventory.heldTwice(), inventory.freeEndpoints(), inventory.cooling(options.ReuseAfter), inventory.machinesWithoutAddress(),
			inventory.virtualMachinesWithoutAddress(), inventory.orphanClaims(options.GracePeriod), inventory.heldClaims(), inventory.orphanAddresses(), inventory.outOfPlace())
	}
	return violations
}

// AwaitInvariants waits until the invariants hold, since a controller takes a
// moment to give back what has just become free.
func AwaitInvariants(ctx context.Context, c client.Reader, timeout time.Duration, options InvariantOptions) error {
	return Eventually(ctx, timeout, "the invariants to hold", func(ctx context.Context) error {
		return errors.Join(CheckInvariants(ctx, c, options)...)
	})
}

func violation(invariant, format string, args ...any) error {
	return &Violation{Invariant: invariant, Detail: fmt.Sprintf(format, args...)}
}

// heldTwice finds addresses that two machines have on their devices, at least
// one of them bound by us. What a user wrote by hand on both is the user's.
func (i *inventory) heldTwice() []error {
	holders := map[spot][]*holder{}
	var violations []error
	for _, machine := range i.machines {
		for address := range machine.addresses {
			here := spot{machine.Namespace, address}
			for _, other := range holders[here] {
				if machine.shares(other, address) {
					violations = append(violations, violation(invariantUnique,
						"machines %s and %s both hold %s", client.ObjectKeyFromObject(other), client.ObjectKeyFromObject(machine), address))
				}
			}
			holders[here] = append(holders[here], machine)
		}
	}
	return violations
}

// shares tells if two machines with the same address have it on one network, and
// one of them from us. Two networks may use the same range.
func (h *holder) shares(other *holder, address netip.Addr) bool {
	_, ours := h.pools[address]
	_, othersOurs := other.pools[address]
	return (ours || othersOurs) && capi.SameNetwork(h.networks[address], other.networks[address])
}

// machinesWithoutAddress finds bindings whose address is not kept for the
// machine any more.
func (i *inventory) machinesWithoutAddress() []error {
	var violations []error
	for _, machine := range i.machines {
		name := client.ObjectKeyFromObject(machine)
		if machine.unreadable != nil {
			violations = append(violations, violation(invariantHeld, "machine %s: %v", name, machine.unreadable))
			continue
		}
		// A copy names another machine: what it says is nobody's binding.
		if machine.bindings.Machine != machine.Name {
			continue
		}
		for _, binding := range machine.bindings.Bindings {
			if why := i.notKept(machine.Namespace, machine.Name, binding.Pool, binding.Address.Addr()); why != "" {
				violations = append(violations, violation(invariantHeld, "machine %s holds %s of %s, %s",
					name, binding.Address.Addr(), binding.Pool.In(""), why))
			}
		}
	}
	return violations
}

// virtualMachinesWithoutAddress does the same for VMs whose machine does not exist,
// or is not known: a backup brings VMs back without owners. Only the addresses on
// their devices and in their status are left to go by, so those that are in no
// pool are somebody else's.
func (i *inventory) virtualMachinesWithoutAddress() []error {
	var violations []error
	for _, vm := range i.vms {
		owner := capi.OwnerMachine(&vm)
		if i.machineByUID[owner.UID] != nil || vm.Annotations[ByHandAnnotation] != "" {
			continue
		}
		// CAPV gives a VM the name of its machine.
		machine := owner.Name
		if machine == "" {
			machine = vm.Name
		}
		for address := range vmAddresses(&vm) {
			pool := i.poolOf(vm.Namespace, address)
			if pool.Name == "" {
				continue
			}
			if why := i.notKept(vm.Namespace, machine, pool, address); why != "" {
				violations = append(violations, violation(invariantHeld, "VM %s of machine %s, which does not exist, uses %s of %s, %s",
					client.ObjectKeyFromObject(&vm), machine, address, pool.In(""), why))
			}
		}
	}
	return violations
}

// notKept says why an address is not kept for a machine, empty if it is.
func (i *inventory) notKept(namespace, machine string, pool ipam.PoolReference, address netip.Addr) string {
	object := i.addressByPlace[place{namespace, pool, address}]
	if object == nil {
		return "which has no address object"
	}
	if claim := i.claimOf(object); claim != nil {
		if _, aside := ipam.SetAsideOf(claim); aside {
			return "" // it was found in use, and is kept out of the pool
		}
		if holder := ipam.MachineOf(claim); holder != machine {
			return fmt.Sprintf("which answers claim %s of machine %q", claim.GetName(), holder)
		}
		return ""
	}
	// Somebody deleted the claim. Then our finalizer is all that keeps the address.
	if !slices.Contains(object.GetFinalizers(), ipam.InUseFinalizer) || ipam.MachineOf(object) != machine {
		return "which has neither its claim nor our protection"
	}
	return ""
}

// cooling finds addresses that were given to a machine while they cool down, and what
// cools down for longer than its pool says.
func (i *inventory) cooling(byDefault time.Duration) []error {
	var violations []error
	for _, machine := range i.machines {
		for ip, pool := range machine.pools {
			object := i.addressByPlace[place{machine.Namespace, pool, ip}]
			if object != nil && machine.addresses[ip] && ipam.IsReleased(object) {
				violations = append(violations, violation(invariantUnique, "machine %s has %s of %s, which cools down",
					client.ObjectKeyFromObject(machine), ip, pool.In("")))
			}
		}
	}
	for _, claim := range i.claims {
		if late := i.coolsTooLong(&claim, claim.Pool, byDefault); late > 0 && claim.GetDeletionTimestamp() == nil {
			violations = append(violations, violation(invariantNoOrphans, "claim %s should have been released %s ago", client.ObjectKeyFromObject(&claim), late))
		}
	}
	for _, address := range i.addresses {
		if late := i.coolsTooLong(&address, address.Pool, byDefault); late > 0 {
			violations = append(violations, violation(invariantNoOrphans, "address %s (%s) should have been released %s ago", client.ObjectKeyFromObject(&address), address.IP, late))
		}
	}
	return violations
}

// poolPatience is for how long a claim or an address may wait for a pool that does not exist,
// from when it came: a move brings it before its pool.
const poolPatience = time.Hour

// coolsTooLong is for how long a claim or an address should have cooled down.
func (i *inventory) coolsTooLong(object client.Object, ref ipam.PoolReference, byDefault time.Duration) time.Duration {
	at, released := ipam.ReleasedAt(object)
	if !released {
		return 0
	}
	after, missing := byDefault, true
	for _, pool := range i.pools {
		if pool.PoolReference == ref && (pool.namespace == object.GetNamespace() || pool.namespace == "") {
			after, missing = max(after, pool.reuseAfter), false
		}
	}
	if made := object.GetCreationTimestamp().Time; missing && made.After(at) {
		at = made
	}
	if missing {
		after = poolPatience
	}
	return time.Since(at.Add(after))
}

// orphanClaims finds claims of ours that no machine will ever use.
func (i *inventory) orphanClaims(grace time.Duration) []error {
	var violations []error
	for _, claim := range i.claims {
		if _, ours := claim.GetLabels()[ipam.MachineLabel]; !ours || claim.GetDeletionTimestamp() != nil || ipam.IsReleased(&claim) {
			continue
		}
		machine := ipam.HolderOf(&claim).Name
		if _, ofCluster := holderOf(&claim); !ofCluster && i.machineByName[types.NamespacedName{Namespace: claim.GetNamespace(), Name: machine}] != nil || i.isOfEndpoint(&claim) {
			continue
		}
		stamp, err := ipam.StampOf(&claim)
		if err != nil {
			violations = append(violations, violation(invariantNoOrphans, "claim %s: %v", client.ObjectKeyFromObject(&claim), err))
		} else if age := time.Since(stamp.Time); age >= grace {
			violations = append(violations, violation(invariantNoOrphans, "claim %s is of machine %q, which does not exist, and was last used %s ago",
				client.ObjectKeyFromObject(&claim), machine, age.Round(time.Millisecond)))
		}
	}
	return violations
}

// heldClaims finds claims whose deletion we hold up for nobody.
func (i *inventory) heldClaims() []error {
	var violations []error
	for _, claim := range i.claims {
		if claim.GetDeletionTimestamp() == nil || !slices.Contains(claim.GetFinalizers(), ipam.InUseFinalizer) || ipam.IsReleased(&claim) {
			continue
		}
		owner := capi.OwnerMachine(&claim).UID
		if i.isOfEndpoint(&claim) {
			continue
		}
		if i.machineByUID[owner] == nil && i.vmByOwner[owner] == nil && !i.isOnVM(&claim) {
			violations = append(violations, violation(invariantNoOrphans, "claim %s is being deleted, and held for a machine with UID %q, which has neither machine nor VM",
				client.ObjectKeyFromObject(&claim), owner))
		}
	}
	return violations
}

// orphanAddresses finds addresses that we protect for nobody.
func (i *inventory) orphanAddresses() []error {
	var violations []error
	for _, address := range i.addresses {
		if !slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) || ipam.IsReleased(&address) {
			continue
		}
		if cluster, ofCluster := holderOf(&address); ofCluster {
			if ip, err := netip.ParseAddr(address.IP); err != nil || !i.endpoints.uses(cluster, ip) {
				violations = append(violations, violation(invariantNoOrphans, "address %s (%s) is protected for VSphereCluster %q, and nobody's endpoint",
					client.ObjectKeyFromObject(&address), address.IP, cluster.Name))
			}
			continue
		}
		uid := types.UID(address.GetAnnotations()[ipam.MachineUIDAnnotation])
		if uid != "" && (i.machineByUID[uid] != nil || i.vmByOwner[uid] != nil) {
			continue
		}
		name := types.NamespacedName{Namespace: address.GetNamespace(), Name: ipam.MachineOf(&address)}
		if uid == "" && i.machineByName[name] != nil {
			continue // it is protected, and not adopted yet
		}
		if ip, err := netip.ParseAddr(address.IP); err == nil && i.vmByAddress[spot{address.GetNamespace(), ip}] {
			continue
		}
		violations = append(violations, violation(invariantNoOrphans, "address %s (%s) is protected for machine %q with UID %q, which has neither machine nor VM",
			client.ObjectKeyFromObject(&address), address.IP, ipam.MachineOf(&address), uid))
	}
	return violations
}

// outOfPlace finds addresses of pools that say that they are for other networks, or for
// other failure domains. The network is that of the VM, as CAPV made it.
func (i *inventory) outOfPlace() []error {
	var violations []error
	for _, machine := range i.machines {
		for _, binding := range machine.bindings.Bindings {
			if machine.bindings.Machine != machine.Name {
				continue
			}
			name, address := client.ObjectKeyFromObject(machine), binding.Address.Addr()
			networks := i.stated(machine.Namespace, binding.Pool, ipam.NetworksAnnotation)
			vm := i.vmByOwner[machine.UID]
			if networks != nil && vm != nil && binding.Device.Index < len(vm.Spec.Network.Devices) {
				is := vm.Spec.Network.Devices[binding.Device.Index].NetworkName
				if !slices.ContainsFunc(networks, func(network string) bool { return capi.SameNetwork(network, is) }) {
					violations = append(violations, violation(invariantInPlace, "machine %s has %s of %s, which is for networks %q, on %q",
						name, address, binding.Pool.In(""), networks, is))
				}
			}
			domains := i.stated(machine.Namespace, binding.Pool, ipam.FailureDomainsAnnotation)
			if is, known := i.domainOf(machine); domains != nil && known && !slices.Contains(domains, is) {
				violations = append(violations, violation(invariantInPlace, "machine %s has %s of %s, which is for failure domains %q, in %q",
					name, address, binding.Pool.In(""), domains, is))
			}
		}
	}
	return violations
}

// domainOf is the failure domain of a machine, empty for none, if it has its Machine.
func (i *inventory) domainOf(machine *holder) (name string, known bool) {
	for _, owner := range machine.OwnerReferences {
		if domain, is := i.domains[owner.UID]; is {
			return domain, true
		}
	}
	return "", false
}

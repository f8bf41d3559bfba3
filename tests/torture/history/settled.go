package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// endedOf is when each namespace that was deleted was gone, or its Cluster was lost in a move.
func endedOf(records []Record) map[string]time.Time {
	ended := map[string]time.Time{}
	for _, r := range records {
		switch {
		case r.Fault != nil && r.Fault.Phase == End && r.Fault.Text == "" && (r.Fault.Kind == DeleteNamespace || r.Fault.Kind == DeletePool):
			namespace, _, _ := strings.Cut(r.Fault.Target, " ")
			ended[namespace] = r.Time
		case r.Op != nil && r.Op.Phase == End && r.Op.Kind == Move && r.Op.Outcome != Done:
			ended[r.Op.Namespace] = r.Time
		}
	}
	return ended
}

// forget takes out of the state what is left in a namespace that is gone. The namespace
// controller forgets kinds which an API server does not show yet that was just started, and
// nobody can write them any more. Of a move that failed that alone is told.
func (c *checker) forget(mark Record) {
	for _, object := range c.state.objects {
		if at, gone := c.ended[object.Namespace]; gone && at.Before(mark.Time) {
			c.waits[object.UID] = fmt.Sprintf("%s is left in a namespace that is gone, or lost", object)
			c.state.apply(Record{Time: mark.Time, Object: &Object{Kind: object.Kind, Namespace: object.Namespace, Name: object.Name, Gone: true}})
		}
	}
}

// settled looks at what is claimed of a moment at which nothing happens.
func (c *checker) settled(mark Record) {
	c.forget(mark)
	c.leftClaims(mark)
	c.leftAddresses(mark)
	c.wedged(mark)
	c.waiting(mark)
	c.withoutEndpoint(mark)
	if mark.Mark == Drained {
		c.leftOver(mark)
	}
}

func (c *checker) leftClaims(mark Record) {
	for _, claim := range c.state.of(Metal3Claim, ContractClaim) {
		if c.state.living(claim.Namespace, claim.Machine) || c.state.livesAtEndpoint(claim.Namespace, claim.Endpoint) ||
			c.mayCool(claim, mark) || c.keepsAside(claim) {
			continue
		}
		c.report(claim.UID, c.about(claim, mark, Leaked, fmt.Sprintf("%s is left: there is no machine %q and no control plane %q", claim, claim.Machine, claim.Endpoint)))
	}
}

// keepsAside tells whether a claim keeps an address out of its pool that somebody has.
func (c *checker) keepsAside(claim *seen) bool {
	if !claim.SetAside {
		return false
	}
	for _, kind := range []string{Metal3Address, ContractAddress} {
		address := c.state.objects[key{kind, claim.Namespace, claim.Address}]
		if address != nil && address.Pool == claim.Pool && len(c.state.holders(address.Addresses[0])) > 0 {
			return true
		}
	}
	return false
}

// mayCool tells whether a claim or an address is kept for as long as its pool says.
func (c *checker) mayCool(object *seen, mark Record) bool {
	pool := c.state.pool(object.Namespace, object.Pool)
	return object.Cools && pool != nil && mark.Time.Sub(object.cools) < pool.CoolDown+c.limits.Wedge
}

// leftAddresses sees that each address object is somebody's. It may be that of a claim
// which is somebody's.
func (c *checker) leftAddresses(mark Record) {
	for _, object := range c.state.of(Metal3Address, ContractAddress) {
		address := object.Addresses[0]
		if len(c.state.holders(address)) > 0 || c.mayCool(object, mark) || c.isAside(object) {
			continue
		}
		if c.mayBeRestored(object, mark) {
			c.waits[object.UID] = fmt.Sprintf("%s (%s) had a machine, and may wait an hour for it", object, address)
			continue
		}
		c.report(object.UID, c.about(object, mark, Leaked, fmt.Sprintf("%s (%s, claim %q, machine %q, finalizers %v) is left, and nobody has the address",
			object, address, object.Claim, object.Machine, object.Finalizers)))
	}
}

// isAside tells whether an address is that of a claim which keeps it out of its pool.
func (c *checker) isAside(object *seen) bool {
	for _, kind := range []string{Metal3Claim, ContractClaim} {
		claim := c.state.objects[key{kind, object.Namespace, object.Claim}]
		if claim != nil && claim.Pool == object.Pool && claim.SetAside {
			return true // leftClaims looks at that
		}
	}
	return false
}

// mayBeRestored tells whether an address looks like one that a backup has brought before its
// machine: a machine had it, and neither its claim nor protection is there. Such a one waits
// an hour, from when a leader has first seen it. Any fault may have brought a new leader.
func (c *checker) mayBeRestored(object *seen, mark Record) bool {
	for _, kind := range []string{Metal3Claim, ContractClaim} {
		if claim := c.state.objects[key{kind, object.Namespace, object.Claim}]; claim != nil {
			return false
		}
	}
	if object.MachineUID == "" && object.Endpoint == "" || slices.Contains(object.Finalizers, inUseFinalizer) {
		return false
	}
	seenFirst := object.since.Time
	for _, fault := range c.faults {
		if fault.to.After(seenFirst) && !fault.from.After(mark.Time) {
			seenFirst = fault.to
		}
	}
	return mark.Time.Sub(seenFirst) < c.limits.Restore
}

// wedged sees that nothing is being deleted for long. An address that somebody deleted
// by hand stays for as long as a machine has it.
func (c *checker) wedged(mark Record) {
	for _, object := range c.state.objects {
		if object.DeletedAt == nil || mark.Time.Sub(*object.DeletedAt) < c.limits.Wedge {
			continue
		}
		if object.isAddress() && len(c.state.holders(object.Addresses[0])) > 0 || c.isLeftByCAPV(object) {
			continue
		}
		c.report(object.UID, c.about(object, mark, Wedged, fmt.Sprintf("%s is being deleted since %s, with finalizers %v",
			object, object.DeletedAt.Format("15:04:05"), object.Finalizers)))
	}
}

// isLeftByCAPV tells of a VSphereCluster that was made under the name of one whose Cluster was
// going, and that the Cluster deleted in place of the other: CAPV does not let it go as long as
// there is no Cluster of the name (GetOwnerCluster, controllers/vspherecluster_reconciler.go). We
// are done with it.
func (c *checker) isLeftByCAPV(object *seen) bool {
	return object.Kind == ControlPlane && c.state.objects[key{Cluster, object.Namespace, object.Name}] == nil &&
		!slices.Contains(object.Finalizers, releaseFinalizer)
}

// waiting sees that each machine has what it asks for, and each deployment its machines,
// if there is room.
func (c *checker) waiting(mark Record) {
	for _, machine := range c.state.of(Machine) {
		// Its user was warned that it gets its addresses when a Machine owns it.
		if (machine.paused || machine.Unnamed) && !machine.Owned {
			continue
		}
		if machine.DeletedAt != nil || machine.ByHand || len(machine.Addresses) >= len(machine.Asks) || c.full(machine.Namespace, machine.Asks) {
			continue
		}
		c.report(machine.UID, c.about(machine, mark, Unserved, fmt.Sprintf("%s has %d of the %d addresses that it asks for",
			machine, len(machine.Addresses), len(machine.Asks))))
	}
	for _, deployment := range c.state.of(MachineDeployment) {
		count := 0
		for _, machine := range c.state.of(Machine) {
			if machine.Namespace == deployment.Namespace && machine.Deployment == deployment.Name && machine.DeletedAt == nil && !machine.ByHand {
				count++
			}
		}
		if deployment.DeletedAt != nil || count >= deployment.Replicas || c.full(deployment.Namespace, deployment.Asks) {
			continue
		}
		c.report(deployment.UID, c.about(deployment, mark, Unserved, fmt.Sprintf("%s has %d of %d machines", deployment, count, deployment.Replicas)))
	}
}

// withoutEndpoint sees that each control plane has the endpoint that it asks for, if its
// Cluster is there, and there is room.
func (c *checker) withoutEndpoint(mark Record) {
	for _, plane := range c.state.of(ControlPlane) {
		cluster := c.state.objects[key{Cluster, plane.Namespace, plane.Name}]
		if plane.DeletedAt != nil || len(plane.Addresses) >= len(plane.Asks) || cluster == nil || cluster.isDone() || cluster.Paused || c.full(plane.Namespace, plane.Asks) {
			continue
		}
		c.report(plane.UID, c.about(plane, mark, Unserved, fmt.Sprintf("%s has no endpoint", plane)))
	}
}

// full tells whether one of the pools has no room, or is not there.
func (c *checker) full(namespace string, pools []string) bool {
	return slices.ContainsFunc(pools, func(pool string) bool {
		size := c.state.size(namespace, pool)
		return size == 0 || c.state.used(namespace, pool) >= size
	})
}

// leftOver sees that nothing is left at all.
func (c *checker) leftOver(mark Record) {
	for _, object := range c.state.of(Machine, VirtualMachine) {
		c.report("drained"+object.UID, c.about(object, mark, Wedged, fmt.Sprintf("%s is left after all was deleted, finalizers %v", object, object.Finalizers)))
	}
	for _, vm := range c.vms.spans {
		if !vm.endsBefore(mark.Time) && vm.from.Before(mark.Time) {
			c.report("drained"+vm.id, Violation{
				Rule: Wedged, Text: fmt.Sprintf("VM %s (%s) is left after all was deleted", vm.name, vm.id),
				Addresses: vm.addresses, Names: []string{vm.name}, From: vm.from, To: mark.Time,
			})
		}
	}
}

// about is a violation by an object that is as it is since its last change.
func (c *checker) about(object *seen, mark Record, rule Rule, text string) Violation {
	names := []string{object.Name}
	if object.Machine != "" {
		names = union(names, []string{object.Machine})
	}
	if object.Endpoint != "" {
		names = union(names, []string{object.Endpoint})
	}
	if object.Claim != "" {
		names = union(names, []string{object.Claim})
	}
	return Violation{Rule: rule, Text: text, Addresses: object.Addresses, Names: names, From: object.since.Time, To: mark.Time}
}

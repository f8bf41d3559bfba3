package inventory

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// hangsAfter is how long a deletion may wait for us. A provider that cannot be written to is
// waited for much shorter.
const hangsAfter = 10 * time.Minute

// claimOfNobody finds claims of ours that no machine and no endpoint will ever use, and
// those that cool down for longer than they should.
func (a *audit) claimOfNobody() []*Finding {
	var findings []*Finding
	a.eachClaim(func(pool *Pool, claim *ipam.Claim) {
		if !claim.GetDeletionTimestamp().IsZero() || a.isPaused(claim) {
			return
		}
		if ipam.IsReleased(claim) {
			if late := a.coolsTooLong(pool, claim); late > 0 {
				findings = append(findings, a.aboutClaim(ClaimOfNobody, Failing, pool, claim).
					because("should have been released %s ago", late.Round(time.Second)).remedy("see if the manager runs, and what its log says of it"))
			}
			return
		}
		if _, ours := claim.GetLabels()[ipam.MachineLabel]; !ours || a.hasHolder(claim) {
			return
		}
		holder := ipam.HolderOf(claim)
		stamp, err := ipam.StampOf(claim)
		if err != nil {
			findings = append(findings, a.aboutClaim(ClaimOfNobody, Failing, pool, claim).because("is of nobody, and says not since when: %v", err).
				remedy("delete it, if nothing uses its address"))
			return
		}
		if age := a.At.Sub(stamp.Time); age >= a.limits.Claim {
			f := a.aboutClaim(ClaimOfNobody, Failing, pool, claim).
				because("is of %s %q, which does not exist, and was last used %s ago", nounOf(holder), holder.Name, age.Round(time.Second)).
				remedy("see if the manager runs; it deletes the claim, after an hour if it had a machine once")
			if freeze := a.freezeOf(claim.GetNamespace(), pool); freeze != nil {
				f.remedy("%s: bring back what the claim is of before that ends, or it is deleted then", freeze)
			}
			findings = append(findings, f)
		}
	})
	return findings
}

func nounOf(holder ipam.Holder) string { return ipam.Machine{Kind: holder.Kind}.Noun() }

// hasHolder tells whether the machine of a claim exists, or its address is that of an endpoint.
func (a *audit) hasHolder(claim *ipam.Claim) bool {
	holder := ipam.HolderOf(claim)
	if holder.Kind == ipam.OfCluster {
		return a.isForEndpoint(claim)
	}
	return a.named[types.NamespacedName{Namespace: claim.GetNamespace(), Name: holder.Name}] != nil
}

// coolsTooLong is for how long a claim or an address should have cooled down, 0 if that is
// not known. Where its pool does not exist, the leader waits for that for a while.
func (a *audit) coolsTooLong(pool *Pool, obj client.Object) time.Duration {
	at, legible := ipam.ReleasedAt(obj)
	if !legible {
		return 0
	}
	after := a.limits.ReuseAfter
	switch {
	case pool.Object == nil && isKnownKind(pool.PoolReference):
		after = allocator.PoolPatience
		if made := obj.GetCreationTimestamp().Time; made.After(at) {
			// A move or a restore has brought it, and the leader counts from there.
			at = made
		}
	case pool.Object != nil:
		if said, says, err := ipam.ReuseAfter(pool.Object); says && err == nil {
			after = said
		}
	}
	late := a.At.Sub(at.Add(after))
	if late < a.limits.Claim {
		return 0
	}
	return late
}

// protectedNobody finds addresses that we protect for nobody. What has a claim that is not
// old yet is about to get its machine, and else is found by its claim.
func (a *audit) protectedNobody() []*Finding {
	var findings []*Finding
	a.eachAddress(func(pool *Pool, address *Address) {
		if !ipam.IsProtected(address) || a.claimOf(address) != nil || a.isPaused(address) {
			return
		}
		f := aboutAddress(ProtectedNobody, Failing, pool, address)
		if ipam.IsReleased(address) {
			if late := a.coolsTooLong(pool, address); late > 0 {
				findings = append(findings, f.because("%s should have been released %s ago", address.Address.IP, late.Round(time.Second)).
					remedy("see if the manager runs, and what its log says of it"))
			}
			return
		}
		if !a.isUsed(address) {
			holder := ipam.HolderOf(address)
			findings = append(findings, f.because("%s is protected for %s %q, which does not use it, and no VM has it", address.Address.IP, nounOf(holder), holder.Name).
				remedy("see if the manager runs; if it stays so, take finalizer %s off", ipam.InUseFinalizer))
		}
	})
	return findings
}

// isUsed tells whether a machine, a VM or an endpoint has a protected address.
func (a *audit) isUsed(address *Address) bool {
	holder := ipam.HolderOf(address)
	key := types.NamespacedName{Namespace: address.GetNamespace(), Name: holder.Name}
	if holder.Kind == ipam.OfCluster {
		return a.isEndpoint(key, address.IP)
	}
	uid := types.UID(address.GetAnnotations()[ipam.MachineUIDAnnotation])
	if uid != "" && (a.machines[uid] != nil || a.vmOf[uid] != nil) {
		return true
	}
	// It is not adopted yet, or its machine was restored.
	if m := a.named[key]; m != nil && (uid == "" || m.holds(address.IP)) {
		return true
	}
	return a.onVM[spot{address.GetNamespace(), address.IP}]
}

// adapterClaim finds claims that the static IP adapter made for machines that have their
// addresses, and that nobody has adopted. It has put no label of the Cluster on them: whether
// anybody is to, is for the machine to say.
func (a *audit) adapterClaim() []*Finding {
	var findings []*Finding
	a.eachClaim(func(pool *Pool, claim *ipam.Claim) {
		if _, ours := claim.GetLabels()[ipam.MachineLabel]; ours || a.At.Sub(claim.GetCreationTimestamp().Time) < hangsAfter {
			return
		}
		m := a.machines[capi.OwnerMachine(claim).UID]
		if m == nil || !m.DeletionTimestamp.IsZero() || m.Namespace != claim.GetNamespace() || annotations.HasPaused(m) || a.isPaused(m) {
			return
		}
		if _, isSlot := ipam.SlotOfClaim(claim, m.Name); !isSlot {
			return
		}
		for _, address := range a.addressesOf(claim) {
			if m.has(address.IP) {
				f := a.aboutClaim(AdapterClaim, Risky, pool, claim).because("is of the static IP adapter, and nobody has adopted it for VSphereMachine %s", m.Name).
					remedy("see if the manager runs, and the events of the machine")
				f.Involved = append(f.Involved, involved(capi.VSphereMachineKind.Kind, m))
				findings = append(findings, f)
				return
			}
		}
	})
	return findings
}

// claimFailed finds claims that their provider has given up.
func (a *audit) claimFailed() []*Finding {
	var findings []*Finding
	a.eachClaim(func(pool *Pool, claim *ipam.Claim) {
		if claim.Failure == "" || claim.Address != "" || !claim.GetDeletionTimestamp().IsZero() || a.At.Sub(claim.GetCreationTimestamp().Time) < a.limits.Claim {
			return
		}
		findings = append(findings, a.aboutClaim(ClaimFailed, Risky, pool, claim).
			because("was refused by the provider of %s, which does not look at it again: %s", pool, claim.Failure).
			remedy("mend the pool, then delete the claim and make it anew"))
	})
	return findings
}

// deletionHangs finds what is being deleted and waits for us alone.
func (a *audit) deletionHangs() []*Finding {
	var findings []*Finding
	waits := func(kind string, obj client.Object, bindings []ipam.Binding) {
		// What is frozen stays, and is found as that.
		if a.isFrozen(obj.GetNamespace(), bindings) || !allocator.IsDone(obj) || !controllerutil.ContainsFinalizer(obj, ipam.ReleaseFinalizer) || a.At.Sub(obj.GetDeletionTimestamp().Time) < hangsAfter {
			return
		}
		f := about(DeletionHangs, Failing, involved(kind, obj)).
			because("is being deleted since %s, and only finalizer %s is left", a.At.Sub(obj.GetDeletionTimestamp().Time).Round(time.Minute), ipam.ReleaseFinalizer).
			remedy("see if the manager runs, and what its log says of it")
		// It keeps all that it has.
		for _, b := range bindings {
			f.on(b.Address.Addr())
		}
		findings = append(findings, f)
	}
	for _, m := range a.Machines {
		waits(capi.VSphereMachineKind.Kind, m, m.Bindings)
	}
	for _, c := range a.Clusters {
		waits(capi.VSphereClusterKind.Kind, c, c.Bindings)
	}
	a.eachClaim(func(pool *Pool, claim *ipam.Claim) {
		if claim.GetDeletionTimestamp().IsZero() || !ipam.IsProtected(claim) || ipam.IsReleased(claim) || a.isForEndpoint(claim) || a.isHeldForSomebody(claim) ||
			a.freezeOf(claim.GetNamespace(), pool) != nil {
			return
		}
		findings = append(findings, a.aboutClaim(DeletionHangs, Failing, pool, claim).
			because("is being deleted, and held for a machine that is gone, with its VM").
			remedy("see if the manager runs; if it stays so, take finalizer %s off", ipam.InUseFinalizer))
	})
	return findings
}

// isFrozen tells whether one of these bindings is frozen.
func (a *audit) isFrozen(namespace string, bindings []ipam.Binding) bool {
	return slices.ContainsFunc(bindings, func(b ipam.Binding) bool {
		pool := a.PoolOf(namespace, b.Pool)
		return pool != nil && a.freezeOf(namespace, pool) != nil
	})
}

// isHeldForSomebody tells whether the machine of a claim exists, or a VM has its address.
func (a *audit) isHeldForSomebody(claim *ipam.Claim) bool {
	if uid := capi.OwnerMachine(claim).UID; uid != "" && (a.machines[uid] != nil || a.vmOf[uid] != nil) {
		return true
	}
	for _, address := range a.addressesOf(claim) {
		if a.onVM[spot{address.GetNamespace(), address.IP}] {
			return true
		}
	}
	return false
}

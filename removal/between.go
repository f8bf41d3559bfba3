package removal

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// between is what is on its way from one state into another, and would free an address,
// or keep it for ever, if nobody finished it. Machines were read before claims and
// addresses, so what is new may be in it for a moment.
func (s *state) between() []string {
	machines, named := map[types.UID]bool{}, map[client.ObjectKey]types.UID{}
	for _, m := range s.graph.Machines {
		machines[m.UID], named[client.ObjectKeyFromObject(m)] = true, m.UID
	}
	var between []string
	for _, claim := range s.claims {
		if isOurs(claim) || ipam.IsProtected(claim.Object) {
			between = append(between, unfinishedClaim(claim, machines)...)
		}
	}
	for _, address := range protected(s.addresses) {
		between = append(between, unfinishedAddress(address, named)...)
	}
	return append(between, s.unfinishedHolders()...)
}

// unfinishedAddress says what is to be done about a protected address, nothing if it is that
// of a machine that is there, or of an endpoint. The VM of a machine that is gone may still
// be there, also if another machine has the name by now.
func unfinishedAddress(address object, named map[client.ObjectKey]types.UID) []string {
	holder := ipam.HolderOf(address.Object)
	there, exists := named[client.ObjectKey{Namespace: address.GetNamespace(), Name: holder.Name}]
	uid := types.UID(address.GetAnnotations()[ipam.MachineUIDAnnotation])
	switch {
	case !address.GetDeletionTimestamp().IsZero():
		return []string{address.String() + " is being deleted"}
	case holder.Kind != ipam.OfMachine || holder.Name == "":
		return nil
	case !exists:
		return []string{fmt.Sprintf("%s is kept for machine %s, which is gone", address, holder.Name)}
	case uid != "" && uid != there:
		return []string{fmt.Sprintf("%s is kept for an earlier machine %s, which is gone", address, holder.Name)}
	}
	return nil
}

// unfinishedClaim says what is to be done about a claim, nothing if it is owned by one of
// the machines, or an endpoint's.
func unfinishedClaim(claim object, machines map[types.UID]bool) []string {
	ofCluster := ipam.HolderOf(claim.Object).Kind == ipam.OfCluster
	owned := slices.ContainsFunc(claim.GetOwnerReferences(), func(owner metav1.OwnerReference) bool { return machines[owner.UID] })
	switch {
	case !claim.GetDeletionTimestamp().IsZero():
		return []string{claim.String() + " is being deleted"}
	case ipam.IsReleased(claim.Object):
		return []string{claim.String() + " cools down"}
	case isOurs(claim) && !ofCluster && !owned:
		return []string{claim.String() + " has no machine"}
	default:
		return nil
	}
}

// unfinishedHolders are machines that go, and holders that do not have the claims of
// their addresses.
func (s *state) unfinishedHolders() []string {
	// Two providers may have claims of one name.
	claims := map[client.ObjectKey][]object{}
	for _, claim := range s.claims {
		key := client.ObjectKeyFromObject(claim)
		claims[key] = append(claims[key], claim)
	}
	var unfinished []string
	for _, m := range s.graph.Machines {
		holder := object{Object: m.VSphereMachine, Kind: capi.VSphereMachineKind.Kind}
		switch {
		case !controllerutil.ContainsFinalizer(m, ipam.ReleaseFinalizer):
			continue
		case !m.DeletionTimestamp.IsZero():
			unfinished = append(unfinished, holder.String()+" is being deleted")
			continue
		}
		for _, b := range m.Bindings {
			if !slices.ContainsFunc(claims[client.ObjectKey{Namespace: m.Namespace, Name: b.Claim}], func(claim object) bool { return isOwnedBy(claim, m.UID) }) {
				unfinished = append(unfinished, fmt.Sprintf("%s has %s, and does not own claim %s", holder, b.Address.Addr(), b.Claim))
			}
		}
	}
	for _, c := range s.graph.Clusters {
		if !controllerutil.ContainsFinalizer(c, ipam.ReleaseFinalizer) {
			continue
		}
		for _, b := range c.Bindings {
			if len(claims[client.ObjectKey{Namespace: c.Namespace, Name: b.Claim}]) == 0 {
				holder := object{Object: c.VSphereCluster, Kind: capi.VSphereClusterKind.Kind}
				unfinished = append(unfinished, fmt.Sprintf("%s has %s, and its claim %s is gone", holder, b.Address.Addr(), b.Claim))
			}
		}
	}
	return unfinished
}

func isOwnedBy(claim object, machine types.UID) bool {
	return slices.ContainsFunc(claim.GetOwnerReferences(), func(owner metav1.OwnerReference) bool { return owner.UID == machine })
}

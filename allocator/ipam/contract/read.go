package contract

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// ReadClaim implements ipam.Objects.
func (Provider) ReadClaim(obj client.Object) ipam.Claim {
	claim := obj.(*ipamv1.IPAddressClaim)
	view := ipam.Claim{
		Object:  claim,
		Pool:    referenceTo(claim.Spec.PoolRef),
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

// ReadAddress implements ipam.Objects.
func (Provider) ReadAddress(obj client.Object) ipam.Address {
	address := obj.(*ipamv1.IPAddress)
	return ipam.Address{
		Object: address,
		Pool:   referenceTo(address.Spec.PoolRef),
		Claim:  address.Spec.ClaimRef.Name,
		IP:     address.Spec.Address,
	}
}

func referenceTo(ref ipamv1.IPPoolReference) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
}

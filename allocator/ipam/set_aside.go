package ipam

import (
	"encoding/json"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// UnfitCause says why an address cannot be given to a machine.
type UnfitCause string

// The causes for which an address is set aside.
const (
	UsedByOther      UnfitCause = "InUse"
	IsGateway        UnfitCause = "Gateway"
	IsNameserver     UnfitCause = "Nameserver"
	IsNetworkAddress UnfitCause = "NetworkAddress"
	IsBroadcast      UnfitCause = "Broadcast"
	GivenTwice       UnfitCause = "GivenTwice"
)

// Unfit is a refusal of an address that its provider will offer again as long as
// it is free.
type Unfit struct {
	Refusal error
	Cause   UnfitCause
	IP      netip.Addr
}

// Error implements error.
func (u *Unfit) Error() string { return u.Refusal.Error() }

// Unwrap leads to the Refusal.
func (u *Unfit) Unwrap() error { return u.Refusal }

// SetAside is the content of SetAsideAnnotation: what a claim keeps from being
// handed out, why, and on which network.
type SetAside struct {
	IP      netip.Addr `json:"ip"`
	Cause   UnfitCause `json:"cause"`
	Network string     `json:"network,omitempty"`
}

// SetAsideOf reads what a claim sets aside, false if it does not.
func SetAsideOf(claim client.Object) (SetAside, bool) {
	var content SetAside
	if !IsSetAside(claim) {
		return content, false
	}
	// Content that cannot be read is empty: the controller then gives the claim back.
	_ = json.Unmarshal([]byte(claim.GetAnnotations()[SetAsideAnnotation]), &content)
	return content, true
}

// IsSetAside tells whether a claim keeps its address from being handed out.
func IsSetAside(claim client.Object) bool {
	_, is := claim.GetLabels()[SetAsideLabel]
	return is
}

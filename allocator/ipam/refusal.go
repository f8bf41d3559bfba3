package ipam

import (
	"errors"
	"fmt"
)

// Reason classifies a refusal for events and metrics.
type Reason string

// The reasons for which a machine can be refused.
const (
	PoolNotFound     Reason = "PoolNotFound"
	PoolTerminating  Reason = "PoolTerminating"
	PoolExhausted    Reason = "PoolExhausted"
	PoolNotServed    Reason = "PoolNotServed"
	PoolForbidden    Reason = "PoolForbidden"
	PoolInvalid      Reason = "PoolInvalid"
	PoolNameInvalid  Reason = "PoolNameInvalid"
	NotBoundInTime   Reason = "NotBoundInTime"
	ClaimNotOurs     Reason = "ClaimNotOurs"
	ClaimTerminating Reason = "ClaimTerminating"
	ClaimRefused     Reason = "ClaimRefused"
	InvalidAddress   Reason = "InvalidAddress"
	AddressInUse     Reason = "AddressInUse"
	AddressRepeated  Reason = "AddressRepeated"
	CoolingDown      Reason = "CoolingDown"
	MachineNotStored Reason = "MachineNotStored"
	AddressLeft      Reason = "AddressLeft"
	NamespaceGone    Reason = "NamespaceTerminating"
	ClusterPaused    Reason = "ClusterPaused"
	TimeoutTooShort  Reason = "TimeoutTooShort"
	BindingsInvalid  Reason = "BindingsInvalid"
	BindingsShared   Reason = "BindingsShared"
	DevicePinned     Reason = "DevicePinned"
	EndpointPinned   Reason = "EndpointPinned"
	DeviceNotFound   Reason = "DeviceNotFound"
	PoolChanged      Reason = "PoolChanged"
	PoolElsewhere    Reason = "PoolElsewhere"
	NoPoolMatches    Reason = "NoPoolMatches"
	// PoolNotForNetwork, PoolNotForFailureDomain and PoolNotAllowed are of pools that
	// say what they are for.
	PoolNotForNetwork       Reason = "PoolNotForNetwork"
	PoolNotForFailureDomain Reason = "PoolNotForFailureDomain"
	PoolNotAllowed          Reason = "PoolNotAllowed"
	GatewayInvalid          Reason = "GatewayInvalid"
	// AddressNotRequestable and AddressTaken are of an address that was asked for.
	AddressNotRequestable Reason = "AddressNotRequestable"
	AddressTaken          Reason = "AddressTaken"
	// AllocationFailed is that of a failure that its reader can do nothing about
	// in the request.
	AllocationFailed Reason = "AllocationFailed"
	// AskedInVain is of a machine that was admitted nevertheless.
	AskedInVain Reason = "AskedInVain"
	// Frozen is of a pool, a namespace or an installation that somebody has frozen.
	Frozen Reason = "Frozen"
)

// Refusal is an error that its reader can act upon: one sentence with the
// object, the cause and the remedy. The sentence is the same on every try of
// the same case, because CAPI copies it into conditions, and a text that
// changes makes it reconcile for ever.
type Refusal struct {
	Reason  Reason
	Message string
	// Shortages are what pools did not have, where looking at one of them will show
	// that it has it. There are none where nothing would.
	Shortages []Shortage
}

// Error is the sentence that the user reads.
func (r *Refusal) Error() string { return r.Message }

// Refuse makes a Refusal.
func Refuse(reason Reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// AsRefusal finds a Refusal in the chain of err.
func AsRefusal(err error) (*Refusal, bool) {
	var r *Refusal
	ok := errors.As(err, &r)
	return r, ok
}

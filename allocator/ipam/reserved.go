package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

// ReservedAnnotation is on a pool that was told to give some of its addresses to nobody: which
// these are, and why. That they are given to nobody is in what its provider reads, see Reserver.
const ReservedAnnotation = "capv-static-ip.dev/reserved"

// Reservations are addresses of a pool that were reserved, and why.
type Reservations map[netip.Addr]string

// ReservationsOf are those that a pool says it has.
func ReservationsOf(pool client.Object) (Reservations, error) {
	text, says := pool.GetAnnotations()[ReservedAnnotation]
	if !says {
		return Reservations{}, nil
	}
	reserved := Reservations{}
	if err := json.Unmarshal([]byte(text), &reserved); err != nil {
		return nil, fmt.Errorf("reading annotation %s: %w", ReservedAnnotation, err)
	}
	return reserved, nil
}

// Keep has a pool say that it has these.
func (r Reservations) Keep(pool client.Object) error {
	if len(r) == 0 {
		annotations := pool.GetAnnotations()
		delete(annotations, ReservedAnnotation)
		pool.SetAnnotations(annotations)
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	kube.SetAnnotation(pool, ReservedAnnotation, string(text))
	return nil
}

// Reserver is a provider whose pools can be told to give an address to nobody, whoever claims.
// Its methods change a pool as it was read, and can be repeated.
type Reserver interface {
	// Withhold has a pool give an address to nobody, and Return undoes that.
	Withhold(pool client.Object, ip netip.Addr) error
	Return(pool client.Object, ip netip.Addr) error
	// Withholding is where that stands in the pool, for people.
	Withholding(ip netip.Addr) string
	// HasNoted tells whether the provider is seen to know the pool as it is now.
	HasNoted(pool client.Object) bool
}

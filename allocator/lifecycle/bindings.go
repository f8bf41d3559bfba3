package lifecycle

import (
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// annotatedBindings are those that the machine's annotation says it holds. An
// annotation written for another machine, or unreadable, says nothing.
func (r *Reconciler) annotatedBindings(ctx context.Context, s *state) []ipam.Binding {
	if !s.exists {
		return nil
	}
	text, ok := s.object.Annotations[ipam.BindingsAnnotation]
	if !ok {
		return nil
	}
	bindings, err := ipam.ParseBindings(text)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Ignoring an annotation")
		return nil
	}
	if bindings.Machine != s.name {
		return nil
	}
	return bindings.Bindings
}

// renamedBinding is a binding as the annotation has it, and the name of the claim
// that it has instead.
type renamedBinding struct {
	ipam.Binding
	claim string
}

// confirmedBindings are those whose claim is the machine's: by its name, by its
// own marks, or by those of its address. What the annotation says, anybody may have
// written. A claim of another name that left no trace (it was kept for the machine
// by one before it) is recreated under the machine's own.
func (r *Reconciler) confirmedBindings(ctx context.Context, s *state, isKnown func(ipam.Binding) bool, addresses []ipam.Address) []ipam.Binding {
	var confirmed []ipam.Binding
	for _, b := range r.annotatedBindings(ctx, s) {
		own := ipam.ClaimName(s.name, b.Slot())
		switch {
		case isKnown(b), isNamedFor(s.name, b.Claim), isMarkedFor(s.name, b, addresses):
			confirmed = append(confirmed, b)
		case deviceOf(s.object, b.Address.Addr()) < 0, slices.ContainsFunc(confirmed, func(other ipam.Binding) bool { return other.Claim == own }):
			klog.FromContext(ctx).Info("Ignoring a binding whose claim is not the machine's", "claim", b.Claim)
		default:
			s.renamed = append(s.renamed, renamedBinding{Binding: b, claim: own})
			b.Claim = own
			confirmed = append(confirmed, b)
		}
	}
	return confirmed
}

// isNamedFor tells whether a claim has a name that claims of this machine have.
func isNamedFor(machine, claim string) bool {
	_, ok := ipam.SlotOfClaim(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: claim}}, machine)
	return ok
}

// isMarkedFor tells whether the address of a binding says that it is the machine's.
func isMarkedFor(machine string, b ipam.Binding, addresses []ipam.Address) bool {
	return slices.ContainsFunc(addresses, func(address ipam.Address) bool {
		return ipam.MachineOf(address) == machine && address.Claim == b.Claim && address.Pool == b.Pool &&
			capi.ParseAddress(address.IP) == b.Address.Addr()
	})
}

// bindingsOf are those in the annotation, none if it cannot be read.
func bindingsOf(machine client.Object) []ipam.Binding {
	bindings, err := ipam.ParseBindings(machine.GetAnnotations()[ipam.BindingsAnnotation])
	if err != nil {
		return nil
	}
	return bindings.Bindings
}

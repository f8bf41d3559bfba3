package inventory

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// What a machine waits for, other than pools and the reason of a refusal.
const (
	// WaitsInVain: its VM exists without the address.
	WaitsInVain = "nothing: too late"
	// WaitsForName: nobody names a pool.
	WaitsForName = "a pool to be named"
)

// WaitsFor is what a machine without an address waits for, empty if it does not wait: the
// pools that it or its template names, or that somebody names one.
func (g *Graph) WaitsFor(m *Machine) string {
	bare, err := m.withoutHeld()
	if err != nil || !m.DeletionTimestamp.IsZero() || !slices.ContainsFunc(m.Spec.Network.Devices, machine.Waits) {
		return ""
	}
	if hasBegun(m, g.vmOf[m.UID]) {
		return WaitsInVain
	}
	askers := []machine.Asker{{Object: &bare.ObjectMeta, Name: "the VSphereMachine"}}
	name := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	if template := g.Templates[types.NamespacedName{Namespace: m.Namespace, Name: name}]; template != nil {
		askers = append(askers, machine.Asker{Object: template, Name: fmt.Sprintf("VSphereMachineTemplate %q", name)})
	}
	asks, _, err := bare.Asks(askers)
	if refusal, is := ipam.AsRefusal(err); is {
		return string(refusal.Reason)
	}
	var pools []string
	for _, ask := range asks {
		if slices.ContainsFunc(m.Bindings, func(b ipam.Binding) bool { return b.Device.Index == ask.Device.Index }) {
			continue
		}
		if text := (machine.Expression{ask.Choices}).String(); !slices.Contains(pools, text) {
			pools = append(pools, text)
		}
	}
	if len(pools) == 0 {
		return WaitsForName
	}
	return strings.Join(pools, ",")
}

// waits tells whether nothing gives a device an address.
func (m *Machine) waits(index int) bool {
	return machine.Waits(m.Spec.Network.Devices[index]) &&
		!slices.ContainsFunc(m.Bindings, func(b ipam.Binding) bool { return b.Device.Index == index })
}

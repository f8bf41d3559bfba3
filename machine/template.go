package machine

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
)

// TemplateWaits tells whether machines of a VSphereMachineTemplate have a device without a
// source of addresses. One without devices gets them from a failure domain.
func TemplateWaits(template *unstructured.Unstructured) bool {
	devices, _, _ := unstructured.NestedSlice(template.Object, "spec", "template", "spec", "network", "devices")
	return len(devices) == 0 || slices.ContainsFunc(devices, func(entry any) bool {
		device, ok := entry.(map[string]any)
		return ok && device["dhcp4"] != true && device["dhcp6"] != true && device["skipIPAllocation"] != true &&
			isEmpty(device["ipAddrs"]) && isEmpty(device["addressesFromPools"])
	})
}

func isEmpty(value any) bool {
	list, _ := value.([]any)
	return len(list) == 0
}

// ChangesTemplate tells whether an update makes a machine one of another template, as
// CAPI does when it updates a machine in place. One that goes is left alone.
func ChangesTemplate(before, after *Machine) bool {
	name := after.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	return name != "" && name != before.Annotations[clusterv1.TemplateClonedFromNameAnnotation] &&
		after.DeletionTimestamp.IsZero() && !isMoving(after)
}

// Unbound is the machine as if its devices had not been given their addresses, for what
// it would ask for now. Devices without a binding ask for nothing: an update claims
// nothing for them. The bindings are of the machine before the update, which Pin has
// found to leave them where they are.
func Unbound(before, after *Machine, held []ipam.Binding) *Machine {
	unbound := *after
	unbound.Spec.Network.Devices = slices.Clone(after.Spec.Network.Devices)
	bound := map[int]bool{}
	for _, b := range held {
		bound[before.boundTo(b)] = true
	}
	skip := true
	for i := range unbound.Spec.Network.Devices {
		d := &unbound.Spec.Network.Devices[i]
		if bound[i] {
			d.IPAddrs = nil
		} else {
			d.SkipIPAllocation = &skip
		}
	}
	return &unbound
}

// Meant is an ask with the pools from which its address may be.
type Meant struct {
	ipam.Ask
	Pools []ipam.PoolReference
}

// CheckPools returns a Refusal if a device that holds addresses is now to have others:
// of other pools, or more or fewer. For a device for which nobody asks any more nothing
// is to be different.
func CheckPools(before *Machine, held []ipam.Binding, asked []Meant) error {
	count := map[int]int{}
	for _, b := range held {
		count[before.boundTo(b)]++
	}
	for _, b := range held {
		i := before.boundTo(b)
		now := slices.DeleteFunc(slices.Clone(asked), func(ask Meant) bool { return ask.Device.Index != i })
		same := slices.ContainsFunc(now, func(ask Meant) bool { return ask.Nth == b.Slot().Nth && slices.Contains(ask.Pools, b.Pool) })
		if len(now) == 0 || same && len(now) == count[i] {
			continue
		}
		return ipam.Refuse(ipam.PoolChanged, "device %d holds %s from %s %q, and %s asks for other pools now: "+
			"replace the machine, or name the pools that it has there", i, b.Address, b.Pool.Kind, b.Pool.Name, now[0].AskedBy)
	}
	return nil
}

package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator"
)

// machine is what admission reads of a VSphereMachine. These fields have the
// same names and shapes in v1beta1 and v1beta2 of the API.
type machine struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ProviderID string `json:"providerID"`
		Network    struct {
			Devices []infrav1.NetworkDeviceSpec `json:"devices"`
		} `json:"network"`
	} `json:"spec"`
}

func decodeMachine(raw []byte) (*machine, error) {
	if len(raw) == 0 {
		return nil, errors.New("the request holds no VSphereMachine")
	}
	m := &machine{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("reading the VSphereMachine: %w", err)
	}
	return m, nil
}

// eligible tells whether a device waits for a static address: whatever gives it
// another source of addresses, or none on purpose, is the user's own decision.
func eligible(d infrav1.NetworkDeviceSpec) bool {
	return !hasDHCP(d) && len(d.IPAddrs) == 0 && len(d.AddressesFromPools) == 0 && !isTrue(d.SkipIPAllocation)
}

func hasDHCP(d infrav1.NetworkDeviceSpec) bool { return isTrue(d.DHCP4) || isTrue(d.DHCP6) }

func isTrue(b *bool) bool { return b != nil && *b }

func deviceOf(d infrav1.NetworkDeviceSpec, index int) allocator.Device {
	return allocator.Device{Index: index, DeviceName: d.DeviceName, NetworkName: d.NetworkName}
}

// hasLife tells whether the object had a life before this create: it was moved
// by clusterctl or restored from a backup, and a VM may stand behind it.
func (m *machine) hasLife() bool {
	_, bound := m.Annotations[allocator.BindingsAnnotation]
	return bound || m.Spec.ProviderID != "" || slices.ContainsFunc(m.OwnerReferences, isMachineOwner)
}

func isMachineOwner(owner metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	return err == nil && gv.Group == clusterv1.GroupVersion.Group && owner.Kind == "Machine"
}

// bindings are those of the machine's annotation, none if it has no annotation.
func (m *machine) bindings() (allocator.Bindings, error) {
	text, ok := m.Annotations[allocator.BindingsAnnotation]
	if !ok {
		return allocator.Bindings{}, nil
	}
	bindings, err := allocator.ParseBindings(text)
	if err != nil {
		return bindings, allocator.Refuse(allocator.BindingsInvalid,
			"annotation %s cannot be read as bindings: remove it, so that addresses are claimed anew", allocator.BindingsAnnotation)
	}
	return bindings, nil
}

func (m *machine) identity() allocator.Machine {
	return allocator.Machine{
		NamespacedName: types.NamespacedName{Namespace: m.Namespace, Name: m.Name},
		Cluster:        m.Labels[clusterv1.ClusterNameLabel],
		WatchFilter:    m.Labels[clusterv1.WatchLabel],
	}
}

// owner is for whom the machine is made, empty if nobody is named.
func (m *machine) owner() allocator.Owner {
	owners := m.owners()
	if len(owners) == 0 {
		return allocator.Owner{}
	}
	return allocator.Owner{Kind: owners[0].Kind, Name: owners[0].Name, UID: owners[0].UID}
}

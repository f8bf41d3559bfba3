package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Machine is what admission reads of a VSphereMachine. These fields have the
// same names and shapes in v1beta1 and v1beta2 of the API.
type Machine struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ProviderID string `json:"providerID"`
		Network    struct {
			Devices []infrav1.NetworkDeviceSpec `json:"devices"`
		} `json:"network"`
	} `json:"spec"`

	// Held are the bindings that an earlier call for the same create has made. They are
	// set before the machine is served; NewWants passes over their devices.
	Held []ipam.Binding
}

// Decode reads a VSphereMachine as the API server sends it.
func Decode(raw []byte) (*Machine, error) {
	if len(raw) == 0 {
		return nil, errors.New("the request holds no VSphereMachine")
	}
	m := &Machine{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("reading the VSphereMachine: %w", err)
	}
	return m, nil
}

// MaxOwners is the number of owners of one machine that are told of its refusal.
// CAPI's machines have one.
const MaxOwners = 3

// Eligible tells whether a device waits for a static address: whatever gives it
// another source of addresses, or none on purpose, is the user's own decision.
func Eligible(d infrav1.NetworkDeviceSpec) bool {
	return !hasDHCP(d) && len(d.IPAddrs) == 0 && len(d.AddressesFromPools) == 0 && !isTrue(d.SkipIPAllocation)
}

// Waits is Eligible of a device as it is read back.
func Waits(d capi.Device) bool {
	return Eligible(infrav1.NetworkDeviceSpec{
		DHCP4: d.DHCP4, DHCP6: d.DHCP6, SkipIPAllocation: d.SkipIPAllocation, IPAddrs: d.IPAddrs,
		AddressesFromPools: make([]infrav1.IPPoolReference, len(d.AddressesFromPools)),
	})
}

// isServed tells whether a device waits for an address of ours, or has got one by
// an earlier call for the same create.
func (m *Machine) isServed(d infrav1.NetworkDeviceSpec) bool {
	return Eligible(d) || slices.ContainsFunc(m.Held, func(b ipam.Binding) bool { return hasAddress(d, b.Address.Addr()) })
}

func hasDHCP(d infrav1.NetworkDeviceSpec) bool { return isTrue(d.DHCP4) || isTrue(d.DHCP6) }

func isTrue(b *bool) bool { return b != nil && *b }

// hasAddress tells whether an address is on a device, with whatever prefix length.
func hasAddress(d infrav1.NetworkDeviceSpec, ip netip.Addr) bool {
	return slices.ContainsFunc(d.IPAddrs, func(text string) bool { return isAddress(text, ip) })
}

// isAddress tells whether an entry of ipAddrs is an address, with whatever prefix
// length.
func isAddress(text string, ip netip.Addr) bool { return addressOf(text).Addr() == ip.Unmap() }

// addressOf reads an entry of ipAddrs. It is the zero Prefix if the entry is no
// address.
func addressOf(text string) netip.Prefix {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(ip, ip.BitLen())
}

// DeviceOf is how a binding names the device with this index.
func DeviceOf(d infrav1.NetworkDeviceSpec, index int) ipam.Device {
	return ipam.Device{Index: index, DeviceName: d.DeviceName, NetworkName: d.NetworkName}
}

// DeviceWith is the index of the device with an address, -1 if none has it.
func (m *Machine) DeviceWith(ip netip.Addr) int {
	return slices.IndexFunc(m.Spec.Network.Devices, func(d infrav1.NetworkDeviceSpec) bool { return hasAddress(d, ip) })
}

// deviceNamed is the index of the device that an annotation means by its index
// or its deviceName, -1 if there is none.
func (m *Machine) deviceNamed(key string) int {
	index, err := strconv.Atoi(key)
	if err == nil && strconv.Itoa(index) == key && index >= 0 && index < len(m.Spec.Network.Devices) {
		return index
	}
	return slices.IndexFunc(m.Spec.Network.Devices, func(d infrav1.NetworkDeviceSpec) bool { return d.DeviceName == key })
}

// maxDescribed bounds the devices that a sentence lists.
const maxDescribed = 10

// devices is how a sentence lists the devices that a machine has.
func (m *Machine) devices() string {
	all := m.Spec.Network.Devices
	if len(all) == 0 {
		return "it lists none"
	}
	names := make([]string, 0, maxDescribed)
	for i := range all[:min(len(all), maxDescribed)] {
		names = append(names, m.describe(i))
	}
	text := "it has " + strings.Join(names, ", ")
	if more := len(all) - maxDescribed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// describe is how a sentence names one device.
func (m *Machine) describe(index int) string {
	d := m.Spec.Network.Devices[index]
	text := fmt.Sprintf("%d (networkName %q", index, d.NetworkName)
	if d.DeviceName != "" {
		text += fmt.Sprintf(", deviceName %q", d.DeviceName)
	}
	return text + ")"
}

// ExistedBefore tells whether the object had a life before this create: it was moved
// by clusterctl or restored from a backup, and a VM may stand behind it.
func (m *Machine) ExistedBefore() bool {
	_, bound := m.Annotations[ipam.BindingsAnnotation]
	return bound || m.HasVM()
}

// HasVM tells whether a VM stands behind the object, or is being made for it.
func (m *Machine) HasVM() bool {
	_, owned := OwnerOf(m)
	return m.Spec.ProviderID != "" || owned
}

// OwnerOf is the reference to the Machine that owns a VSphereMachine, false if none
// does.
func OwnerOf(m metav1.Object) (metav1.OwnerReference, bool) {
	owners := m.GetOwnerReferences()
	i := slices.IndexFunc(owners, func(owner metav1.OwnerReference) bool {
		gv, err := schema.ParseGroupVersion(owner.APIVersion)
		return err == nil && gv.Group == clusterv1.GroupVersion.Group && owner.Kind == "Machine"
	})
	if i < 0 {
		return metav1.OwnerReference{}, false
	}
	return owners[i], true
}

// Bindings are those of the machine's annotation, none if it has no annotation.
func (m *Machine) Bindings() (ipam.Bindings, error) {
	text, ok := m.Annotations[ipam.BindingsAnnotation]
	if !ok {
		return ipam.Bindings{}, nil
	}
	bindings, err := ipam.ParseBindings(text)
	if err != nil {
		return ipam.Bindings{}, ipam.Refuse(ipam.BindingsInvalid,
			"annotation %s cannot be read as bindings: remove it, so that addresses are claimed anew", ipam.BindingsAnnotation)
	}
	return bindings, nil
}

// Identity is the machine as its addresses are claimed for it.
func (m *Machine) Identity() ipam.Machine {
	return ipam.Machine{
		NamespacedName: types.NamespacedName{Namespace: m.Namespace, Name: m.Name},
		Cluster:        m.Labels[clusterv1.ClusterNameLabel],
		WatchFilter:    m.Labels[clusterv1.WatchLabel],
	}
}

// Owner is for whom the machine is made, empty if nobody is named.
func (m *Machine) Owner(user string) ipam.Owner {
	owners := m.Owners()
	if len(owners) == 0 {
		return ipam.Owner{}
	}
	return ipam.Owner{Kind: owners[0].Kind, Name: owners[0].Name, UID: owners[0].UID, User: user}
}

// Owners are those that CAPI writes on a machine at its creation. None of them
// is marked as the controller: that is to be the Machine later.
func (m *Machine) Owners() []metav1.OwnerReference {
	refs := slices.DeleteFunc(slices.Clone(m.OwnerReferences), func(ref metav1.OwnerReference) bool {
		return ref.UID == "" || ref.Name == "" || ref.Kind == ""
	})
	return refs[:min(len(refs), MaxOwners)]
}

// IsOurs tells whether a machine bears the marks of one that we have served.
func (m *Machine) IsOurs() bool {
	_, bound := m.Annotations[ipam.BindingsAnnotation]
	return bound || slices.Contains(m.Finalizers, ipam.ReleaseFinalizer)
}

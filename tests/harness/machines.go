package harness

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// MachineFinalizer is CAPV's own finalizer on a VSphereMachine: it goes when
// the virtual machine is gone.
const MachineFinalizer = capvv1.MachineFinalizer

// Machine is a VSphereMachine of the default Cluster as CAPI makes it, with one
// device that has no source of addresses yet.
func Machine(namespace, name string, options ...Option) *capvv1.VSphereMachine {
	machine := &capvv1.VSphereMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       capvv1.VSphereMachineSpec{VirtualMachineCloneSpec: cloneSpec()},
	}
	WithCluster(DefaultCluster)(machine)
	return with(machine, options)
}

// Template is a VSphereMachineTemplate whose machines are those of Machine.
func Template(namespace, name string, options ...Option) *capvv1.VSphereMachineTemplate {
	template := &capvv1.VSphereMachineTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	template.Spec.Template.Spec.VirtualMachineCloneSpec = cloneSpec()
	return with(template, options)
}

// VSphereVM is the virtual machine that CAPV makes for a VSphereMachine that
// exists, owned by it.
func VSphereVM(machine *capvv1.VSphereMachine, options ...Option) *capvv1.VSphereVM {
	vm := &capvv1.VSphereVM{
		ObjectMeta: metav1.ObjectMeta{Namespace: machine.Namespace, Name: machine.Name},
		Spec:       capvv1.VSphereVMSpec{VirtualMachineCloneSpec: machine.Spec.VirtualMachineCloneSpec},
	}
	WithCluster(DefaultCluster)(vm)
	WithOwner(machine)(vm)
	return with(vm, options)
}

// Clone gives a machine everything that a template has, in the way CAPI clones
// it: the annotations that name the template, and its devices.
func Clone(template *capvv1.VSphereMachineTemplate, name string, options ...Option) *capvv1.VSphereMachine {
	machine := Machine(template.Namespace, name, FromTemplate(template.Name))
	template.Spec.Template.Spec.DeepCopyInto(&machine.Spec)
	for key, value := range template.Spec.Template.ObjectMeta.Labels {
		WithLabel(key, value)(machine)
	}
	for key, value := range template.Spec.Template.ObjectMeta.Annotations {
		WithAnnotation(key, value)(machine)
	}
	return with(machine, options)
}

// FromTemplate sets the annotations by which CAPI says what a machine was
// cloned from.
func FromTemplate(name string) Option {
	return func(object client.Object) {
		WithAnnotation(clusterv1.TemplateClonedFromNameAnnotation, name)(object)
		WithAnnotation(clusterv1.TemplateClonedFromGroupKindAnnotation, "VSphereMachineTemplate."+capvv1.GroupName)(object)
	}
}

// WithDevices sets the devices of a machine or a template. A machine without
// any has to be sent as Unstructured: the type leaves an empty list out, and
// the API asks for it.
func WithDevices(devices ...capvv1.NetworkDeviceSpec) Option {
	return func(object client.Object) {
		list := append([]capvv1.NetworkDeviceSpec{}, devices...)
		switch object := object.(type) {
		case *capvv1.VSphereMachine:
			object.Spec.Network.Devices = list
		case *capvv1.VSphereMachineTemplate:
			object.Spec.Template.Spec.Network.Devices = list
		case *capvv1.VSphereVM:
			object.Spec.Network.Devices = list
		default:
			panic(fmt.Sprintf("a %T has no devices", object))
		}
	}
}

// keepEmptyDevices puts a list of devices that is there, and empty, into a
// manifest that was made from the type.
func keepEmptyDevices(object client.Object, manifest *unstructured.Unstructured) error {
	var devices []capvv1.NetworkDeviceSpec
	path := []string{"spec", "network", "devices"}
	switch object := object.(type) {
	case *capvv1.VSphereMachine:
		devices = object.Spec.Network.Devices
	case *capvv1.VSphereVM:
		devices = object.Spec.Network.Devices
	case *capvv1.VSphereMachineTemplate:
		devices = object.Spec.Template.Spec.Network.Devices
		path = append([]string{"spec", "template"}, path...)
	}
	if devices == nil || len(devices) > 0 {
		return nil
	}
	return unstructured.SetNestedSlice(manifest.Object, []any{}, path...)
}

// WithProviderID makes a machine one whose virtual machine exists.
func WithProviderID(id string) Option {
	return func(object client.Object) {
		machine, ok := object.(*capvv1.VSphereMachine)
		if !ok {
			panic(fmt.Sprintf("a %T has no providerID", object))
		}
		machine.Spec.ProviderID = id
	}
}

// StaticDevice has neither DHCP nor an address: it needs one of ours.
func StaticDevice() capvv1.NetworkDeviceSpec {
	off := false
	return capvv1.NetworkDeviceSpec{NetworkName: "VM Network", DHCP4: &off}
}

// DHCPDevice gets its address from the network.
func DHCPDevice() capvv1.NetworkDeviceSpec {
	on := true
	return capvv1.NetworkDeviceSpec{NetworkName: "VM Network", DHCP4: &on}
}

// FixedDevice has been given its address by its user.
func FixedDevice(address string) capvv1.NetworkDeviceSpec {
	device := StaticDevice()
	device.IPAddrs = []string{address}
	return device
}

// SkippedDevice is to have no address at all.
func SkippedDevice() capvv1.NetworkDeviceSpec {
	device, on := StaticDevice(), true
	device.SkipIPAllocation = &on
	return device
}

// PooledDevice gets its address by CAPV's own way.
func PooledDevice(pool string) capvv1.NetworkDeviceSpec {
	device := StaticDevice()
	device.AddressesFromPools = []capvv1.IPPoolReference{{
		APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: pool,
	}}
	return device
}

// cloneSpec is what every virtual machine needs.
func cloneSpec() capvv1.VirtualMachineCloneSpec {
	return capvv1.VirtualMachineCloneSpec{
		Server:       "vcenter.example.com",
		Datacenter:   "DC0",
		Datastore:    "LocalDS_0",
		Folder:       "/DC0/vm",
		ResourcePool: "/DC0/host/DC0_C0/Resources",
		Template:     "ubuntu-2404-kube-v1.36.3",
		CloneMode:    capvv1.FullClone,
		Network:      capvv1.NetworkSpec{Devices: []capvv1.NetworkDeviceSpec{StaticDevice()}},
		NumCPUs:      4,
		MemoryMiB:    8192,
		DiskGiB:      80,
	}
}

// Addresses lists the addresses of all devices of a machine, in order.
func Addresses(machine *capvv1.VSphereMachine) []string {
	var addresses []string
	for _, device := range machine.Spec.Network.Devices {
		addresses = append(addresses, device.IPAddrs...)
	}
	return addresses
}

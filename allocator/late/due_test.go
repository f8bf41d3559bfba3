package late

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// machineDue is a machine that is due, changed.
func machineDue(change ...func(*capi.VSphereMachine)) *capi.VSphereMachine {
	m := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0", UID: "uid", Generation: 1, ResourceVersion: "1",
		Labels:          map[string]string{"cluster.x-k8s.io/ip-pool-name": "pool"},
		Annotations:     map[string]string{},
		Finalizers:      []string{infrav1.MachineFinalizer},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: clusterv1.GroupVersion.String(), Kind: "Machine", Name: "cp-0", UID: "machine"}},
	}}
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "a"}}
	for _, c := range change {
		c(m)
	}
	return m
}

func TestMachineIsDueWhenCAPVKnowsItAndHasNoVMYet(t *testing.T) {
	now, yes, no := metav1.Now(), true, false
	annotated := func(key string) func(*capi.VSphereMachine) {
		return func(m *capi.VSphereMachine) { m.Annotations[key] = "" }
	}
	on := func(devices ...capi.Device) func(*capi.VSphereMachine) {
		return func(m *capi.VSphereMachine) { m.Spec.Network.Devices = devices }
	}
	for name, test := range map[string]struct {
		change func(*capi.VSphereMachine)
		want   bool
	}{
		"as it is":                  {func(*capi.VSphereMachine) {}, true},
		"without a Machine":         {func(m *capi.VSphereMachine) { m.OwnerReferences = nil }, false},
		"of a MachineSet":           {func(m *capi.VSphereMachine) { m.OwnerReferences[0].Kind = "MachineSet" }, false},
		"of another API's Machine":  {func(m *capi.VSphereMachine) { m.OwnerReferences[0].APIVersion = "example.org/v1" }, false},
		"without CAPV's finalizer":  {func(m *capi.VSphereMachine) { m.Finalizers = nil }, false},
		"with ours":                 {func(m *capi.VSphereMachine) { m.Finalizers = append(m.Finalizers, ipam.ReleaseFinalizer) }, false},
		"with bindings":             {annotated(ipam.BindingsAnnotation), false},
		"with a provider ID":        {func(m *capi.VSphereMachine) { m.Spec.ProviderID = "vsphere://x" }, false},
		"being deleted":             {func(m *capi.VSphereMachine) { m.DeletionTimestamp = &now }, false},
		"paused":                    {annotated(clusterv1.PausedAnnotation), false},
		"being moved":               {annotated(clusterctlv1.DeleteForMoveAnnotation), false},
		"without devices":           {on(), false},
		"with an address":           {on(capi.Device{IPAddrs: []string{"10.0.0.1/24"}}), false},
		"on DHCP":                   {on(capi.Device{DHCP4: &yes}), false},
		"on DHCP for IPv6":          {on(capi.Device{DHCP6: &yes}), false},
		"skipped":                   {on(capi.Device{SkipIPAllocation: &yes}), false},
		"with a pool of CAPV's":     {on(capi.Device{AddressesFromPools: []capi.PoolOfOthers{{}}}), false},
		"a second device that does": {on(capi.Device{DHCP4: &yes}, capi.Device{DHCP4: &no, DHCP6: &no, SkipIPAllocation: &no}), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isDue(machineDue(test.change)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

package release

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
)

func TestVMThatKeepsAnAddress(t *testing.T) {
	owned := func(name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: capi.VSphereMachineKind.Kind, Name: name, UID: uid}}
	}
	on := func(ip string) capi.VSphereVMSpec {
		return capi.VSphereVMSpec{Network: capi.Network{Devices: []capi.Device{{IPAddrs: []string{ip}}}}}
	}
	for name, test := range map[string]struct {
		machine machineState
		holding holding
		owners  []metav1.OwnerReference
		spec    capi.VSphereVMSpec
		status  capi.VSphereVMStatus
		want    bool
	}{
		"of the machine by the UID on the address":   {machine: absent(), holding: bound(), owners: owned("cp-0", "uid"), want: true},
		"of the machine, address never protected":    {machine: dying(), holding: bound(unprotected), owners: owned("cp-0", "uid"), want: true},
		"of the machine, which was given another":    {machine: living(), holding: spareClaim(0), owners: owned("cp-0", "uid")},
		"of that one, with the address all the same": {machine: living(), holding: spareClaim(0), owners: owned("cp-0", "uid"), spec: on("10.0.0.1/24"), want: true},
		"of the machine, which shows the address":    {machine: living(), holding: spareClaim(0, onDevice), owners: owned("cp-0", "uid"), want: true},
		"of a machine of its name, before adoption":  {machine: absent(), holding: bound(unprotected), owners: owned("cp-0", "other"), want: true},
		"of a later machine of its name":             {machine: absent(), holding: bound(), owners: owned("cp-0", "later")},
		"of that one, with the address":              {machine: absent(), holding: bound(), owners: owned("cp-0", "later"), spec: on("10.0.0.1/24"), want: true},
		"of nobody, on a device":                     {machine: absent(), holding: bound(), spec: on("10.0.0.1/24"), want: true},
		"of nobody, without prefix":                  {machine: absent(), holding: bound(), spec: on("10.0.0.1"), want: true},
		"of nobody, reported":                        {machine: absent(), holding: bound(), status: capi.VSphereVMStatus{Addresses: []string{"fe80::1", "10.0.0.1"}}, want: true},
		"of nobody, reported of a NIC":               {machine: absent(), holding: bound(), status: capi.VSphereVMStatus{Network: []capi.NetworkStatus{{IPAddrs: []string{"::ffff:10.0.0.1"}}}}, want: true},
		"of nobody, another address":                 {machine: absent(), holding: bound(), spec: on("10.0.0.11/24")},
		"of nobody, no address is known":             {machine: absent(), holding: bound(withoutAddress), spec: on("10.0.0.1/24")},
		"of another machine, with the address":       {machine: dying(), holding: bound(), owners: owned("cp-1", "uid-1"), spec: on("10.0.0.1/24")},
		"of the machine after a move":                {machine: dying(), holding: bound(earlierUID), owners: owned("cp-0", "uid"), spec: on("10.0.0.1/24"), want: true},
	} {
		t.Run(name, func(t *testing.T) {
			vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{OwnerReferences: test.owners}, Spec: test.spec, Status: test.status}
			if got := test.holding.isOfVM(vm, test.machine); got != test.want {
				t.Errorf("it keeps the address: %t, want %t", got, test.want)
			}
		})
	}
}

package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

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

// aVM is a VSphereVM with an address that these own.
func aVM(name, ip string, owners ...metav1.OwnerReference) *capi.VSphereVM {
	vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, OwnerReferences: owners}}
	vm.Spec.Network.Devices = []capi.Device{{IPAddrs: []string{ip}}}
	return vm
}

func ownerNamed(name string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "x/v1", Kind: capi.VSphereMachineKind.Kind, Name: name, UID: types.UID(name + "-uid")}
}

// noting notes what is read of VMs, and has something happen after each list.
func noting(c client.Client, reads *[]string, listed func()) client.Reader {
	return interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			*reads = append(*reads, "get "+key.Name)
			return c.Get(ctx, key, obj, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			*reads = append(*reads, fmt.Sprintf("list %T", list))
			defer listed()
			return c.List(ctx, list, opts...)
		},
	})
}

func TestVMsAreReadInFullOnlyWhereTheirAddressMatters(t *testing.T) {
	const metadata, full = "list *v1.PartialObjectMetadataList", "list *capi.VSphereVMList"
	var many []client.Object
	for i := range maxWhole {
		many = append(many, aVM(fmt.Sprintf("nobodys-%d", i), "10.0.9.1/24"))
	}
	for name, test := range map[string]struct {
		vms   []client.Object
		reads []string
		want  bool
	}{
		"none":                                  {nil, []string{metadata}, false},
		"another machine's":                     {[]client.Object{aVM("other", "10.0.0.1/24", ownerNamed("other"))}, []string{metadata}, false},
		"nobody's, with the address":            {[]client.Object{aVM("a", "10.0.0.1/24"), aVM("b", "10.0.0.7/24")}, []string{metadata, "get a", "get b"}, true},
		"nobody's, with another":                {[]client.Object{aVM("a", "10.0.0.7/24")}, []string{metadata, "get a"}, false},
		"a later machine's, with the address":   {[]client.Object{aVM("a", "10.0.0.1/24", ownerNamed("cp-0"))}, []string{metadata, "get a"}, true},
		"nobody's, and as many as are read":     {many, append([]string{metadata}, getsOf(many)...), false},
		"more of nobody, one with the address":  {append([]client.Object{aVM("a", "10.0.0.1/24")}, many...), []string{metadata, full}, true},
		"more of nobody, none with the address": {append([]client.Object{aVM("a", "10.0.0.7/24")}, many...), []string{metadata, full}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := reconciler(t, test.vms...)
			var reads []string
			r.live = noting(r.client, &reads, func() {})
			h := bound()
			s := &state{machineState: absent(), namespace: "ns", holdings: []*holding{&h}}
			if err := r.observeVMs(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if h.vmExists != test.want {
				t.Errorf("a VM keeps the address: %t, want %t", h.vmExists, test.want)
			}
			if !slices.Equal(reads, test.reads) {
				t.Errorf("it read %v, want %v", reads, test.reads)
			}
		})
	}
}

func getsOf(objects []client.Object) []string {
	gets := make([]string, len(objects))
	for i, obj := range objects {
		gets[i] = "get " + obj.GetName()
	}
	return gets
}

func TestVMThatGoesWhileItIsLookedAtKeepsNothing(t *testing.T) {
	vm := aVM("a", "10.0.0.1/24")
	r := reconciler(t, vm)
	var reads []string
	r.live = noting(r.client, &reads, func() {
		if err := r.client.Delete(t.Context(), vm); err != nil {
			t.Error(err)
		}
	})
	h := bound()
	if err := r.observeVMs(t.Context(), &state{machineState: absent(), namespace: "ns", holdings: []*holding{&h}}); err != nil {
		t.Fatal(err)
	}
	if h.vmExists {
		t.Error("a VM that is gone keeps the address")
	}
}

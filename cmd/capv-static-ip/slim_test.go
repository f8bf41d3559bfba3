package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func TestSlimObjectsKeepWhatIsRead(t *testing.T) {
	long := strings.Repeat("x", maxAnnotations)
	for name, test := range map[string]struct {
		object metav1.Object
		given  map[string]string
		want   map[string]string
	}{
		"nothing": {object: &ipamv1.IPClaim{}},
		"only what is read": {
			object: &ipamv1.IPClaim{},
			given:  map[string]string{ipam.MachineNameAnnotation: "m", "ipAddress": "10.0.0.1", "cluster.x-k8s.io/paused": ""},
			want:   map[string]string{ipam.MachineNameAnnotation: "m", "ipAddress": "10.0.0.1", "cluster.x-k8s.io/paused": ""},
		},
		"others, of which a name is left": {
			object: &ipamv1.IPAddress{},
			given:  map[string]string{ipam.MachineNameAnnotation: "m", lastApplied: long, "example.org/a": "a"},
			want:   map[string]string{ipam.MachineNameAnnotation: "m", lastApplied: ""},
		},
		"too much, of which ours is kept": {
			object: &ipamv1.IPAddress{},
			given:  map[string]string{ipam.MachineNameAnnotation: "m", "a.cluster.x-k8s.io/a": long},
			want:   map[string]string{ipam.MachineNameAnnotation: "m", "a.cluster.x-k8s.io/a": ""},
		},
		"statements of a pool, of which the names are left": {
			object: &ipamv1.IPPool{},
			given:  map[string]string{ipam.UsedByAnnotation: long, ipam.NetworksAnnotation: long, ipam.FailureDomainsAnnotation: long, lastApplied: long},
			want:   map[string]string{ipam.UsedByAnnotation: "", ipam.NetworksAnnotation: "", ipam.FailureDomainsAnnotation: "", lastApplied: ""},
		},
		"bindings of a machine": {
			object: &capi.VSphereMachine{},
			given:  map[string]string{ipam.BindingsAnnotation: long, lastApplied: long},
			want:   map[string]string{ipam.BindingsAnnotation: long, lastApplied: ""},
		},
		"bindings that no machine can have": {
			object: &capi.VSphereMachine{},
			given:  map[string]string{ipam.BindingsAnnotation: strings.Repeat("x", ipam.MaxBindingsSize+1)},
			want:   map[string]string{ipam.BindingsAnnotation: ""},
		},
		"bindings of something else": {
			object: &ipamv1.IPClaim{},
			given:  map[string]string{ipam.BindingsAnnotation: long},
			want:   map[string]string{ipam.BindingsAnnotation: ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.object.SetAnnotations(test.given)
			test.object.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "kubectl"}})
			if _, err := slim(test.object); err != nil {
				t.Fatal(err)
			}
			if got := test.object.GetAnnotations(); !maps.Equal(got, test.want) {
				t.Errorf("the annotations %v are left", slices.Sorted(maps.Keys(got)))
			}
			if len(test.object.GetManagedFields()) > 0 {
				t.Error("managed fields are left")
			}
		})
	}
}

// A patch is computed from what the cache holds, and applied to what is stored.
func TestPatchOfASlimObjectLeavesOthersAnnotations(t *testing.T) {
	cached := &ipamv1.IPAddress{}
	cached.Annotations = map[string]string{lastApplied: "{}", "example.org/a": "a", ipam.MachineNameAnnotation: "m"}
	if _, err := slim(cached); err != nil {
		t.Fatal(err)
	}
	before := cached.DeepCopy()
	delete(cached.Annotations, ipam.MachineNameAnnotation)
	patch, err := client.MergeFrom(before).Data(cached)
	if err != nil {
		t.Fatal(err)
	}

	// Null for the map itself would remove them all.
	if want := `{"metadata":{"annotations":{"capv-static-ip.dev/machine-name":null}}}`; string(patch) != want {
		t.Errorf("the patch is %s, want %s", patch, want)
	}
}

package harness_test

import (
	"testing"
	"time"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

func TestObjectIsMadeOlder(t *testing.T) {
	t.Parallel()
	vm := harness.VSphereVM(harness.Machine(namespace(t), "old"))
	vm.OwnerReferences = nil
	create(t, vm)
	made := vm.CreationTimestamp.Time

	if err := plane.MakeOlder(t.Context(), vm, time.Hour); err != nil {
		t.Fatal(err)
	}

	got := &capvv1.VSphereVM{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(vm), got); err != nil {
		t.Fatal(err)
	}
	if !got.CreationTimestamp.Time.Equal(made.Add(-time.Hour)) || !got.ManagedFields[0].Time.Time.Equal(made.Add(-time.Hour)) {
		t.Errorf("it was made at %s and written at %s, want an hour before %s", got.CreationTimestamp, got.ManagedFields[0].Time, made)
	}
}

package ipam

import (
	"maps"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestUnprotectedAddressIsAsItWasBefore(t *testing.T) {
	address := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Finalizers: []string{"example.org/own"}, Annotations: map[string]string{"example.org/note": "x"}, Labels: map[string]string{MachineLabel: "hash"},
	}}
	before := address.DeepCopy()

	Protect(address, "cp-0")
	if !IsProtected(address) || MachineOf(address) != "cp-0" {
		t.Fatalf("it is not protected: %v", address.ObjectMeta)
	}
	address.Annotations[MachineUIDAnnotation], address.Annotations[NetworkAnnotation] = "uid", "net"
	Unprotect(address)

	if !slices.Equal(address.Finalizers, before.Finalizers) || !maps.Equal(address.Annotations, before.Annotations) || !maps.Equal(address.Labels, before.Labels) {
		t.Errorf("got %v, want %v", address.ObjectMeta, before.ObjectMeta)
	}
}

func TestProtectedAddressIsNoMovedOne(t *testing.T) {
	address := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{MovedAnnotation: ""}}}
	Protect(address, "cp-0")
	if _, moved := address.Annotations[MovedAnnotation]; moved {
		t.Error("it still says that its machine moved away")
	}
}

// Whoever protects it: deploy/protection refuses who moves it, if that brings other marks.
func TestAddressOfAnEndpointIsOnAnyNetwork(t *testing.T) {
	for holder, want := range map[Holder]bool{{Kind: OfCluster, Name: "prod"}: true, {Name: "cp-0"}: false} {
		address := &metav1.PartialObjectMetadata{}
		ProtectFor(address, holder)
		if network, known := address.Annotations[NetworkAnnotation]; known != want || network != "" {
			t.Errorf("that of %v is on network %q, known %t, want %t", holder, network, known, want)
		}
	}
}

// The API server refuses the whole write.
func TestAddressThatIsBeingDeletedGetsNoFinalizer(t *testing.T) {
	address := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}
	*address.DeletionTimestamp = metav1.Now()
	Protect(address, "cp-0")
	if IsProtected(address) || MachineOf(address) != "cp-0" {
		t.Errorf("got %v", address.ObjectMeta)
	}
}

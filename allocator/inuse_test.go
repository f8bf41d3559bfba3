package allocator

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
)

func TestFinalizersOfTheGarbageCollectorAreNotWaitedFor(t *testing.T) {
	for finalizer, want := range map[string]bool{
		ipam.ReleaseFinalizer:              true,
		metav1.FinalizerDeleteDependents:   true,
		metav1.FinalizerOrphanDependents:   true,
		"vspheremachine.infrastructure.io": false,
	} {
		machine := &metav1.PartialObjectMetadata{}
		machine.Finalizers = []string{ipam.ReleaseFinalizer, finalizer}
		if IsDone(machine) {
			t.Errorf("a living machine with finalizer %s is done", finalizer)
		}
		machine.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		if got := IsDone(machine); got != want {
			t.Errorf("a machine being deleted with finalizer %s: got %v, want %v", finalizer, got, want)
		}
	}
}

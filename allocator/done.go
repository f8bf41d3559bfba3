package allocator

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// IsDone tells whether a machine is being deleted and nobody but us and the
// garbage collector is left on it. Waiting for the latter's finalizers would be
// a deadlock: it waits for what the machine owns.
func IsDone(machine client.Object) bool {
	return !machine.GetDeletionTimestamp().IsZero() && !slices.ContainsFunc(machine.GetFinalizers(), func(f string) bool {
		switch f {
		case ReleaseFinalizer, metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents:
			return false
		}
		return true
	})
}

package endpoint

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
)

// maxRemembered bounds each memory. Where it is full it forgets everything, and that only
// makes the controller wait anew.
const maxRemembered = 10_000

// memory is what this leader has seen. Another one begins with an empty memory, so nothing
// depends on it but how long something waits.
type memory struct {
	mu       sync.Mutex
	seen     map[types.UID]sighting
	departed map[types.NamespacedName]bool
}

// sighting is when an object was first seen in the version that it has, by the leader's
// own clock.
type sighting struct {
	version string
	at      time.Time
}

// see notes an object, and returns when it was first seen as it is.
func (m *memory) see(obj client.Object, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.seen[obj.GetUID()]
	if known && was.version == obj.GetResourceVersion() {
		return was.at
	}
	if m.seen == nil || len(m.seen) >= maxRemembered {
		m.seen = map[types.UID]sighting{}
	}
	m.seen[obj.GetUID()] = sighting{version: obj.GetResourceVersion(), at: now}
	return now
}

// forget forgets an object that is gone.
func (m *memory) forget(obj client.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, obj.GetUID())
}

// noteDeparture notes that a VSphereCluster is gone. One that clusterctl moved lives on.
func (m *memory) noteDeparture(last client.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if capi.IsMoving(last) {
		return
	}
	if m.departed == nil || len(m.departed) >= maxRemembered {
		m.departed = map[types.NamespacedName]bool{}
	}
	m.departed[client.ObjectKeyFromObject(last)] = true
}

func (m *memory) hasDeparted(key types.NamespacedName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.departed[key]
}

func (m *memory) forgetDeparture(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.departed, key)
}

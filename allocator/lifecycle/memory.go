package lifecycle

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
)

// maxRemembered bounds each memory. Where it is full it forgets everything, and
// that only makes the controller wait anew.
const maxRemembered = 100_000

// memory is what this leader has seen of objects or machines, by key. Another
// leader begins with an empty one, so nothing may depend on what is in it but
// how long something waits. Its zero value is ready for use.
type memory[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]V
}

// update changes the entry of a key, which is the zero value at first, and
// returns it.
func (m *memory[K, V]) update(key K, change func(*V)) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, known := m.entries[key]
	if !known && len(m.entries) >= maxRemembered {
		clear(m.entries)
	}
	change(&entry)
	if m.entries == nil {
		m.entries = map[K]V{}
	}
	m.entries[key] = entry
	return entry
}

func (m *memory[K, V]) get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, known := m.entries[key]
	return entry, known
}

func (m *memory[K, V]) forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}

// sighting is when this leader first saw an object in the version that it has.
// Stamps and creation times are by the clocks of others, which may be wrong;
// this one is by the leader's own.
type sighting struct {
	version string
	at      time.Time
	// told says that it has been said that the object waits.
	told bool
}

// see notes an object, and returns when it was first seen as it is.
func (r *Reconciler) see(obj client.Object) time.Time {
	return r.sightings.update(obj.GetUID(), func(s *sighting) {
		if s.at.IsZero() || s.version != obj.GetResourceVersion() {
			s.version, s.at = obj.GetResourceVersion(), r.now()
		}
	}).at
}

// recall notes a holding that its machine does not have, and finds what this leader has
// seen of both.
func (r *Reconciler) recall(machine types.NamespacedName, h *holding) {
	departure, departed := r.departures.get(machine)
	h.departed, h.moved = departed, departure.moved
	switch {
	case h.claim != nil:
		h.seen = r.see(h.claim)
	case h.address != nil:
		h.seen = r.see(h.address)
	}
}

// ownWrite notes the version of an object that this leader has written itself. That
// is no use of the object, so it has been seen for as long as before.
func (r *Reconciler) ownWrite(obj client.Object) {
	if _, seen := r.sightings.get(obj.GetUID()); seen {
		r.sightings.update(obj.GetUID(), func(s *sighting) { s.version = obj.GetResourceVersion() })
	}
}

// departure is what was last seen of a claim or a machine that is gone.
type departure struct {
	// moved says that clusterctl had marked it as one that lives on elsewhere.
	moved bool
}

// noteGone notes the last state of a claim of a machine, or of the machine itself.
func (r *Reconciler) noteGone(machine types.NamespacedName, last client.Object) {
	r.sightings.forget(last.GetUID())
	if machine.Name == "" {
		return
	}
	r.departures.update(machine, func(d *departure) { d.moved = d.moved || capi.IsMoving(last) })
}

// forgetGone drops what was noted of an object that is gone.
func (r *Reconciler) forgetGone(_ types.NamespacedName, last client.Object) {
	r.sightings.forget(last.GetUID())
}

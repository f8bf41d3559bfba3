package late

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// firstWait and lastWait are how long a machine that was refused waits for its next
	// try, if nothing changes before.
	firstWait = 10 * time.Second
	lastWait  = time.Minute
	// wakeInterval is the least time between the tries of machines that wait for one
	// pool, which its change wakes all at once. Most of them find it full again.
	wakeInterval = 50 * time.Millisecond
	// settleTime is how long a pool has to settle: a change is seldom alone.
	settleTime = time.Second
)

// refused is a machine that waits because it was refused.
type refused struct {
	since     time.Time
	tries     int
	shortages []ipam.Shortage
}

// memory is what this leader knows of machines, or of VSphereClusters. Another leader begins without, and
// asks once more.
type memory struct {
	mu sync.Mutex
	// count tells how many wait.
	count prometheus.Gauge
	// waiting are the machines that were refused.
	waiting map[types.NamespacedName]*refused
	// paused are those whose Cluster was found paused.
	paused map[types.NamespacedName]bool
	// answered is what there was to be known of the machines that need nothing of us, by
	// UID: while that is the same, they need not be asked again. It is empty while a
	// machine is being asked.
	answered map[types.UID]string
}

func newMemory(count prometheus.Gauge) *memory {
	return &memory{count: count, waiting: map[types.NamespacedName]*refused{}, paused: map[types.NamespacedName]bool{}, answered: map[types.UID]string{}}
}

// refuse notes a machine that was refused, and returns how long it is to wait.
func (m *memory) refuse(machine types.NamespacedName, shortages []ipam.Shortage, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.waiting[machine]
	if r == nil {
		r = &refused{since: now}
		m.waiting[machine] = r
	}
	r.tries++
	r.shortages = shortages
	m.count.Set(float64(len(m.waiting)))
	return min(lastWait, firstWait<<min(r.tries-1, 8))
}

// pause notes a machine whose Cluster is paused.
func (m *memory) pause(machine types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused[machine] = true
}

func (m *memory) wasPaused(machine types.NamespacedName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paused[machine]
}

// isWaiting tells whether a machine was refused.
func (m *memory) isWaiting(machine types.NamespacedName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting[machine] != nil
}

// end forgets a machine that does not wait any more.
func (m *memory) end(machine types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, machine)
	delete(m.paused, machine)
	m.count.Set(float64(len(m.waiting)))
}

// waitingFor are the machines that a change of a pool may serve, those first that
// have waited longest. A pool without a namespace is for those of all.
func (m *memory) waitingFor(pool ipam.PoolReference, namespace string) []types.NamespacedName {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waitingIn(namespace, func(r *refused) bool {
		return slices.ContainsFunc(r.shortages, func(s ipam.Shortage) bool { return s.Pool == pool })
	})
}

// waitingNear are all machines that wait and that a pool could serve, in the same order.
// Which of them ask for it by its labels is not known here.
func (m *memory) waitingNear(namespace string) []types.NamespacedName {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waitingIn(namespace, func(*refused) bool { return true })
}

// waitingIn are the machines that wait in a namespace, or in all if it is empty. The lock
// is held.
func (m *memory) waitingIn(namespace string, matches func(*refused) bool) []types.NamespacedName {
	var keys []types.NamespacedName
	for key, r := range m.waiting {
		if (namespace == "" || namespace == key.Namespace) && matches(r) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b types.NamespacedName) int {
		return cmp.Or(m.waiting[a].since.Compare(m.waiting[b].since), cmp.Compare(a.String(), b.String()))
	})
	return keys
}

// ask notes that a machine is being asked.
func (m *memory) ask(machine types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answered[machine] = ""
}

// answer notes that a machine as it is needs nothing of us, unless it is to be asked anew:
// its template, or a failure domain, has changed since it was asked.
func (m *memory) answer(machine client.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, isAsked := m.answered[machine.GetUID()]; isAsked {
		m.answered[machine.GetUID()] = fingerprint(machine)
	}
}

// isAnswered tells whether a machine is as it was when it needed nothing.
func (m *memory) isAnswered(machine client.Object) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answered[machine.GetUID()] == fingerprint(machine)
}

// askAnew forgets what a machine was answered.
func (m *memory) askAnew(machine types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.answered, machine)
}

// fingerprint tells apart what a machine asks for: its spec, and its metadata, which
// has no generation.
func fingerprint(m client.Object) string {
	hash := fnv.New128a()
	for _, values := range []map[string]string{m.GetLabels(), m.GetAnnotations()} {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(hash, "%q=%q;", key, values[key])
		}
		fmt.Fprint(hash, "/")
	}
	return fmt.Sprintf("%d %x", m.GetGeneration(), hash.Sum(nil))
}

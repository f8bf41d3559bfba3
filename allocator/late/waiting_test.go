package late

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func key(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func TestRefusedMachineWaitsTenSecondsToAMinute(t *testing.T) {
	m := newMemory(machinesWaiting)
	var waits []time.Duration
	for range 5 {
		waits = append(waits, m.refuse(key("ns", "cp-0"), nil, start))
	}
	want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute}
	if !slices.Equal(waits, want) {
		t.Errorf("it waits %v, want %v", waits, want)
	}
	m.end(key("ns", "cp-0"))
	if wait := m.refuse(key("ns", "cp-0"), nil, start); wait != 10*time.Second {
		t.Errorf("after it was served it waits %s, want 10s", wait)
	}
	for range 100 {
		m.refuse(key("ns", "cp-0"), nil, start)
	}
	if wait := m.refuse(key("ns", "cp-0"), nil, start); wait != time.Minute {
		t.Errorf("after a hundred tries it waits %s, want a minute", wait)
	}
}

func TestPoolWakesThoseThatWaitForItOldestFirst(t *testing.T) {
	pool := ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: "pool"}
	other := pool
	other.Name = "other"
	m := newMemory(machinesWaiting)
	refuse := func(namespace, name string, after time.Duration, pools ...ipam.PoolReference) {
		var shortages []ipam.Shortage
		for _, p := range pools {
			shortages = append(shortages, ipam.Shortage{Pool: p, Needed: 1})
		}
		m.refuse(key(namespace, name), shortages, start.Add(after))
	}
	refuse("ns", "a-late", 2*time.Second, pool)
	refuse("ns", "z-early", time.Second, other, pool)
	refuse("ns", "elsewhere", 0, other)
	refuse("beside", "same-name", 0, pool)
	refuse("ns", "for-nothing", 0)

	if got, want := m.waitingFor(pool, "ns"), []types.NamespacedName{key("ns", "z-early"), key("ns", "a-late")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := m.waitingFor(pool, ""); len(got) != 3 {
		t.Errorf("of a pool for all namespaces got %v, want three", got)
	}
	if got, want := m.waitingNear("ns"), []types.NamespacedName{key("ns", "elsewhere"), key("ns", "for-nothing"), key("ns", "z-early"), key("ns", "a-late")}; !slices.Equal(got, want) {
		t.Errorf("near the pool got %v, want %v", got, want)
	}
	m.end(key("ns", "z-early"))
	if got := m.waitingFor(pool, "ns"); len(got) != 1 {
		t.Errorf("after one was served got %v, want the other", got)
	}
}

func TestMachineIsAskedAnewWhenWhatItAsksForMayHaveChanged(t *testing.T) {
	for name, change := range map[string]func(*capi.VSphereMachine){
		"another label":      func(m *capi.VSphereMachine) { m.Labels["x"] = "y" },
		"another annotation": func(m *capi.VSphereMachine) { m.Annotations["x"] = "y" },
		"another value":      func(m *capi.VSphereMachine) { m.Labels["cluster.x-k8s.io/ip-pool-name"] = "other" },
		"another spec":       func(m *capi.VSphereMachine) { m.Generation++ },
		"another machine":    func(m *capi.VSphereMachine) { m.UID = "other" },
		"a label became an annotation": func(m *capi.VSphereMachine) {
			m.Labels, m.Annotations = m.Annotations, m.Labels
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(machinesWaiting)
			m.ask(machineDue().UID)
			m.answer(machineDue())
			if !m.isAnswered(machineDue(func(m *capi.VSphereMachine) { m.ResourceVersion = "2" })) {
				t.Error("it is asked anew for a change of nothing")
			}
			if m.isAnswered(machineDue(change)) {
				t.Error("it is not asked anew")
			}
			m.askAnew("uid")
			if m.isAnswered(machineDue()) {
				t.Error("it is answered, although that was forgotten")
			}
		})
	}
}

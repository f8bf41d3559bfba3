package retry

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// stage plays a pool and the owners that wait for it, on a clock of its own.
type stage struct {
	*testing.T
	record  record
	now     time.Time
	waiters []waiter
}

func newStage(t *testing.T, needs ...uint64) *stage {
	s := &stage{T: t, now: start}
	for i, needed := range needs {
		name := string(rune('a' + i))
		s.waiters = append(s.waiters, waiter{
			NamespacedName: types.NamespacedName{Namespace: "ns", Name: name}, uid: types.UID(name), needed: needed,
		})
	}
	return s
}

// after lets time pass, has so many addresses free, and sees who is touched:
// the owners' names. It returns when to look again. The touched still wait, as
// they do once they are refused anew.
func (s *stage) after(passed time.Duration, free uint64, want string) time.Duration {
	s.Helper()
	s.now = s.now.Add(passed)
	s.record.observe(free, s.now)
	due, wait := s.record.next(s.waiters, s.now)
	got := ""
	for _, w := range due {
		s.record.touched(w, s.now)
		got += w.Name
	}
	if got != want {
		s.Errorf("at %s with %d free: touched %q, want %q", s.now.Sub(start), free, got, want)
	}
	return wait
}

// gone takes an owner from those that wait.
func (s *stage) gone(name string) {
	s.waiters = slices.DeleteFunc(s.waiters, func(w waiter) bool { return w.Name == name })
}

func TestNobodyIsTouchedWhileThePoolIsFull(t *testing.T) {
	s := newStage(t, 1, 1)
	if wait := s.after(0, 0, ""); wait != 0 {
		t.Errorf("looks again after %s, want it to wait for a change", wait)
	}
	s.after(time.Hour, 0, "")
}

func TestOneOwnerIsTouchedPerFreedAddress(t *testing.T) {
	s := newStage(t, 1, 1, 1, 1, 1)
	s.after(0, 0, "")
	s.after(time.Minute, 1, "a")
	s.gone("a")
	s.after(100*time.Millisecond, 1, "")
	s.after(100*time.Millisecond, 0, "") // a took it
	s.after(100*time.Millisecond, 2, "bc")
	s.gone("b")
	s.gone("c")
	s.after(100*time.Millisecond, 1, "") // b took one, c is to take the other
	s.after(100*time.Millisecond, 2, "d")
}

func TestAddressThatIsLeftGoesToTheNextOwner(t *testing.T) {
	s := newStage(t, 1, 1, 1)
	if wait := s.after(0, 1, "a"); wait == 0 || wait > touchPatience {
		t.Errorf("looks again after %s, want at most %s", wait, touchPatience)
	}
	s.gone("a")
	if wait := s.after(time.Second, 1, ""); wait != touchPatience-time.Second {
		t.Errorf("looks again after %s, want %s", wait, touchPatience-time.Second)
	}
	s.after(touchPatience-time.Second, 1, "b")
	s.gone("b")
	s.after(touchPatience, 1, "c")
}

func TestOwnerWithMoreMachinesIsTouchedForEachAddress(t *testing.T) {
	s := newStage(t, 1)
	s.after(0, 1, "a")
	for range 5 {
		s.after(2*time.Second, 0, "") // taken, and refused the next
		s.after(0, 1, "a")
	}
	s.after(0, 0, "")
	if wait := s.after(time.Second/2, 1, ""); wait != time.Second/2 {
		t.Errorf("looks again after %s, want %s", wait, time.Second/2)
	}
	s.after(time.Second/2, 1, "a")
}

func TestOwnerThatTouchesDoNotHelpIsTouchedMoreAndMoreRarely(t *testing.T) {
	s := newStage(t, 1)
	s.after(0, 7, "a")
	for _, seconds := range []int{10, 20, 40, 60, 60} {
		want := time.Duration(seconds)*time.Second - time.Millisecond
		wait := s.after(time.Millisecond, 7, "")
		if wait != want {
			t.Errorf("looks again after %s, want %s", wait, want)
		}
		s.after(wait, 7, "a")
	}
	s.after(2*time.Second, 8, "a") // an address that was not free before
	s.after(10*time.Second, 8, "a")
}

func TestOwnersTakeTurns(t *testing.T) {
	s := newStage(t, 1, 1, 1)
	s.after(0, 1, "a")
	s.after(touchPatience, 1, "b")
	s.after(touchPatience, 1, "c")
	s.after(touchPatience, 1, "a")
}

func TestOwnerWaitsForEnough(t *testing.T) {
	s := newStage(t, 3, 1)
	s.after(0, 2, "b")
	s.gone("b")
	s.after(touchPatience, 2, "")
	s.after(0, 3, "a")
}

func TestTouchedOwnerHasAllItsAddressesKept(t *testing.T) {
	s := newStage(t, 2, 1)
	s.after(0, 2, "a")
	s.gone("a")
	s.after(time.Second, 1, "") // the first of its two
	s.after(time.Second, 0, "")
	s.after(0, 1, "b")
}

func TestPoolIsForgottenInTheEnd(t *testing.T) {
	s := newStage(t, 1)
	s.after(0, 1, "a")
	if s.record.forgettable(s.now.Add(maxInterval)) {
		t.Error("forgotten while the owner may come back")
	}
	if !s.record.forgettable(s.now.Add(2 * maxInterval)) {
		t.Error("not forgotten")
	}
}

// However addresses come and go, no more owners are touched at once than there
// are addresses for.
func FuzzTouchesAreBounded(f *testing.F) {
	f.Add([]byte{1, 0, 1, 2, 0, 3})
	f.Fuzz(func(t *testing.T, frees []byte) {
		s := newStage(t, 1, 1, 2, 1, 3)
		for i, free := range frees {
			s.now = s.now.Add(time.Duration(i%3) * 100 * time.Millisecond)
			s.record.observe(uint64(free), s.now)
			due, wait := s.record.next(s.waiters, s.now)
			var needed uint64
			seen := map[string]bool{}
			for _, w := range due {
				needed += w.needed
				if seen[w.Name] {
					t.Fatalf("%s is touched twice", w.Name)
				}
				seen[w.Name] = true
				s.record.touched(w, s.now)
			}
			if needed > uint64(free) || wait < 0 {
				t.Fatalf("touched for %d addresses while %d are free, looks again after %s", needed, free, wait)
			}
		}
	})
}

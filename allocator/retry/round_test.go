package retry

import (
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// patrolled plays the refused owners of a namespace, on a clock of its own.
type patrolled struct {
	*testing.T
	round   *round
	now     time.Time
	changed time.Time
	owners  []refused
}

func newPatrolled(t *testing.T, needTry ...bool) *patrolled {
	p := &patrolled{T: t, round: newRound(), now: start}
	for i, needsTry := range needTry {
		p.owners = append(p.owners, refused{uid: types.UID(strconv.Itoa(i)), needsTry: needsTry})
	}
	return p
}

// after lets time pass and touches who is due: so many. It returns when to look
// again. Whoever was touched is seen without the annotation, and then refused anew.
func (p *patrolled) after(passed time.Duration, want int) time.Duration {
	p.Helper()
	p.now = p.now.Add(passed)
	due, _ := p.round.next(p.owners, p.changed, p.now)
	for _, i := range due {
		p.round.touched(p.owners[i].uid, p.now)
		p.round.visited(p.owners[i].uid)
	}
	if len(due) != want {
		p.Errorf("after %s: touched %d, want %d", p.now.Sub(start), len(due), want)
	}
	if len(due) > 0 {
		p.round.next(nil, p.changed, p.now)
	}
	again, wait := p.round.next(p.owners, p.changed, p.now)
	if len(again) > 0 {
		p.Errorf("after %s: %d are due at once again", p.now.Sub(start), len(again))
	}
	return wait
}

func TestOwnerThatNothingShowsToBeCuredIsTouchedOnceAMinuteAtTheLeast(t *testing.T) {
	p := newPatrolled(t, true)
	wait := p.after(0, 0) // that it was refused is no reason to try
	for i := range 10 {
		if wait <= 0 || wait > maxInterval || wait < firstInterval*3/4 || i > 3 && wait < maxInterval*3/4 {
			t.Fatalf("touch %d comes after %s", i, wait)
		}
		wait = p.after(wait, 1)
	}
}

func TestOwnerThatWaitsForAPoolIsTouchedNowAndThen(t *testing.T) {
	p := newPatrolled(t, false)
	if wait := p.after(0, 0); wait != patrolInterval {
		t.Errorf("looks again after %s, want %s", wait, patrolInterval)
	}
	p.after(patrolInterval-time.Second, 0)
	p.after(time.Second, 1)
}

func TestTouchForAPoolIsAsGoodAsAnyOther(t *testing.T) {
	p := newPatrolled(t, true)
	p.after(0, 0)
	p.now = p.now.Add(7 * time.Second)
	p.round.touched(p.owners[0].uid, p.now)
	p.after(7*time.Second, 0)
	p.after(3*time.Second, 1)
}

func TestChangedTemplateHasItsNamespaceTryAtOnceAndOnceMore(t *testing.T) {
	p := newPatrolled(t, true, false)
	p.after(0, 0)
	p.now = p.now.Add(5 * time.Second)
	p.changed = p.now
	if wait := p.after(0, 2); wait != cacheDelay {
		t.Errorf("looks again after %s, want %s: a replica may not have seen the change", wait, cacheDelay)
	}
	p.after(cacheDelay, 2)
	p.after(time.Second, 0)
}

func TestOwnerThatIsRefusedAfterTheChangeIsLeftAlone(t *testing.T) {
	p := newPatrolled(t, false)
	p.changed = p.now
	p.now = p.now.Add(cacheDelay + time.Second)
	p.after(0, 0)
}

func TestOwnersThatAreRefusedTogetherTryApart(t *testing.T) {
	p := newPatrolled(t, make([]bool, 1000)...)
	for i := range p.owners {
		p.owners[i].needsTry = true
	}
	p.round.next(p.owners, p.changed, p.now)
	at := map[time.Duration]int{}
	for _, owner := range p.owners {
		at[p.round.visits[owner.uid].dueAt(owner, p.changed).Sub(p.now).Truncate(100*time.Millisecond)]++
	}
	for due, together := range at {
		if together > 100 {
			t.Errorf("%d of 1000 are due after %s", together, due)
		}
	}
}

func TestOwnersAreForgottenInTheEnd(t *testing.T) {
	p := newPatrolled(t, true)
	p.after(p.after(0, 0), 1)
	if p.round.forgettable(p.now.Add(time.Hour)) {
		t.Error("forgotten while it waits")
	}
	p.round.next(nil, p.changed, p.now)
	if p.round.forgettable(p.now.Add(maxInterval)) {
		t.Error("forgotten while it may come back")
	}
	if !p.round.forgettable(p.now.Add(2 * maxInterval)) {
		t.Error("not forgotten")
	}
}

// A machine that was answered and refused behind us is noted later than one that
// is denied, which must not add to the minute.
func TestRefusalThatIsNotedLateDoesNotDelayTheNextTouch(t *testing.T) {
	p := newPatrolled(t, true)
	for range 6 {
		p.after(p.after(0, 0), 1)
	}
	last := p.round.visits["0"].last
	p.round.next(nil, p.changed, p.now) // touched, and not refused for a while
	p.now = p.now.Add(12 * time.Second)
	if wait := p.after(0, 0); p.now.Add(wait).Sub(last) > maxInterval {
		t.Errorf("the next touch comes %s after the last, want %s at the most", p.now.Add(wait).Sub(last), maxInterval)
	}
}

package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// worn is an address that somebody has, or has had.
type worn struct {
	who, name string
	// lived says that it was known to be the machine's after that was stored.
	lived bool
	// since is when it was left; zero if it was not.
	since time.Time
}

// blurs tells of a fault by which it is not known for how long an address cools down: that
// goes by the clock of who leads, and what etcd has made before it stood still is seen late.
func blurs(f *Fault) bool {
	return strings.Contains(f.Kind, "clock") || strings.Contains(f.Kind, "etcd")
}

// cooled sees that nobody is given an address that a machine has left a short while ago, if
// its pool keeps addresses for longer.
func (c *checker) cooled(address string, holders []holding, r Record) {
	before := c.worn[address]
	if len(holders) == 0 {
		if before != nil && before.since.IsZero() {
			before.since = r.Time
		}
		return
	}
	last := holders[len(holders)-1]
	if before == nil || before.who != last.who() {
		if before != nil && !last.ByHand {
			c.isCool(address, before, last, r)
		}
		c.worn[address] = &worn{who: last.who(), name: last.Name, lived: c.hasLived(address, last)}
		return
	}
	before.since = time.Time{}
	before.lived = before.lived || c.hasLived(address, last)
}

// hasLived tells whether an address is known to be that of a machine which was stored.
func (c *checker) hasLived(address string, by holding) bool {
	for _, object := range c.state.kept[address] {
		if object.MachineUID == by.who() {
			return true
		}
	}
	return false
}

// isCool compares how long ago somebody left an address with what its pool says.
func (c *checker) isCool(address string, before *worn, now holding, r Record) {
	var pool *seen
	for _, object := range c.state.kept[address] {
		pool = c.state.pool(object.Namespace, object.Pool)
	}
	if pool == nil || before.since.IsZero() || !before.lived || !pool.since.Time.Before(before.since) {
		return
	}
	passed, want := r.Time.Sub(before.since), pool.CoolDown-c.limits.Delay
	blurred := slices.ContainsFunc(c.blurred, func(s span) bool { return s.overlaps(before.since.Add(-c.limits.Delay), r.Time) })
	if passed >= want || blurred {
		return
	}
	c.report(address+before.who+now.who(), Violation{
		Rule:      Hot,
		Text:      fmt.Sprintf("%s has %s, which %s left %s ago, and its pool keeps addresses for %s", now, address, before.name, passed.Round(time.Millisecond), pool.CoolDown),
		Addresses: []string{address}, Names: []string{before.name, now.Name},
		From: before.since, To: r.Time,
	})
}

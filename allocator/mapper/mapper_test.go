package mapper

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// counting is a RESTMapper that counts how often it is asked.
type counting struct {
	meta.RESTMapper
	asked int
	err   error
}

func (c *counting) RESTMapping(kind schema.GroupKind, _ ...string) (*meta.RESTMapping, error) {
	c.asked++
	if c.err != nil {
		return nil, c.err
	}
	return &meta.RESTMapping{GroupVersionKind: kind.WithVersion("v1")}, nil
}

// stage is a Mapper, whose clock moves when it is told to.
func stage(err error) (m *Mapper, asked *counting, pass func(time.Duration)) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	asked = &counting{err: err}
	m = New(asked)
	m.now = func() time.Time { return now }
	return m, asked, func(d time.Duration) { now = now.Add(d) }
}

var (
	pool     = schema.GroupKind{Group: "ipam.example.org", Kind: "Pool"}
	noSuch   = &meta.NoKindMatchError{GroupKind: pool}
	someKind = func(i int) schema.GroupKind { return schema.GroupKind{Group: "example.org", Kind: fmt.Sprint(i)} }
)

func TestKindThatIsNotServedIsAskedForOnceAMinute(t *testing.T) {
	m, asked, pass := stage(noSuch)
	for range 10 {
		if _, err := m.RESTMapping(pool, "v1"); !meta.IsNoMatchError(err) {
			t.Errorf("got %v", err)
		}
	}
	if asked.asked != 1 {
		t.Errorf("asked %d times, want once", asked.asked)
	}
	pass(missTime)
	asked.err = nil
	if _, err := m.RESTMapping(pool, "v1"); err != nil {
		t.Errorf("a minute later, got %v", err)
	}
}

func TestKindThatIsServedNowIsFound(t *testing.T) {
	m, asked, pass := stage(noSuch)
	_, _ = m.RESTMapping(pool)
	m.Changed()
	pass(discoveryDelay / 2)
	if _, err := m.RESTMapping(pool); err == nil {
		t.Error("found a kind that is not served yet")
	}
	asked.err = nil
	pass(missTimeAfterChange)
	if _, err := m.RESTMapping(pool); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestOtherErrorsAreNotRemembered(t *testing.T) {
	m, asked, _ := stage(errors.New("the API server is away"))
	_, _ = m.RESTMapping(pool)
	asked.err = nil
	if _, err := m.RESTMapping(pool); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestQuestionsForKindsThatAreNotServedAreBounded(t *testing.T) {
	m, asked, pass := stage(nil)
	_, _ = m.RESTMapping(pool)
	asked.err = noSuch
	for i := range 5000 {
		_, _ = m.RESTMapping(someKind(i))
	}
	if asked.asked != questionBurst {
		t.Errorf("asked %d times at once, want %d", asked.asked, questionBurst)
	}
	if _, err := m.RESTMapping(someKind(9999)); err == nil || meta.IsNoMatchError(err) {
		t.Errorf("got %v of a kind that may be served", err)
	}
	asked.err = nil
	if _, err := m.RESTMapping(pool); err != nil {
		t.Errorf("got %v of a kind that is known to be served", err)
	}
	for range 2 * maxMisses {
		pass(time.Second)
		asked.err = noSuch
		_, _ = m.RESTMapping(someKind(asked.asked))
	}
	if len(m.misses) > maxMisses {
		t.Errorf("%d are remembered", len(m.misses))
	}
}

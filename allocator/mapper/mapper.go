// Package mapper remembers for a while which kinds are not served.
//
// The mapper of controller-runtime reads everything that the API server serves,
// under a lock, each time it is asked for a kind that it does not know. Whoever
// can write a pool's kind somewhere could have it do nothing else.
package mapper

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// missTime is for how long a kind that is not served is not asked for again.
	missTime = time.Minute
	// discoveryDelay is the time after a change of what is served in which a kind that
	// is not is asked for after missTimeAfterChange already: an API that is defined is
	// not served at once.
	discoveryDelay      = 10 * time.Second
	missTimeAfterChange = 500 * time.Millisecond
	// maxMisses bounds the kinds that are remembered.
	maxMisses = 1000
	// Limits of the questions for kinds that were never found.
	questions     = 5
	questionBurst = 50
)

// Mapper is a RESTMapper that remembers what its like did not know.
type Mapper struct {
	meta.RESTMapper
	now       func() time.Time
	questions *rate.Limiter
	// asking has each question asked once at a time.
	asking singleflight.Group

	mu      sync.Mutex
	found   map[string]bool
	misses  map[string]miss
	changed time.Time
}

type miss struct {
	until time.Time
	err   error
}

// New makes a Mapper that asks another one.
func New(asked meta.RESTMapper) *Mapper {
	return &Mapper{
		RESTMapper: asked, now: time.Now, questions: rate.NewLimiter(questions, questionBurst),
		found: map[string]bool{}, misses: map[string]miss{},
	}
}

// Changed is to be called when something else may be served from now on.
func (m *Mapper) Changed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.misses)
	m.changed = m.now()
}

// RESTMapping implements meta.RESTMapper.
func (m *Mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	key := kind.String() + " " + strings.Join(versions, " ")
	if err := m.recall(key); err != nil {
		return nil, err
	}
	mapping, err, _ := m.asking.Do(key, func() (any, error) {
		mapping, err := m.RESTMapper.RESTMapping(kind, versions...)
		m.remember(key, err)
		return mapping, err
	})
	if err != nil {
		return nil, err
	}
	return mapping.(*meta.RESTMapping), nil
}

// recall is the error with which the kind was not found lately, or one that says
// that there were too many such questions.
func (m *Mapper) recall(key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if known, ok := m.misses[key]; ok && now.Before(known.until) {
		return known.err
	}
	if !m.found[key] && !m.questions.AllowN(now, 1) {
		return fmt.Errorf("looking for %s: too many kinds that are not served are asked for", key)
	}
	return nil
}

func (m *Mapper) remember(key string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if err == nil {
		m.found[key] = true
		delete(m.misses, key)
		return
	}
	if !meta.IsNoMatchError(err) {
		return
	}
	if len(m.misses) >= maxMisses {
		maps.DeleteFunc(m.misses, func(_ string, known miss) bool { return !now.Before(known.until) })
	}
	until := now.Add(missTime)
	if now.Sub(m.changed) < discoveryDelay {
		until = now.Add(missTimeAfterChange)
	}
	if len(m.misses) < maxMisses {
		m.misses[key] = miss{until: until, err: err}
	}
}

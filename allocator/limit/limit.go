// Package limit shares out what all namespaces use, so that none of them takes
// it from the others, and says how soon controllers try again what failed.
package limit

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxNamespaces bounds the namespaces that are kept apart at a time. Those
// beyond share one limit.
const maxNamespaces = 1000

// PerNamespace allows each namespace so many things per second, and a burst.
type PerNamespace struct {
	perSecond rate.Limit
	burst     int

	mu       sync.Mutex
	limiters map[string]*rate.Limiter
	beyond   *rate.Limiter
}

// NewPerNamespace makes a PerNamespace.
func NewPerNamespace(perSecond float64, burst int) *PerNamespace {
	return &PerNamespace{
		perSecond: rate.Limit(perSecond), burst: burst,
		limiters: map[string]*rate.Limiter{}, beyond: rate.NewLimiter(rate.Limit(perSecond), burst),
	}
}

// Allow tells whether the namespace may do one thing more at this time.
func (p *PerNamespace) Allow(namespace string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(namespace, now).AllowN(now, 1)
}

// of is the limiter of a namespace. One that is at rest is as good as a new one,
// so those are forgotten when there are many.
func (p *PerNamespace) of(namespace string, now time.Time) *rate.Limiter {
	if limiter, ok := p.limiters[namespace]; ok {
		return limiter
	}
	if len(p.limiters) >= maxNamespaces {
		maps.DeleteFunc(p.limiters, func(_ string, limiter *rate.Limiter) bool {
			return limiter.TokensAt(now) >= float64(p.burst)
		})
	}
	if len(p.limiters) >= maxNamespaces {
		return p.beyond
	}
	limiter := rate.NewLimiter(p.perSecond, p.burst)
	p.limiters[namespace] = limiter
	return limiter
}

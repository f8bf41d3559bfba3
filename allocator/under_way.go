package allocator

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// underWay are the claims of requests that this replica has not answered yet, or
// has answered so lately that their machines may still be stored.
type underWay struct {
	mu     sync.Mutex
	claims map[types.NamespacedName]*passage
}

// passage is what is known of one claim.
type passage struct {
	requests int
	// answered is when the last of the requests ended.
	answered time.Time
}

// add notes a claim until the returned function is called.
func (u *underWay) add(claim types.NamespacedName) (done func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.claims == nil {
		u.claims = map[types.NamespacedName]*passage{}
	}
	if u.claims[claim] == nil {
		u.claims[claim] = &passage{}
	}
	u.claims[claim].requests++
	return func() { u.answer(claim) }
}

func (u *underWay) answer(claim types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.claims[claim]
	if p.requests--; p.requests > 0 {
		return
	}
	p.answered = time.Now()
	time.AfterFunc(storedSoon, func() { u.forget(claim) })
}

func (u *underWay) forget(claim types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if p := u.claims[claim]; p != nil && p.requests == 0 && time.Since(p.answered) >= storedSoon {
		delete(u.claims, claim)
	}
}

// has tells whether a request is under way with the claim.
func (u *underWay) has(claim types.NamespacedName) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.claims[claim]
	return p != nil && p.requests > 0
}

// isSettling tells whether a request has been answered with the claim a moment ago.
func (u *underWay) isSettling(claim types.NamespacedName) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.claims[claim]
	return p != nil && p.requests == 0
}

// requestClaims are the claims of one request. They all count as under way until its
// end, also those that are bound already.
type requestClaims struct {
	*underWay
	done []func()
}

func (c *requestClaims) note(claim types.NamespacedName) {
	c.done = append(c.done, c.add(claim))
}

func (c *requestClaims) end() {
	for _, done := range c.done {
		done()
	}
}

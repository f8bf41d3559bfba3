package allocator

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// underWay are the claims of requests that this replica has not answered yet.
type underWay struct {
	mu     sync.Mutex
	claims map[types.NamespacedName]int
}

// add notes a claim until the returned function is called.
func (u *underWay) add(claim types.NamespacedName) (done func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.claims == nil {
		u.claims = map[types.NamespacedName]int{}
	}
	u.claims[claim]++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.claims[claim]--; u.claims[claim] == 0 {
			delete(u.claims, claim)
		}
	}
}

func (u *underWay) has(claim types.NamespacedName) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.claims[claim] > 0
}

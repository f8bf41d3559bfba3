package allocator

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// waitingClaims is the number of claims that one replica lets wait for one pool.
// A provider is busy with as many; more would only wait with it, where no order
// is kept: metal3 takes claims at random, and begins anew after each conflict of
// its two controllers, so that of thirty some would wait past their deadline.
const waitingClaims = 4

// turns let the requests for a pool claim in the order in which they came.
type turns struct {
	mu    sync.Mutex
	pools map[poolKey]*turn
}

// poolKey tells pools apart, and whose claims on them: a namespace does not wait
// for the claims of another one on a pool that all share.
type poolKey struct {
	reference ipam.PoolReference
	key       types.NamespacedName
	claimant  string
}

func turnOf(pool ipam.Pool, namespace string) poolKey {
	return poolKey{reference: pool.Reference, key: client.ObjectKeyFromObject(pool), claimant: namespace}
}

// turn is where the requests for one pool wait.
type turn struct {
	*semaphore.Weighted
	// users are the requests that wait or have their turn.
	users int
}

// take waits for a turn on a pool, or for the end of the context, which is its
// only error. It tells whether it had to wait. The returned function ends the turn.
func (t *turns) take(ctx context.Context, pool poolKey) (waited bool, end func(), err error) {
	turn := t.join(pool)
	if !turn.TryAcquire(1) {
		waited = true
		if err := turn.Acquire(ctx, 1); err != nil {
			t.leave(pool, turn)
			return waited, nil, err
		}
	}
	return waited, func() {
		turn.Release(1)
		t.leave(pool, turn)
	}, nil
}

func (t *turns) join(pool poolKey) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pools == nil {
		t.pools = map[poolKey]*turn{}
	}
	if t.pools[pool] == nil {
		t.pools[pool] = &turn{Weighted: semaphore.NewWeighted(waitingClaims)}
	}
	t.pools[pool].users++
	return t.pools[pool]
}

// leave forgets a pool for which nobody waits any more.
func (t *turns) leave(pool poolKey, turn *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if turn.users--; turn.users == 0 {
		delete(t.pools, pool)
	}
}

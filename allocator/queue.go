package allocator

import (
	"cmp"
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

// queue lets the requests for a pool claim in the order in which they came.
type queue struct {
	// places is for how many at a time there is a turn, waitingClaims if it is zero.
	places int64

	mu    sync.Mutex
	pools map[queueKey]*queueOfPool
}

// queueKey tells pools apart, and whose claims on them: a namespace does not wait
// for the claims of another one on a pool that all share.
type queueKey struct {
	reference ipam.PoolReference
	key       types.NamespacedName
	claimant  string
}

func queueKeyOf(pool ipam.Pool, namespace string) queueKey {
	return queueKey{reference: pool.Reference, key: client.ObjectKeyFromObject(pool), claimant: namespace}
}

// queueOfPool is where the requests for one pool wait.
type queueOfPool struct {
	*semaphore.Weighted
	// users are the requests that wait or have their turn.
	users int
}

// enter waits for a turn on a pool, or for the end of the context, which is its
// only error. It tells whether it had to wait. The returned function ends the turn.
func (q *queue) enter(ctx context.Context, pool queueKey) (waited bool, end func(), err error) {
	turn := q.join(pool)
	if !turn.TryAcquire(1) {
		waited = true
		if err := turn.Acquire(ctx, 1); err != nil {
			q.forget(pool, turn)
			return waited, nil, err
		}
	}
	return waited, func() {
		turn.Release(1)
		q.forget(pool, turn)
	}, nil
}

func (q *queue) join(pool queueKey) *queueOfPool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pools == nil {
		q.pools = map[queueKey]*queueOfPool{}
	}
	if q.pools[pool] == nil {
		q.pools[pool] = &queueOfPool{Weighted: semaphore.NewWeighted(cmp.Or(q.places, waitingClaims))}
	}
	q.pools[pool].users++
	return q.pools[pool]
}

// forget forgets a pool for which nobody waits any more.
func (q *queue) forget(pool queueKey, turn *queueOfPool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if turn.users--; turn.users == 0 {
		delete(q.pools, pool)
	}
}

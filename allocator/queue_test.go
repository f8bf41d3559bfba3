package allocator

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

func poolNamed(name string) queueKey {
	return queueKey{reference: metal3.PoolNamed(name), key: types.NamespacedName{Namespace: "ns", Name: name}}
}

// takeAll takes all turns of a pool, and returns what ends each.
func takeAll(t *testing.T, q *queue, pool queueKey) []func() {
	t.Helper()
	var ends []func()
	for range waitingClaims {
		waited, end, err := q.enter(t.Context(), pool)
		if err != nil || waited {
			t.Fatalf("a turn on %v is not free: waited %v, %v", pool.key, waited, err)
		}
		ends = append(ends, end)
	}
	return ends
}

func TestRequestsClaimFromAPoolInTheOrderOfTheirComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		ends := takeAll(t, &q, poolNamed("pool"))
		var order []int
		for i := range 3 {
			go func() {
				waited, end, err := q.enter(t.Context(), poolNamed("pool"))
				if err != nil || !waited {
					t.Errorf("request %d: waited %v, %v", i, waited, err)
					return
				}
				order = append(order, i)
				end()
			}()
			synctest.Wait()
		}
		if len(order) > 0 {
			t.Errorf("requests %v had a turn while %d claims wait", order, waitingClaims)
		}

		for _, end := range ends {
			end()
			synctest.Wait()
		}

		if want := []int{0, 1, 2}; !slices.Equal(order, want) {
			t.Errorf("requests had their turns in the order %v, want %v", order, want)
		}
		if len(q.pools) > 0 {
			t.Errorf("%d pools are remembered that nobody waits for", len(q.pools))
		}
	})
}

func TestPoolsDoNotWaitForEachOther(t *testing.T) {
	var q queue
	takeAll(t, &q, poolNamed("busy"))

	takeAll(t, &q, poolNamed("idle"))
}

func TestRequestThatGivesUpLeavesItsTurnToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		ends := takeAll(t, &q, poolNamed("pool"))
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp, served := make(chan error, 1), make(chan error, 1)
		for ctx, done := range map[context.Context]chan error{ctx: gaveUp, t.Context(): served} {
			go func() {
				_, _, err := q.enter(ctx, poolNamed("pool"))
				done <- err
			}()
		}
		synctest.Wait()

		cancel()
		if err := <-gaveUp; err == nil {
			t.Error("a request had a turn although as many claims wait as may")
		}
		ends[0]()

		if err := <-served; err != nil {
			t.Errorf("the next request: %v", err)
		}
	})
}

func TestClaimThatIsNotBoundKeepsItsTurnForTwoSecondsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Allocator{}
		al := &allocation{Request: &Request{}, pool: ipam.Pool{Object: &ipamv1.IPPool{}, Reference: metal3.PoolNamed("pool")}}
		for range waitingClaims {
			if _, _, err := a.takeTurn(t.Context(), al); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()

		waited, end, err := a.takeTurn(t.Context(), al)

		if err != nil || !waited || time.Since(start) != maxTurn {
			t.Errorf("the next request waited for %s (%v, %v), want %s", time.Since(start), waited, err, maxTurn)
		}
		end()
		synctest.Wait()
		if len(a.queue.pools) > 0 {
			t.Errorf("%d pools are remembered that nobody waits for", len(a.queue.pools))
		}
	})
}

func TestNamespacesDoNotWaitForEachOtherOnAPoolThatTheyShare(t *testing.T) {
	a := &Allocator{}
	pool := ipam.Pool{Object: &ipamv1.IPPool{}, Reference: ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: contract.GlobalInClusterKind, Name: "shared"}}
	of := func(namespace string) *allocation {
		machine := ipam.Machine{NamespacedName: types.NamespacedName{Namespace: namespace, Name: "m"}}
		return &allocation{Request: &Request{Machine: machine}, pool: pool}
	}
	for range waitingClaims {
		_, end, err := a.takeTurn(t.Context(), of("busy"))
		if err != nil {
			t.Fatal(err)
		}
		defer end()
	}

	waited, end, err := a.takeTurn(t.Context(), of("other"))

	if err != nil || waited {
		t.Fatalf("another namespace waited: %v, %v", waited, err)
	}
	end()
}

// A pool that were forgotten earlier would have as many turns again.
func TestPoolIsRememberedUntilTheLastRequestLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		ends := takeAll(t, &q, poolNamed("pool"))
		next := make(chan func(), 1)
		go func() {
			_, end, err := q.enter(t.Context(), poolNamed("pool"))
			if err != nil {
				t.Error(err)
			}
			next <- end
		}()
		synctest.Wait()
		ends[0]()
		ends[0] = <-next

		ctx, giveUp := context.WithCancelCause(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			waited, _, err := q.enter(ctx, poolNamed("pool"))
			if !waited {
				t.Errorf("a request had a turn while %d claims wait", waitingClaims)
			}
			gaveUp <- err
		}()
		synctest.Wait()
		giveUp(nil)
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got the error %v, want that of the context", err)
		}

		for i, end := range ends {
			if len(q.pools) != 1 {
				t.Errorf("%d pools are remembered while %d requests have a turn, want the pool", len(q.pools), len(ends)-i)
			}
			end()
		}
		if len(q.pools) > 0 {
			t.Errorf("%d pools are remembered that nobody waits for", len(q.pools))
		}
	})
}

func TestQueueIsThatOfOnePoolAndOneNamespace(t *testing.T) {
	of := func(namespace string, reference ipam.PoolReference, claimant string) queueKey {
		pool := ipam.Pool{Object: &ipamv1.IPPool{}, Reference: reference}
		pool.SetNamespace(namespace)
		pool.SetName(reference.Name)
		return queueKeyOf(pool, claimant)
	}
	pool := of("ns", metal3.PoolNamed("pool"), "ns")
	if again := of("ns", metal3.PoolNamed("pool"), "ns"); again != pool {
		t.Errorf("two requests for one pool do not wait for each other: %v, %v", pool, again)
	}
	for name, other := range map[string]queueKey{
		"of another name":      of("ns", metal3.PoolNamed("other"), "ns"),
		"of another kind":      of("ns", contract.InClusterPool("pool"), "ns"),
		"in another namespace": of("other", metal3.PoolNamed("pool"), "ns"),
		"of another claimant":  of("ns", metal3.PoolNamed("pool"), "other"),
	} {
		if other == pool {
			t.Errorf("a pool %s is waited for", name)
		}
	}
}

package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/tests/harness"
)

// takingRelocation has two pools of metal3 that replicas take addresses of.
func takingRelocation(s *scene) *relocation {
	s.Helper()
	r := relocationIn(s, harness.OfMetal3, harness.OfMetal3)
	for _, name := range []string{r.from.PoolName, "new-pool"} {
		pool := &ipamv1.IPPool{}
		pool.Namespace, pool.Name = r.ns, name
		r.isServed(pool)
		r.takes(name)
	}
	return r
}

// made makes a machine of the old pool, and waits for nothing.
func (r *relocation) made(name string) {
	r.Helper()
	r.create(r.asks(r.from, name))
	r.devices[name] = r.machine(name).Spec.Network.Devices
}

func migrationLeavesWhatHasNoClaim(s *scene) {
	r := takingRelocation(s)
	r.made("m-0")
	r.isTakenBy("m-0")
	r.m.Timeout = time.Second

	if err := r.m.Run(r.Context()); err == nil || !strings.Contains(err.Error(), "not bound yet") {
		r.Errorf("got %v, want to be told that the claim is waited for", err)
	}

	r.isTakenBy("m-0")
	if err := r.isSafe(); err != nil {
		r.Error(err)
	}
}

// migrationGoesByWhatMetal3Counts has an address that was given back without a claim: nothing has
// metal3 count the pool again, and its webhook lets no pool go below its count.
func migrationGoesByWhatMetal3Counts(s *scene) {
	r := takingRelocation(s)
	machine := harness.Machine(r.ns, "refused", harness.WithPool(r.from.PoolName))
	r.ask(r.env.managers[0], r.creation("refused", r.onOwnNetwork(r.manifest(machine))))
	taken := r.takenFor("refused")
	if taken == nil {
		r.Fatal("no address was taken")
	}
	r.eventually("metal3 to count the address", func(ctx context.Context) error {
		pool := &ipamv1.IPPool{}
		if err := r.env.Client.Get(ctx, types.NamespacedName{Namespace: r.ns, Name: r.from.PoolName}, pool); err != nil {
			return err
		}
		if _, counted := pool.Status.Allocations[harness.ProviderOf(taken).ReadAddress(taken).Claim]; counted {
			return nil
		}
		// It does for whatever changes the pool.
		metav1.SetMetaDataAnnotation(&pool.ObjectMeta, "example.com/seen", time.Now().String())
		return cmp.Or(r.env.Client.Update(ctx, pool), errors.New("it does not"))
	})
	r.forget("refused")

	if err := r.m.Run(r.Context()); err != nil {
		r.Error(err)
	}
}

func migrationMovesWhatWasTaken(s *scene) {
	r := takingRelocation(s)
	for i := range 3 {
		r.made(fmt.Sprintf("m-%d", i))
	}

	r.finishes()
	r.goes()
}

// migrationKeepsWhatIsMoved makes machines of the new pool while those of the old one are moved:
// the pool has room for just these.
func migrationKeepsWhatIsMoved(s *scene) {
	r := takingRelocation(s)
	for i := range 3 {
		r.adds(fmt.Sprintf("m-%d", i))
	}
	moved := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { moved <- r.m.Run(r.Context()) })
	r.Cleanup(running.Wait)

	for i := range 3 {
		r.eventually("a machine of the new pool to get an address", func(ctx context.Context) error {
			return r.env.Client.Create(ctx, harness.Machine(r.ns, fmt.Sprintf("n-%d", i), r.to.Ask("new-pool")))
		})
	}
	if err := <-moved; err != nil {
		r.Error(err)
	}
	for i := range 3 {
		name := fmt.Sprintf("n-%d", i)
		r.devices[name] = r.machine(name).Spec.Network.Devices
	}
	r.refused(harness.Machine(r.ns, "late", r.to.Ask("new-pool")), "exhausted")
	r.finishes()
	r.goes()
}

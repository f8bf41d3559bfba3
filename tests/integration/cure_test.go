package integration

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// trier plays CAPI for an owner: whenever the owner changes it tries to make a
// machine, each time of another name, until one is stored, and once more a second
// after the first try. CAPI would go on by itself, more and more rarely; here
// nothing but the owner's change leads to a try.
type trier struct {
	owner  client.Object
	tries  chan error
	stored chan time.Time
	// changes is how often the owner was written.
	changes atomic.Int32
}

func (s *scene) try(owner client.Object, machine func(name string) client.Object) *trier {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	changes, err := s.env.Client.Watch(ctx, &clusterv1.MachineSetList{}, client.InNamespace(s.ns), client.MatchingFields{"metadata.name": owner.GetName()})
	if err != nil {
		s.Fatal(err)
	}
	t := &trier{owner: owner, tries: make(chan error, 100), stored: make(chan time.Time, 1)}
	done := make(chan struct{})
	s.Cleanup(func() {
		cancel()
		<-done
	})
	changed := make(chan struct{}, 1)
	go func() {
		for event := range changes.ResultChan() {
			if event.Type == watch.Modified {
				t.changes.Add(1)
			}
			if event.Type == watch.Added || event.Type == watch.Modified {
				select {
				case changed <- struct{}{}:
				default: // it is about to try anyway
				}
			}
		}
	}()
	go func() {
		defer close(done)
		again := make(<-chan time.Time)
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-again:
			}
			if i == 0 {
				again = time.After(time.Second)
			}
			err := s.env.Client.Create(ctx, machine(fmt.Sprintf("%s-%d", owner.GetName(), i)))
			if err == nil {
				t.stored <- time.Now()
				return
			}
			t.tries <- err
		}
	}()
	return t
}

const (
	// seen is the time in which a cure that can be watched leads to a machine.
	seen = 5 * time.Second
	// unseen is that of one that only a try shows: a minute, and the try.
	unseen = 75 * time.Second
	// otherRanges is a group of pools that the manager may not read at first,
	// lateRanges one whose provider is started late.
	otherRanges = "other." + rangeGroup
	lateRanges  = "late." + rangeGroup
)

// Whatever kept a machine from being made, its owner tries when that is gone,
// without CAPI's own back-off of up to 1000 s.
func TestCureLeadsToATry(t *testing.T) {
	t.Parallel()
	pooled := func(s *scene) func(string) client.Object {
		return func(name string) client.Object { return s.pooled(name) }
	}
	template := func(s *scene, pool string) client.Object {
		return harness.Template(s.ns, "workers", harness.WithPool(pool))
	}
	ranged := func(group string) func(s *scene) func(string) client.Object {
		return func(s *scene) func(string) client.Object {
			return func(name string) client.Object {
				return harness.Machine(s.ns, name, harness.WithCluster(""), withPoolOf("0", "Range."+group+"/lab"))
			}
		}
	}
	for name, test := range map[string]struct {
		before  func(s *scene)
		machine func(s *scene) func(name string) client.Object
		cure    func(s *scene)
		within  time.Duration
	}{
		"label corrected on the template": {
			before: func(s *scene) { s.create(harness.Pool(s.ns), template(s, "nowhere")) },
			machine: func(s *scene) func(string) client.Object {
				return func(name string) client.Object { return harness.Machine(s.ns, name, harness.FromTemplate("workers")) }
			},
			cure: func(s *scene) {
				t := template(s, "")
				s.change(t, func() { harness.WithPool(harness.DefaultPool)(t) })
			},
			within: seen,
		},
		"pool made": {
			before: func(*scene) {}, machine: pooled,
			cure:   func(s *scene) { s.create(harness.Pool(s.ns)) },
			within: seen,
		},
		"address freed": {
			before: func(s *scene) { s.fullPool(1) }, machine: pooled,
			cure:   func(s *scene) { s.free(0) },
			within: seen,
		},
		"range added": {
			before: func(s *scene) { s.fullPool(1) }, machine: pooled,
			cure: func(s *scene) {
				pool := harness.Pool(s.ns)
				s.change(pool, func() { pool.Spec.Pools = []ipamv1.Pool{harness.Range("10.16.56.88", "10.16.56.89")} })
			},
			within: seen,
		},
		"right granted": {
			before: func(s *scene) {
				s.installRanges(otherRanges)
				s.create(newRange(otherRanges, s.ns))
				s.Cleanup(s.playContract(s.answersWith("10.16.61.88")))
			},
			machine: ranged(otherRanges),
			cure:    func(s *scene) { s.grantRanges(otherRanges) },
			within:  3 * seen,
		},
		"provider started": {
			before: func(s *scene) {
				s.installRanges(lateRanges)
				s.grantRanges(lateRanges)
				s.create(newRange(lateRanges, s.ns))
			},
			machine: ranged(lateRanges),
			cure:    func(s *scene) { s.Cleanup(s.playContract(s.answersWith("10.16.62.88"))) },
			within:  unseen,
		},
		"policy removed": {
			before: func(s *scene) {
				s.create(harness.Pool(s.ns))
				s.rejectAfterUs("false", "not today")
			},
			machine: pooled,
			cure:    func(s *scene) { s.delete(policyBinding(s.ns)) },
			within:  unseen + gracePeriod,
		},
		"policy removed late": {
			before: func(s *scene) {
				s.create(harness.Pool(s.ns))
				s.rejectAfterUs("false", "not today")
			},
			machine: pooled,
			cure: func(s *scene) {
				s.outlivesClaims(2)
				s.delete(policyBinding(s.ns))
			},
			within: unseen + gracePeriod,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			test.before(s)
			s.leadsToAMachine(test.machine(s), test.cure, test.within)
		})
	}
}

// outlivesClaims waits until as many claims one after the other were made for
// machines that were never stored, and are gone again.
func (s *scene) outlivesClaims(count int) {
	s.Helper()
	seen := map[types.UID]bool{}
	s.within(time.Duration(count)*(unseen+gracePeriod), "claims to come and go", func(context.Context) error {
		claims := s.claims()
		for _, claim := range claims {
			seen[claim.GetUID()] = true
		}
		if len(seen) < count || len(claims) > 0 {
			return fmt.Errorf("%d were there, %d are", len(seen), len(claims))
		}
		return nil
	})
}

// A try that is refused is noted anew, which is no reason to try again.
func TestRefusedTryLeadsToNoOther(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	owner := s.machineSet("owner")
	tried := s.try(owner, func(name string) client.Object {
		return harness.Machine(s.ns, name, withPoolOf("0", "NO"), harness.WithOwner(owner))
	})
	s.eventually("the refusal on the owner", func(context.Context) error { return s.isWaiting(owner, "PoolNameInvalid") })

	// The condition is written once, and stays. The annotation is written, and then, 7.5 s
	// to 10 s later, and once more after that, taken off and written again. There are two
	// tries to begin with, and one for each of these writes.
	const watched, writes = 25 * time.Second, 1 + 1 + 2*2
	const most = 2 + writes
	if err := harness.Consistently(t.Context(), watched, "the owner is left alone", func(context.Context) error {
		if n := tried.changes.Load(); n > writes {
			return fmt.Errorf("it was written %d times", n)
		}
		if len(tried.tries) > most {
			return fmt.Errorf("it tried %d times", len(tried.tries))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(tried.tries); n < 4 {
		t.Errorf("it tried %d times, want it to be made to try", n)
	}
}

// Whoever may write owners cannot have those of others wait.
func TestOwnersThatNameThousandsOfPoolsHoldUpNobody(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	other, s := newScene(t, env), newScene(t, env)
	s.fullPool(1)
	owner := s.machineSet("owner")
	looks := func() float64 {
		return s.metric("controller_runtime_reconcile_total", map[string]string{"controller": "retry"})
	}
	before := looks()
	for n := range 20 {
		var pools []string
		for i := range 250 {
			pools = append(pools, fmt.Sprintf("Kind%d.group%d.example.org/pool", i, n))
		}
		other.machineSet(fmt.Sprintf("greedy-%d", n), harness.WithAnnotation(ipam.RefusedByAnnotation, strings.Join(pools, ",")))
	}
	s.eventually("the controller to look for the pools", func(context.Context) error {
		if n := looks() - before; n < 10 {
			return fmt.Errorf("it looked for %v", n)
		}
		return nil
	})
	s.waiting(owner)

	s.free(0)
	start := time.Now()
	s.within(90*time.Second, "the owner to be touched", func(context.Context) error { return s.isTouched(owner) })
	if took := time.Since(start); took > seen {
		t.Errorf("it was touched after %s, want less than %s", took, seen)
	} else {
		t.Logf("touched after %s", took)
	}
}

// leadsToAMachine has an owner refused, and checks that the cure leads to a machine.
func (s *scene) leadsToAMachine(machine func(name string) client.Object, cure func(s *scene), within time.Duration) {
	s.Helper()
	labels := machine("owner").GetLabels()
	owner := s.machineSet("owner", harness.WithCluster(labels[clusterv1.ClusterNameLabel]))
	owned := func(name string) client.Object {
		m := machine(name)
		harness.WithOwner(owner)(m)
		return m
	}
	tried := s.try(owner, owned)
	denial := <-tried.tries
	s.eventually("the refusal on the owner", func(context.Context) error {
		if value, ok := s.refusedBy(owner); !ok {
			return fmt.Errorf("it has none: %q", value)
		}
		return nil
	})
	value, _ := s.refusedBy(owner)
	if err := <-tried.tries; err == nil {
		s.Fatal("the annotation has led to another try, which was not denied")
	}

	cure(s)
	cured := time.Now()
	select {
	case stored := <-tried.stored:
		s.Logf("refused by %q (%v): stored %s after the cure, tried %d times in between", value, denial, stored.Sub(cured).Round(time.Millisecond), len(tried.tries))
	case <-time.After(within):
		s.Errorf("refused by %q (%v): nothing is stored %s after the cure, tried %d times in between", value, denial, within, len(tried.tries))
	}
}

package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// hears waits for an event about an owner whose text is of this form.
func (s *scene) hears(owner client.Object, fits func(eventsv1.Event) bool) {
	s.Helper()
	s.eventually("the event about "+owner.GetName(), func(context.Context) error {
		var notes []string
		for _, event := range s.eventsAbout("MachineSet", owner.GetName()) {
			if fits(event) {
				return nil
			}
			notes = append(notes, event.Note)
		}
		return fmt.Errorf("its events are %q", notes)
	})
}

// Who corrects the name of a pool, and is refused again, reads of the new name.
func TestCorrectedCauseShowsInTheEvents(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	owner := s.machineSet("owner")
	for _, pool := range []string{"first", "second"} {
		s.refused(harness.Machine(s.ns, "owner-"+pool, harness.WithPool(pool), harness.WithOwner(owner)), pool)
		s.hears(owner, func(event eventsv1.Event) bool {
			return strings.Contains(event.Note, `InClusterIPPool "`+pool+`" can be used`)
		})
	}
}

// The API server takes 1024 bytes.
func TestLongDenialIsToldAsFarAsThereIsRoom(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	owner := s.machineSet("owner")
	ask := func(name, reference string) {
		t.Helper()
		s.refused(harness.Machine(s.ns, name, withPoolOf("0", reference), harness.WithOwner(owner)), "")
	}

	ask("owner-long", strings.Repeat("Ä", 1500))
	s.hears(owner, func(event eventsv1.Event) bool {
		return len(event.Note) > 1000 && utf8.ValidString(event.Note) && strings.HasSuffix(event.Note, "…")
	})
	ask("owner-short", "NO")
	s.hears(owner, func(event eventsv1.Event) bool { return strings.Contains(event.Note, `"NO"`) })
}

const (
	// floodClients flood until there are so many denials, and on.
	floodClients = 60
	floodDenials = 3000
	// floodRate is how many denials a second a machine gives that has nothing else
	// to do. On a busy one time is measured by them, see duringFlood; floodStep have
	// to come within harness.Soon.
	floodRate = 300
	floodStep = 100
	// heardSoon is how long an event may take while others flood: the burst of a
	// namespace is stored in less.
	heardSoon = 5 * time.Second
	// What the manager may need at the most while it refuses as fast as it is
	// asked. It has 512 MiB.
	floodMemory     = 256 << 20
	floodGoroutines = 1500
)

// A user who may do nothing but create machines in one namespace can have as
// many denials as the API server lets through.
func TestFloodOfDenialsIsBounded(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	flooded, s := newScene(t, env), newScene(t, env)
	mallory := flooded.userWhoCreatesMachines("mallory")
	owner := s.machineSet("owner")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var denials atomic.Int64
	var flood sync.WaitGroup
	for n := range floodClients {
		flood.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				machine := harness.Machine(flooded.ns, fmt.Sprintf("m-%d-%d", n, i), withPoolOf("0", "NO"))
				for o := range 3 {
					machine.OwnerReferences = append(machine.OwnerReferences, metav1.OwnerReference{
						APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineSet", Name: fmt.Sprintf("set-%d-%d-%d", n, i, o), UID: "forged",
					})
				}
				if err := mallory.Create(ctx, machine); err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "is not a reference to a pool") {
					denials.Add(1)
				}
			}
		})
	}
	var goroutines float64
	flood.Go(func() {
		// It goes on as long as the flood does. What it misses now and then, when the
		// manager is too busy to tell, it sees the next time.
		_ = harness.Consistently(ctx, time.Hour, "the manager is looked at", func(ctx context.Context) error {
			if running, err := env.managers[0].Metric(ctx, "go_goroutines", nil); err == nil {
				goroutines = max(goroutines, running)
			}
			return nil
		})
	})
	start := time.Now()
	var heard, recorded int64
	defer func() {
		stop()
		flood.Wait()
		memory, err := env.managers[0].PeakMemory()
		t.Logf("%d denials in %s: %d MB, %.0f goroutines; another namespace's event came after %d denials, its owner was written after %d",
			denials.Load(), time.Since(start), memory/1e6, goroutines, heard, recorded)
		if err != nil || memory > floodMemory || goroutines > floodGoroutines || goroutines == 0 {
			t.Errorf("the manager took %d bytes (%v) and %.0f goroutines, may take %d and %d", memory, err, goroutines, floodMemory, floodGoroutines)
		}
		if !env.managers[0].Running() {
			t.Error("the manager did not live through it")
		}
	}()

	s.duringFlood(&denials, harness.Soon, "the denials of a flood", func(context.Context) error {
		if n := denials.Load(); n < floodDenials {
			return fmt.Errorf("%d denials", n)
		}
		return nil
	})
	s.denied(owner)
	heard = s.duringFlood(&denials, heardSoon, "the event about the owner", func(context.Context) error {
		if len(s.eventsAbout("MachineSet", owner.GetName())) == 0 {
			return errors.New("it has none")
		}
		return nil
	})
	recorded = heard + s.duringFlood(&denials, 2*heardSoon, "the refusal on the owner", func(context.Context) error {
		return s.isWaiting(owner, s.shortage())
	})
}

// duringFlood waits until a condition holds while others are denied, and returns how
// many of them were. Time is up when this long has passed, and as many have been denied
// as a machine with nothing else to do denies in it.
func (s *scene) duringFlood(denials *atomic.Int64, limit time.Duration, what string, condition func(context.Context) error) int64 {
	s.Helper()
	start, began := denials.Load(), time.Now()
	enough := int64(limit.Seconds() * floodRate)
	for {
		next := denials.Load() + floodStep
		var missing error
		s.eventually(what+", or the flood to go on", func(ctx context.Context) error {
			if missing = condition(ctx); missing == nil || denials.Load() >= next {
				return nil
			}
			return missing
		})
		came := denials.Load() - start
		if missing == nil {
			return came
		}
		if took := time.Since(began); took > limit && came > enough {
			s.Fatalf("%d denials came in %s before %s: %v", came, took, what, missing)
		}
	}
}

// userWhoCreatesMachines is a user with that right in the scene, and no other.
func (s *scene) userWhoCreatesMachines(name string) client.Client {
	s.Helper()
	s.create(
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"infrastructure.cluster.x-k8s.io"}, Resources: []string{"vspheremachines"}, Verbs: []string{"create"},
		}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}})
	credentials, err := s.env.Credentials(name, "system:authenticated")
	if err != nil {
		s.Fatal(err)
	}
	c, err := client.New(credentials.Config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		s.Fatal(err)
	}
	s.eventually(name+" to be allowed to", func(ctx context.Context) error {
		return c.Create(ctx, harness.Machine(s.ns, "probe", harness.WithDevices(harness.DHCPDevice())), client.DryRunAll)
	})
	return c
}

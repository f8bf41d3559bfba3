package integration

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// accidentArgs let a leader go on without the API server for longer than its
// restart takes, as in production, and make a drain short.
var accidentArgs = []string{
	"--leader-elect-lease-duration=15s", "--leader-elect-renew-deadline=12s", "--leader-elect-retry-period=1s",
	"--drain-delay=1s",
}

// TestTwoReplicasSurvive has one environment for all that may befall managers
// and what they depend on, one after the other.
func TestTwoReplicasSurvive(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 0)
	for range 2 {
		manager, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod, Args: accidentArgs})
		if err != nil {
			t.Fatal(err)
		}
		env.managers = append(env.managers, manager)
	}
	// A paused metal3 would not answer the calls of its webhooks either.
	if err := env.metal3.RemoveWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, accident := range []struct {
		name string
		test func(*scene)
	}{
		{"cut connections while a hundred machines are created", hundredMachinesOverCutConnections},
		{"the renewal of the certificate under load", certificateIsReplacedUnderLoad},
		{"the termination of the one that serves a waiting create", terminatedManagerFinishesTheCreate},
		{"a restart of the API server", apiServerRestarts},
		{"the death of the leader", leaderIsKilled},
		{"the death of both between claim and store", managersAreKilledBetweenClaimAndStore},
	} {
		t.Run(accident.name, func(t *testing.T) {
			accident.test(newScene(t, env))
		})
	}
}

func managersAreKilledBetweenClaimAndStore(s *scene) {
	s.create(harness.Pool(s.ns))
	s.env.metal3.Pause()
	resume := sync.OnceFunc(s.env.metal3.Resume)
	s.Cleanup(resume)
	created := []<-chan error{s.createLater(s.pooled("lost")), s.createLater(s.pooled("again"))}
	first := s.awaitClaim("again")
	s.awaitClaim("lost")

	for _, manager := range s.env.managers {
		manager.Kill()
	}
	for _, done := range created {
		if err := <-done; err == nil {
			s.Error("a machine was created although the managers died before they had an address")
		}
	}
	resume()
	if _, err := harness.WaitBound(s.Context(), s.env.Client, first, harness.Soon); err != nil {
		s.Fatal(err)
	}
	for _, manager := range s.env.managers {
		if err := manager.Start(s.Context()); err != nil {
			s.Fatal(err)
		}
	}

	// The one name is used again at once and finds its claim; nobody comes for
	// the other, whose claim is an orphan.
	s.create(s.pooled("again"))
	s.settled("again")
	if claim, err := s.claim("again"); err != nil || claim.GetUID() != first.GetUID() {
		s.Errorf("the machine holds claim %s (error %v), want that of the first try, %s", claim.GetUID(), err, first.GetUID())
	}
	s.reapedInItsTime("lost", func() {})
	s.create(s.pooled("lost"))
	s.settled("lost")
}

func leaderIsKilled(s *scene) {
	leader, other := s.leader()
	s.create(harness.Pool(s.ns))
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")

	leader.Kill()
	s.reconnected()
	s.create(s.pooled("cp-1"))
	s.delete(machine)
	if err := harness.WaitGone(s.Context(), s.env.Client, machine, 15*time.Second+harness.Soon); err != nil {
		s.Fatal(err)
	}
	s.returned(ip)
	s.settled("cp-1")
	if next, _ := s.leader(); next != other {
		s.Errorf("%s leads, want %s", next.Name, other.Name)
	}
	if err := leader.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// leader returns the replica that runs the controller, and the other one.
func (s *scene) leader() (leader, other *harness.Manager) {
	s.Helper()
	s.eventually("one of the managers to lead", func(ctx context.Context) error {
		leader, other = nil, nil
		for _, manager := range s.env.managers {
			if !manager.Running() {
				other = manager
				continue
			}
			leads, err := manager.Metric(ctx, "leader_election_master_status", nil)
			if err != nil {
				return err
			}
			if leads == 1 {
				leader = manager
			} else {
				other = manager
			}
		}
		if leader == nil || other == nil {
			return errors.New("not exactly one leads")
		}
		return nil
	})
	return leader, other
}

func apiServerRestarts(s *scene) {
	s.create(harness.Pool(s.ns))
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")
	pids := map[string]int{}
	for _, manager := range s.env.managers {
		pids[manager.Name] = manager.PID()
	}

	began := time.Now()
	if err := s.env.RestartAPIServer(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.eventually("a machine to be admitted", func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, s.pooled("cp-1")))
	})
	away := time.Since(began)
	for _, manager := range s.env.managers {
		// A leader ends that could not say for so long that it leads, and is started again.
		if !manager.Running() && away > harness.RenewDeadline && strings.Contains(manager.LogTail(1), "leader election lost") {
			s.Logf("the API server was away for %s, and %s gave up to lead", away, manager.Name)
			if err := manager.Start(s.Context()); err != nil {
				s.Fatal(err)
			}
			pids[manager.Name] = manager.PID()
		}
	}
	s.settled("cp-1")
	s.delete(machine)
	s.gone(machine)
	s.returned(ip)
	for _, manager := range s.env.managers {
		if !manager.Running() || manager.PID() != pids[manager.Name] {
			s.Errorf("%s did not live through it:\n%s", manager.Name, manager.LogTail(10))
		}
		if err := manager.Ready(s.Context()); err != nil {
			s.Error(err)
		}
	}
}

func terminatedManagerFinishesTheCreate(s *scene) {
	going, staying := s.env.managers[0], s.env.managers[1]
	s.create(harness.Pool(s.ns))
	s.sendTrafficTo(going)
	s.env.metal3.Pause()
	resume := sync.OnceFunc(s.env.metal3.Resume)
	s.Cleanup(resume)
	created := s.createLater(s.pooled("cp-0"))
	s.awaitClaim("cp-0")
	if going, staying := s.env.Forwarder.Live(going.WebhookAddress), s.env.Forwarder.Live(staying.WebhookAddress); going == 0 || staying != 0 {
		s.Fatalf("the replica that goes has %d connections and the other %d, want all on the one that goes", going, staying)
	}

	stopped := make(chan error, 1)
	go func() { stopped <- going.Stop() }()
	s.eventually("the replica to take no more connections", func(context.Context) error {
		if conn, err := net.Dial("tcp", going.WebhookAddress); err == nil {
			return errors.Join(errors.New("it took one"), conn.Close())
		}
		return nil
	})
	resume()
	if err := <-created; err != nil {
		s.Errorf("the create that waited: %v", err)
	}
	if err := <-stopped; err != nil {
		s.Error(err)
	}
	s.env.Forwarder.AddBackend(staying.WebhookAddress)
	s.settled("cp-0")
	if err := going.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// sendTrafficTo makes one replica serve all requests of the API server from now on.
func (s *scene) sendTrafficTo(manager *harness.Manager) {
	s.Helper()
	s.env.Forwarder.SetBackends(manager.WebhookAddress)
	for _, other := range s.env.managers {
		s.env.Forwarder.Cut(other.WebhookAddress)
	}
	s.reconnected()
}

// reconnected waits until the API server calls the webhook again. It may notice only
// with a call that its connection is gone, and that call fails.
func (s *scene) reconnected() {
	s.Helper()
	s.eventually("the API server to call the webhook again", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.pooled("probe"), client.DryRunAll)
	})
}

func hundredMachinesOverCutConnections(s *scene) {
	// There is room for more: metal3 loses an address now and then whose claim is
	// deleted while it binds it, and it takes a while until that is found.
	s.create(harness.Pool(s.ns, harness.PoolRange("10.20.0.1", "10.20.0.200")))
	before := map[string]float64{}
	for _, manager := range s.env.managers {
		before[manager.Name] = s.admissions(manager)
	}

	s.env.Forwarder.SetBackends(s.env.managers[0].WebhookAddress)
	s.env.Forwarder.Cut(s.env.managers[1].WebhookAddress)
	// Whoever was cut off sends the same create again, through another replica.
	done := 0
	failed := s.createHundred(func() {
		switch done++; done {
		case hundred / 3:
			s.moveTraffic(0, 1)
		case 2 * hundred / 3:
			s.moveTraffic(1, 0)
		}
	})

	s.Logf("%d creates failed and were sent again", failed)
	if failed == 0 {
		s.Error("no create failed: no request was under way when the connections were cut")
	}
	for _, manager := range s.env.managers {
		if s.admissions(manager) == before[manager.Name] {
			s.Errorf("%s served no request", manager.Name)
		}
	}
	for _, manager := range s.env.managers {
		s.env.Forwarder.AddBackend(manager.WebhookAddress)
	}
	s.expectHundredAddresses()
	s.deleteHundred()
}

// moveTraffic breaks the connections to a replica, and has another serve.
func (s *scene) moveTraffic(from, to int) {
	s.env.Forwarder.SetBackends(s.env.managers[to].WebhookAddress)
	s.env.Forwarder.Cut(s.env.managers[from].WebhookAddress)
}

// createLater creates a machine in the background.
func (s *scene) createLater(machine client.Object) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.env.Client.Create(s.Context(), machine) }()
	return done
}

// awaitClaim waits until a machine that is being admitted has its claim.
func (s *scene) awaitClaim(machine string) client.Object {
	s.Helper()
	var claim client.Object
	s.eventually("the claim of "+machine, func(context.Context) error {
		found, err := s.claim(machine)
		claim = found
		return err
	})
	return claim
}

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// Requests of one namespace wait for a pool whose provider binds none of their
// claims: all that may wait in one replica. Until they are denied, nobody else
// waits for them, and after two seconds not even the next one on that pool.
func TestPoolThatBindsNothingHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	const idleRanges, atATime, turn = "idle." + rangeGroup, 4, 2 * time.Second
	hog, other := newScene(t, shared), newScene(t, shared)
	hog.installRanges(idleRanges)
	hog.grantRanges(idleRanges)
	asking := withPoolOf("0", "Range."+idleRanges+"/lab")
	machine := func(s *scene, name string, options ...harness.Option) client.Object {
		return harness.Machine(s.ns, name, append([]harness.Option{harness.WithCluster("")}, options...)...)
	}
	hog.create(newRange(idleRanges, hog.ns), harness.Pool(hog.ns))
	other.create(newRange(idleRanges, other.ns))
	for _, s := range []*scene{hog, other} {
		given := 87
		defer s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
			if strings.HasPrefix(claim.Name, "hog") {
				return nil
			}
			given++
			return s.answersWith(fmt.Sprintf("10.16.65.%d", given))(ctx, claim)
		})()
	}
	replica := shared.managers[0]
	asks := func(s *scene, name string, options ...harness.Option) (allowed bool, took time.Duration) {
		start := time.Now()
		answer := s.ask(replica, s.creation(name, s.raw(machine(s, name, options...))))
		if !answer.Allowed {
			s.Logf("%s is told: %s", name, answer.Result.Message)
		}
		return answer.Allowed, time.Since(start)
	}
	hog.readable(asking)

	denied := make(chan bool, atATime)
	for i := range atATime {
		go func() {
			allowed, _ := asks(hog, fmt.Sprintf("hog-%d", i), asking)
			denied <- !allowed
		}()
	}
	hog.eventually("as many claims to wait as may", func(context.Context) error {
		if n := len(hog.claims()); n < atATime {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	for _, ask := range []struct {
		who     string
		s       *scene
		options harness.Option
		name    string
	}{
		{"another namespace, on a pool of that name", other, asking, "cp-0"},
		{"the same namespace, on another pool", hog, harness.WithPool(harness.DefaultPool), "cp-1"},
		{"the next one on that pool", hog, asking, "cp-2"},
	} {
		allowed, took := asks(ask.s, ask.name, ask.options)
		if !allowed || len(denied) > 0 {
			t.Errorf("%s: allowed %v after %s, when %d of those before were denied", ask.who, allowed, took, len(denied))
		}
		t.Logf("%s: answered after %s, a turn ends after %s", ask.who, took, turn)
	}
	for range atATime {
		if !<-denied {
			t.Error("a request was answered whose claim was never bound")
		}
	}
}

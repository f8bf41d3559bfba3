package integration

import (
	"context"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// poolOfVips is the name by which sentences call the pool of endpoints.
func poolOfVips(f harness.Fixture) string {
	return f.Reference("").Kind + ` "` + f.PoolName + `" in namespace "NAMESPACE"`
}

func TestEndpointCoolsDownWhenItsClusterIsGone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 6 * time.Second
		s.vips(f, 237, 237, coolsFor(lasts))
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
		cluster := s.clusterUses("prod", f.IP(237))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(237)) })
		gone := s.vsphereCluster("prod")
		s.delete(gone)
		s.gone(gone)
		s.consistently("the endpoint is its Cluster's, and does not cool down", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(237)) })
		before := time.Now()

		s.delete(cluster)

		since := s.cooling(f.IP(237))
		if since.Before(before) {
			t.Errorf("it cools down since %s, and the Cluster went after %s", since, before)
		}
		s.expectDeniedEndpoint(s.env.Client.Create(t.Context(), harness.VSphereCluster(s.ns, "next", endpointOf(f))),
			poolOfVips(f)+" is exhausted: 1 of 1 addresses in use; addresses cool down for 6s; add addresses to the pool or delete a machine that holds one")
		s.expectDeniedEndpoint(s.env.Client.Create(t.Context(), harness.VSphereCluster(s.ns, "prod", endpointOf(f))),
			`claim "prod" of `+poolOfVips(f)+` is kept for 6s after its VSphereCluster went: retry then, or give the VSphereCluster another name`)
		s.returned(f.IP(237))
		s.notBefore(since, lasts)
		s.noClaims()
		s.create(harness.VSphereCluster(s.ns, "next", endpointOf(f)))
		s.expectEndpoint("next", f.IP(237), 6443)
	})
}

func TestVSphereClusterDoesNotWaitForTheCoolDown(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := f.Pool(s.ns, f.WithIPs(238, 238), coolsFor(forLong))
		s.create(pool)
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(238)) })
		object := s.vsphereCluster("prod")

		s.delete(object)

		s.gone(object)
		since := s.cooling(f.IP(238))
		claim, err := s.env.claimNamed(s, f, "prod")
		if err != nil {
			t.Fatal(err)
		}
		s.delete(claim)
		s.staysCooling(f.IP(238), since)
		s.endsWhenShortened(pool, f.IP(238))
	})
}

func TestEndpointsCoolDownByDefault(t *testing.T) {
	t.Parallel()
	const lasts = 6 * time.Second
	env := ownEnvironment(t, harness.Options{}, 0)
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{
		OrphanGracePeriod: gracePeriod, WithoutLeaderElection: true, Args: []string{"--reuse-after=" + lasts.String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	env.managers = append(env.managers, manager)
	f := harness.OfMetal3
	s := bareScene(t, env)
	s.vips(f, 88, 88)
	s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
	s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(88)) })

	s.delete(s.vsphereCluster("prod"))

	since := s.cooling(f.IP(88))
	s.returned(f.IP(88))
	s.notBefore(since, lasts)
}

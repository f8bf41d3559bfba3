package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// Of a Cluster that was deleted, and of a VSphereCluster that never had one, a claim and its
// address are all that is left. They go with their pool, when another Cluster is moved.
func TestMoveWhileEndpointsCool(t *testing.T) {
	for name, test := range map[string]struct {
		by      harness.Fixture
		options []harness.Option
	}{
		"of an in-cluster pool":                    {harness.OfInCluster, nil},
		"of a pool of metal3 that is told to move": {harness.OfMetal3, []harness.Option{harness.WithLabel(clusterctlv1.ClusterctlMoveHierarchyLabel, "")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			by := test.by
			s := newEmptyScene(t, secondStack(t))
			target := &scene{T: t, stack: shared, ns: s.ns, network: s.network, began: s.began}
			t.Cleanup(target.inspect)
			s.create(s.pool(by, "vips", 5, 7, append(test.options, coolsFor(time.Hour))...))
			// It has the lowest address, which its claim does not have at once in the target.
			s.createAsking(by, "vips", 6443)
			cluster, _ := s.clusters()
			s.initialized(cluster)
			s.eventually(harness.Soon, "the endpoint to be held", func(ctx context.Context) error { return s.endpointHeld(ctx, by, s.address(5)) })
			s.deletedCluster(by, "deleted", s.address(6))
			s.deletedAlone(by, "alone", s.address(7))
			before := s.coolingEndpoints(by)
			if claims := s.withoutCluster(by); len(claims) > 0 {
				t.Errorf("docs/move.md says that %v would stop clusterctl", claims)
			}

			if output, err := s.moveTo(target.stack); err != nil {
				t.Fatalf("%v; it said:\n%s", err, output)
			}

			target.eventually(provisioned, "the endpoint to be held in the target", func(ctx context.Context) error { return target.endpointHeld(ctx, by, s.address(5)) })
			if after := target.coolingEndpoints(by); !maps.Equal(after, before) {
				t.Errorf("in the target %v cool down, want %v as before", after, before)
			}
			s.eventually(harness.Soon, "nothing of ours to be left", func(ctx context.Context) error {
				_, err := s.left(ctx)
				return err
			})
			target.checkCoolDownsEnd(by, s.address(6), s.address(7))
			moved, _ := target.clusters()
			target.delete(moved)
			target.gone(moved, provisioned)
			target.awaitFree()
		})
	}
}

// deletedCluster makes another Cluster, which gets this endpoint, and deletes it.
func (s *scene) deletedCluster(by harness.Fixture, name, endpoint string) {
	s.Helper()
	objects, err := s.stack.Objects(s.ns, name)
	if err != nil {
		s.Fatal(err)
	}
	askFor(objects, by, "vips", 6443)
	s.create(objects...)
	s.hasEndpoint(name)
	s.eventually(harness.Soon, "the endpoint to be held as that of its Cluster", func(ctx context.Context) error {
		claim := ipam.EmptyClaim(by.Provider)
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: name}, claim); err != nil {
			return err
		}
		if of := claim.GetLabels()[clusterv1.ClusterNameLabel]; of != name {
			return fmt.Errorf("its claim is of Cluster %q", of)
		}
		return s.endpointHeldBy(ctx, name, by, endpoint)
	})
	cluster, _ := s.clustersNamed(name)
	s.delete(cluster)
	s.gone(cluster, provisioned)
	s.step("Cluster %s with endpoint %s is gone", name, endpoint)
}

// deletedAlone makes a VSphereCluster without a Cluster, which gets this endpoint, and
// deletes it.
func (s *scene) deletedAlone(by harness.Fixture, name, endpoint string) {
	s.Helper()
	alone := s.aloneAsking(by, name)
	s.create(alone)
	s.eventually(harness.Soon, "the endpoint to be held", func(ctx context.Context) error { return s.endpointHeldBy(ctx, name, by, endpoint) })
	if claims := s.withoutCluster(by); !slices.Equal(claims, []string{name}) {
		s.Errorf("docs/move.md says that %v would stop clusterctl, want that %s would", claims, name)
	}
	s.delete(alone)
	s.gone(alone, provisioned)
	s.step("VSphereCluster %s with endpoint %s is gone", name, endpoint)
}

// withoutCluster are the claims that docs/move.md has people look for.
func (s *scene) withoutCluster(by harness.Fixture) []string {
	s.Helper()
	selector, err := labels.Parse("capv-static-ip.dev/machine,!cluster.x-k8s.io/cluster-name")
	if err != nil {
		s.Fatal(err)
	}
	claims, err := harness.List(s.Context(), s.stack.Plane.Client, ipam.EmptyClaim(by.Provider),
		client.InNamespace(s.ns), client.MatchingLabelsSelector{Selector: selector})
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, claim := range claims {
		names = append(names, claim.GetName())
	}
	return names
}

// coolingEndpoints waits until two addresses cool down, each with its claim, and returns of
// whom they are, and since when.
func (s *scene) coolingEndpoints(by harness.Fixture) map[string]string {
	s.Helper()
	cooling := map[string]string{}
	s.eventually(provisioned, "two endpoints to cool down", func(ctx context.Context) error {
		clear(cooling)
		addresses, err := harness.List(ctx, s.stack.Plane.Client, ipam.EmptyAddress(by.Provider), client.InNamespace(s.ns))
		if err != nil {
			return err
		}
		for _, address := range addresses {
			since, released := ipam.ReleasedAt(address)
			if !released || !ipam.IsProtected(address) {
				continue
			}
			read := by.Provider.ReadAddress(address)
			claim := ipam.EmptyClaim(by.Provider)
			if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: read.Claim}, claim); err != nil {
				return err
			}
			if at, _ := ipam.ReleasedAt(claim); !at.Equal(since) || !ipam.Answers(address, claim.GetUID()) {
				return fmt.Errorf("claim %s of %s has the annotations %v", read.Claim, read.IP, claim.GetAnnotations())
			}
			cooling[read.IP] = ipam.HolderOf(address).Name + " since " + since.String()
		}
		if len(cooling) != 2 {
			return fmt.Errorf("there are %v", cooling)
		}
		return nil
	})
	s.step("%v cool down", cooling)
	return cooling
}

// checkCoolDownsEnd checks that nobody is given these addresses of the pool, and that
// others are as soon as the pool lets it end.
func (s *scene) checkCoolDownsEnd(by harness.Fixture, ips ...string) {
	s.Helper()
	err := s.stack.Plane.Client.Create(s.Context(), s.aloneAsking(by, "other"))
	if err == nil || !strings.Contains(err.Error(), "is exhausted: 3 of 3 addresses in use; addresses cool down for 1h") {
		s.Errorf("got %v, want a denial: one endpoint is in use, and two cool down", err)
	}
	patchFields(s, s.pool(by, "vips", 5, 7), func(pool client.Object) { coolsFor(0)(pool) })
	var got []string
	var next []client.Object
	for i := range ips {
		object := s.aloneAsking(by, fmt.Sprintf("next-%d", i))
		s.eventually(provisioned, "another endpoint to be given", func(ctx context.Context) error {
			return s.stack.Plane.Client.Create(ctx, object)
		})
		host, _, err := unstructured.NestedString(object.Object, "spec", "controlPlaneEndpoint", "host")
		if err != nil {
			s.Fatal(err)
		}
		next, got = append(next, object), append(got, host)
	}
	for _, object := range next {
		s.delete(object)
	}
	slices.Sort(got)
	if !slices.Equal(got, ips) {
		s.Errorf("others have %v, want %v", got, ips)
	}
	s.step("the addresses are given again")
}

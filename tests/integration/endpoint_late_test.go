package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// resume resumes a paused Cluster.
func (s *scene) resume(cluster *clusterv1.Cluster) {
	s.Helper()
	s.change(cluster, func() { cluster.Spec.Paused = nil })
}

// pausedCluster makes a Cluster that is paused.
func (s *scene) pausedCluster(name string) *clusterv1.Cluster {
	s.Helper()
	cluster := harness.Cluster(s.ns, name, paused)
	s.create(cluster)
	return cluster
}

// staysWithoutEndpoint watches that a VSphereCluster gets no endpoint.
func (s *scene) staysWithoutEndpoint(name, why string) {
	s.Helper()
	s.consistently(why, func(context.Context) error {
		if host := s.vsphereCluster(name).Spec.ControlPlaneEndpoint.Host; host != "" {
			return fmt.Errorf("it has %s", host)
		}
		return nil
	})
}

// writtenEndpoint is what stands in a VSphereCluster after it was served.
func (s *scene) writtenEndpoint(name string) (spec, bindings string) {
	s.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(capvv1.GroupVersion.WithKind("VSphereCluster"))
	if err := s.env.Client.Get(s.Context(), s.key(name), object); err != nil {
		s.Fatal(err)
	}
	text, err := json.Marshal(object.Object["spec"])
	if err != nil {
		s.Fatal(err)
	}
	return string(text), object.GetAnnotations()[ipam.BindingsAnnotation]
}

func TestLateEndpointIsWhatAdmissionWouldHaveGiven(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 235, 235)
		asking := func() *capvv1.VSphereCluster {
			return harness.VSphereCluster(s.ns, "prod", endpointOf(f), harness.WithEndpoint("", 8443))
		}
		born := asking()
		s.create(born)
		spec, bindings := s.writtenEndpoint("prod")
		s.delete(born)
		s.gone(born)
		s.returned(f.IP(235))
		cluster := s.pausedCluster("prod")
		s.create(asking())
		s.staysWithoutEndpoint("prod", "it is left while the Cluster is paused")
		s.expectNoClaims()

		s.resume(cluster)

		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(235)) })
		s.expectEndpoint("prod", f.IP(235), 8443)
		lateSpec, lateBindings := s.writtenEndpoint("prod")
		expectSame(s, "the spec", lateSpec, spec)
		expectSame(s, "the bindings", lateBindings, bindings)
		late := s.vsphereCluster("prod")
		s.delete(late)
		s.gone(late)
		s.returned(f.IP(235))
	})
}

func TestEndpointsFromBeforeTheInstallationAreServed(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 0)
	if err := env.RemoveWebhook(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	f := harness.OfMetal3
	s.vips(f, 88, 90)
	s.create(harness.Cluster(s.ns, "prod"), harness.VSphereCluster(s.ns, "prod", endpointOf(f)),
		harness.Cluster(s.ns, "own", harness.WithEndpoint("10.77.0.9", 6443)), harness.VSphereCluster(s.ns, "own", endpointOf(f)),
		harness.Cluster(s.ns, "silent"), harness.VSphereCluster(s.ns, "silent"),
		harness.VSphereCluster(s.ns, "alone", endpointOf(f)))
	if err := env.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}

	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}

	s.within(2*harness.Soon, "the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(88)) })
	s.expectEndpoint("prod", f.IP(88), 6443)
	s.staysWithoutEndpoint("own", "its Cluster has an endpoint")
	s.staysWithoutEndpoint("silent", "it asks for nothing")
	s.staysWithoutEndpoint("alone", "nobody waits for it")
	s.expectClaims(1)
	s.create(harness.Cluster(s.ns, "alone"))
	s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("alone", f.IP(89)) })
	env.managers = append(env.managers, manager)
}

func TestLateEndpointWaitsForAnAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 236, 236)
		s.create(harness.VSphereCluster(s.ns, "first", endpointOf(f)))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("first", f.IP(236)) })
		cluster := s.pausedCluster("second")
		s.create(harness.VSphereCluster(s.ns, "second", endpointOf(f)))

		s.resume(cluster)

		for _, kind := range []string{"VSphereCluster", "Cluster"} {
			if note := s.toldAbout(kind, "second", "PoolExhausted").Note; !strings.Contains(note, "is exhausted") {
				t.Errorf("the event on the %s says %q", kind, note)
			}
		}
		first := s.vsphereCluster("first")
		s.delete(first)
		s.gone(first)
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("second", f.IP(236)) })
	})
}

package integration

import (
	"context"
	"io"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// namespacedEnvironment is one in which a manager serves one namespace, and has no
// rights in others.
func namespacedEnvironment(t *testing.T, namespace string) *environment {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	plane, err := harness.Start(ctx, harness.Options{Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	env := &environment{ControlPlane: plane}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	if env.Installation, err = plane.InstallFrom(ctx, overlay(t, plane.Root(), namespace, "namespaced")); err != nil {
		t.Fatal(err)
	}
	if env.metal3, err = plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.StartInCluster(ctx); err != nil {
		t.Fatal(err)
	}
	manager, err := env.StartManager(ctx, harness.ManagerOptions{Namespace: namespace, OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}
	env.managers = append(env.managers, manager)
	return env
}

func TestManagerOfOneNamespaceNeedsNoOther(t *testing.T) {
	t.Parallel()
	env := namespacedEnvironment(t, metav1.NamespaceDefault)
	s := &scene{T: t, env: env, ns: metav1.NamespaceDefault}
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.88")))
	const lasts = 3 * time.Second
	s.inClusterPool(harness.InClusterWith(coolsFor(lasts)))
	machine, owner := s.pooled("cp-0"), s.machineSet("owner")
	s.create(machine, s.inClusterMachine("md-0"))
	ip, contractIP := s.settled("cp-0"), s.settled("md-0")
	s.waiting(owner)
	s.change(machine, func() {
		machine.Finalizers = nil
		delete(machine.Annotations, ipam.BindingsAnnotation)
	})
	s.eventually("the marks to come back", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
	s.delete(machine)
	s.returned(ip)
	s.touched(owner)
	s.delete(s.machine("md-0"))
	since := s.cooling(contractIP)
	// It looks whether the namespace goes.
	claim, err := s.claim("md-0")
	if err != nil {
		t.Fatal(err)
	}
	s.delete(claim)
	s.returned(contractIP)
	s.notBefore(since, lasts)
	s.noClaims()
	for _, manager := range env.managers {
		s.expectNothingForbidden(manager, true)
	}

	// Others do not depend on it.
	elsewhere := bareScene(t, env)
	bare := elsewhere.pooled("cp-0")
	elsewhere.create(bare)
	if len(harness.Addresses(bare)) > 0 || len(bare.Finalizers) > 0 {
		t.Errorf("a machine of another namespace was given %v and finalizers %v", harness.Addresses(bare), bare.Finalizers)
	}
}

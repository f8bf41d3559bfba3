// Package integration shows on a real API server, with the real metal3 IP
// Address Manager and the real in-cluster IPAM provider, what capv-static-ip
// promises. Each test is named for one behaviour, works in a namespace of its
// own, and ends with a look at the invariants.
package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// gracePeriod is the orphan grace period of the managers under test. It is
// above the 10 s of a request, as it must be in production.
const gracePeriod = 12 * time.Second

// environment is a control plane with everything installed: most tests share
// one, those that break parts of it start their own.
type environment struct {
	*harness.ControlPlane
	*harness.Installation
	metal3   *harness.Metal3
	managers []*harness.Manager
	// old says that the API server has the APIs of a CAPV that serves v1beta1 alone,
	// to which everything is translated.
	old bool
}

// served is the version in which the API server gets what is sent in this one.
func (e *environment) served(version string) string {
	if e.old {
		return "v1beta1"
	}
	return version
}

// shared is the environment of all tests that harm nobody else: two replicas
// behind a forwarder.
var shared *environment

func TestMain(m *testing.M) {
	harness.RunTests(func(ctx context.Context) (int, error) { return run(ctx, m) })
}

func run(ctx context.Context, m *testing.M) (int, error) {
	env, err := startEnvironment(ctx, harness.Options{}, 2)
	if err != nil {
		return 1, err
	}
	shared = env
	if _, err := env.StartInCluster(ctx); err != nil {
		env.DumpLogs(os.Stderr, 40)
		return 1, errors.Join(fmt.Errorf("starting the in-cluster provider: %w", err), env.Stop())
	}
	code := m.Run()
	if code != 0 {
		env.DumpLogs(os.Stderr, 200)
	}
	if err := errors.Join(removePlugin(), stopZoned(), env.wasHindered()); err != nil {
		return 1, errors.Join(err, env.Stop())
	}
	return code, env.Stop()
}

// wasHindered returns an error if the policy that holds the managers to what they
// do has kept one of them from doing it.
func (e *environment) wasHindered() error {
	for _, manager := range e.managers {
		log, err := os.ReadFile(manager.LogPath)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, confined) {
				return fmt.Errorf("%s was hindered: %s", manager.Name, line)
			}
		}
	}
	return nil
}

// startEnvironment starts a control plane, metal3, and this many replicas. With
// OLD_CAPV=1 it has the APIs of a CAPV that serves v1beta1 alone.
func startEnvironment(ctx context.Context, options harness.Options, replicas int) (_ *environment, err error) {
	options.OldCAPV = options.OldCAPV || os.Getenv("OLD_CAPV") != ""
	plane, err := harness.Start(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	defer func() {
		if err != nil {
			plane.DumpLogs(os.Stderr, 40)
			err = errors.Join(err, plane.Stop())
		}
	}()
	if err := isolateNetworks(plane); err != nil {
		return nil, fmt.Errorf("isolating the scenes: %w", err)
	}
	env := &environment{ControlPlane: plane, old: options.OldCAPV}
	if env.Installation, err = plane.Install(ctx); err != nil {
		return nil, fmt.Errorf("installing: %w", err)
	}
	if !options.WithoutMetal3 {
		if env.metal3, err = plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
			return nil, fmt.Errorf("starting metal3: %w", err)
		}
	}
	for range replicas {
		manager, err := env.StartManager(ctx, harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
		if err != nil {
			return nil, fmt.Errorf("starting a manager: %w", err)
		}
		env.managers = append(env.managers, manager)
	}
	return env, nil
}

// ownPlanes bounds how many tests have an environment of their own at a time: each is busy
// while it starts, and what is timed elsewhere would wait for it.
var ownPlanes = make(chan struct{}, 3)

// ownEnvironment is for a test that breaks parts of it. It ends with the test.
func ownEnvironment(t *testing.T, options harness.Options, replicas int) *environment {
	t.Helper()
	ownPlanes <- struct{}{}
	t.Cleanup(func() { <-ownPlanes })
	options.Progress = io.Discard
	// The test's own context ends before its cleanup, which still looks around.
	env, err := startEnvironment(context.WithoutCancel(t.Context()), options, replicas)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			env.DumpLogs(os.Stderr, 100)
		}
		if err := errors.Join(env.wasHindered(), env.Stop()); err != nil {
			t.Error(err)
		}
	})
	return env
}

// scene is a namespace in an environment, in which one test plays.
type scene struct {
	*testing.T
	env *environment
	ns  string
}

// newScene makes a namespace. When the test ends, the invariants must hold in it.
func newScene(t *testing.T, env *environment) *scene {
	t.Helper()
	ns, err := env.CreateNamespace(t.Context(), "scene")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := env.AwaitAgreement(context.Background(), gracePeriod+harness.Soon,
			harness.InvariantOptions{Namespaces: []string{ns}})
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(env.LogsAbout(ns))
		}
	})
	return &scene{T: t, env: env, ns: ns}
}

// create creates objects and fails the test if one is refused.
func (s *scene) create(objects ...client.Object) {
	s.Helper()
	for _, object := range objects {
		if err := s.env.Client.Create(s.Context(), object); err != nil {
			s.Fatalf("creating %T %s: %v", object, object.GetName(), err)
		}
	}
}

// apply applies a machine server-side, as CAPI does.
func (s *scene) apply(object client.Object, manager string) {
	s.Helper()
	if err := harness.Apply(s.Context(), s.env.Client, object, manager); err != nil {
		s.Fatalf("applying %T %s: %v", object, object.GetName(), err)
	}
}

// delete deletes an object and does not wait for it to go.
func (s *scene) delete(object client.Object, options ...client.DeleteOption) {
	s.Helper()
	if err := s.env.Client.Delete(s.Context(), object, options...); err != nil {
		s.Fatalf("deleting %T %s: %v", object, object.GetName(), err)
	}
}

// machine reads a machine as it is stored.
func (s *scene) machine(name string) *capvv1.VSphereMachine {
	s.Helper()
	machine := &capvv1.VSphereMachine{}
	if err := s.env.Client.Get(s.Context(), s.key(name), machine); err != nil {
		s.Fatal(err)
	}
	return machine
}

// eventually waits until a condition holds, and fails the test if it does not.
func (s *scene) eventually(what string, condition func(context.Context) error) {
	s.Helper()
	if err := harness.Eventually(s.Context(), harness.Soon, what, condition); err != nil {
		s.Fatal(err)
	}
}

// gone waits until an object is gone.
func (s *scene) gone(object client.Object) {
	s.Helper()
	if err := harness.WaitGone(s.Context(), s.env.Client, object, harness.Soon); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: s.ns, Name: name}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func TestMachinesAreMovedToAnotherProviderAndBackWhileOthersComeAndGo(t *testing.T) {
	t.Parallel()
	thereAndBack(t, harness.OfMetal3, harness.OfInCluster)
}

// exchange has two pools with the same addresses. From one to the other, the addresses of
// machines are moved by kubectl static-ip migrate.
type exchange struct {
	*scene
	// mover is the kubeconfig of who moves them.
	mover string
	// steady are workers that nobody touches; busy ones come and go.
	steady, busy *clusterv1.MachineDeployment
}

func thereAndBack(t *testing.T, old, other harness.Fixture) {
	t.Helper()
	e, from, to := newExchange(t, old), old.Reference("old"), other.Reference("new")
	e.create(e.pool(other, "new", 88, 97))
	before := e.untouchedFrom(e.nodes(e.steady))
	leaves := e.machineOf(e.nodes(e.busy)[0])
	e.awaitReady(from, to, 3)

	// A machine is made, and one deleted and replaced, while others are half way.
	e.isKilled(from, to)
	e.scale(e.busy, 2)
	e.delete(leaves)
	e.finishes(from, to)
	e.replaced(e.busy, func(machine *capvv1.VSphereMachine) bool { return machine.Name != leaves.Name })
	e.finishes(from, to)
	e.heldBy(to)
	before.check()

	// All busy ones are replaced while they are moved back.
	e.awaitReady(to, from, 4)
	e.rollTo(e.busy, e.template("next", asking(to)))
	e.isKilled(to, from)
	e.finishes(to, from)
	e.replaced(e.busy, madeOf("next"))
	e.finishes(to, from)
	e.heldBy(from)
	before.check()
}

// asking is how machines ask for a pool in the way that migrate --templates edits for all kinds.
func asking(pool ipam.PoolReference) harness.Option {
	return harness.WithAnnotation(ipam.PoolsAnnotationPrefix+"0", nameOf(pool))
}

// nameOf is how the plugin, and users, name a pool.
func nameOf(pool ipam.PoolReference) string { return pool.Kind + "/" + pool.Name }

// newExchange makes both groups of workers, with addresses of the old pool.
func newExchange(t *testing.T, old harness.Fixture) *exchange {
	t.Helper()
	s := newScene(t, shared)
	template := s.template("workers", asking(old.Reference("old")))
	e := &exchange{scene: s, mover: s.exempt(), steady: s.workers(template, "steady", 2), busy: s.workers(template, "busy", 1)}
	e.create(e.pool(old, "old", 88, 97), template, e.steady, e.busy)
	return e
}

// migrate are the arguments of the command.
func (e *exchange) migrate(from, to ipam.PoolReference) []string {
	return []string{"migrate", "--from=" + nameOf(from), "--to=" + nameOf(to), "--templates"}
}

// awaitReady waits until so many machines can be moved: until then their claims are about to be
// made or adopted, or the API server does not know yet that the mover is exempt.
func (e *exchange) awaitReady(from, to ipam.PoolReference, want int) {
	e.Helper()
	e.eventually(provisioned, "all machines to be ready", func(context.Context) error {
		code, output := e.runPlugin(e.mover, e.migrate(from, to)...)
		if got := strings.Count(output, " ready "); code != 0 || got != want {
			return fmt.Errorf("%d are, want %d; the plan is:\n%s", got, want, output)
		}
		return nil
	})
}

// isKilled begins, and is killed when the first machine is moved.
func (e *exchange) isKilled(from, to ipam.PoolReference) {
	e.Helper()
	e.pluginIsKilled(e.mover, "1 of ", append(e.migrate(from, to), "--yes")...)
}

// logLine is a line as klog writes it.
var logLine = regexp.MustCompile(`(?m)^[IWE]\d{4} .*$`)

// finishes runs it again until all machines are moved, also those that came meanwhile.
func (e *exchange) finishes(from, to ipam.PoolReference) {
	e.Helper()
	e.eventually(provisioned, "all machines to be moved", func(context.Context) error {
		code, output := e.runPlugin(e.mover, append(e.migrate(from, to), "--yes")...)
		e.step("it exits with %d and says:\n%s", code, output)
		if logged := logLine.FindString(output); logged != "" {
			e.Errorf("what is for people has a line of a log: %s", logged)
		}
		if code != 0 {
			return errors.New(output)
		}
		return nil
	})
}

// heldBy waits until all machines hold their addresses by claims on this pool.
func (e *exchange) heldBy(pool ipam.PoolReference) {
	e.Helper()
	for _, workers := range []*clusterv1.MachineDeployment{e.steady, e.busy} {
		nodes := e.nodes(workers)
		e.eventually(harness.Soon, "all machines to be held by "+nameOf(pool), func(ctx context.Context) error {
			return errors.Join(e.allHeld(ctx, nodes), e.allOf(ctx, nodes, pool))
		})
	}
	e.step("all machines are held by %s", nameOf(pool))
}

// allOf returns an error unless all bindings are of this pool, and no machine is half way.
func (s *scene) allOf(ctx context.Context, nodes []stack.Node, pool ipam.PoolReference) error {
	for _, node := range nodes {
		machine := &capvv1.VSphereMachine{}
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(node.Machine), machine); err != nil {
			return err
		}
		bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
		if err != nil {
			return err
		}
		for _, b := range bindings.Bindings {
			if b.Pool != pool {
				return fmt.Errorf("machine %s has %s of %s", machine.Name, b.Address, b.Pool)
			}
		}
		if _, isHalfWay := machine.Annotations[ipam.MigratingAnnotation]; isHalfWay {
			return fmt.Errorf("machine %s is half way", machine.Name)
		}
	}
	return nil
}

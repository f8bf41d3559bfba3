package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// movable is what a pool needs, by provider, for clusterctl to move it.
func movable(f harness.Fixture) []harness.Option {
	if f.Is(harness.OfMetal3) {
		return []harness.Option{ofItsCluster}
	}
	return nil
}

// A claim whose machine was not stored has no owner that it would be moved with,
// and its address no place in the order in which clusterctl moves, without it.
func TestMoveBesideAMachineThatIsRefusedAfterItsAddressWasGiven(t *testing.T) {
	harness.ForOneProvider(t, harness.OfInCluster, func(t *testing.T, by harness.Fixture) {
		r := newRelocation(t, by, 0, movable(by)...)
		r.refuseAfterItsAddress(by)
		along := r.watchTarget(by, "refused-0")

		r.move()

		if err := along(); err != nil {
			t.Error(err)
		}
		r.checkKept()
		r.checkNothingLeft()
		r.checkNewMachineOnTheFreeAddress()
		r.checkReleased()
	})
}

// refuseAfterItsAddress creates a machine that the schema refuses when it has its
// address.
func (r *relocation) refuseAfterItsAddress(by harness.Fixture) {
	r.Helper()
	machine := harness.Machine(r.ns, "refused", by.Ask("workers"))
	machine.Spec.PowerOffMode = "never"
	if err := r.stack.Plane.Client.Create(r.Context(), machine); err == nil || !strings.Contains(err.Error(), "powerOffMode") {
		r.Fatalf("got %v, want the machine to be refused for its powerOffMode", err)
	}
	address, err := r.boundTo(by, "refused-0")
	if err != nil || address == "" {
		r.Fatalf("the machine was not given an address: %q, %v", address, err)
	}
	r.step("a machine was given %s and then refused", address)
	go r.tryAgainUntilTheMove(machine)
}

// tryAgainUntilTheMove creates a machine that is refused again and again, as a MachineSet does,
// until its Cluster is paused: what waits for nobody is reaped, before clusterctl sees it.
func (r *relocation) tryAgainUntilTheMove(refused *capvv1.VSphereMachine) {
	cluster := &clusterv1.Cluster{}
	for ticker := time.Tick(time.Second); ; {
		err := r.stack.Plane.Client.Get(r.Context(), client.ObjectKey{Namespace: r.ns, Name: harness.DefaultCluster}, cluster)
		if err != nil || ptr.Deref(cluster.Spec.Paused, false) {
			return
		}
		_ = r.stack.Plane.Client.Create(r.Context(), refused.DeepCopy())
		select {
		case <-r.Context().Done():
			return
		case <-ticker:
		}
	}
}

// watchTarget looks for a claim in the target from now on. The function that it
// returns tells whether it was there.
func (r *relocation) watchTarget(by harness.Fixture, name string) func() error {
	ctx, cancel := context.WithCancel(r.Context())
	r.Cleanup(cancel)
	done := make(chan error, 1)
	go func() {
		done <- harness.Eventually(ctx, provisioned, "claim "+name+" to come along", func(ctx context.Context) error {
			return r.target.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: r.ns, Name: name}, ipam.EmptyClaim(by.Provider))
		})
	}()
	return func() error {
		cancel()
		return <-done
	}
}

// added is the number of machines that are made beside a move.
const added = 3

func TestMoveBesideCreatesThatAreUnderWay(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, by harness.Fixture) {
		r := newRelocation(t, by, added, movable(by)...)
		r.scale(r.workers, relocated+added)
		r.awaitMore()

		if !r.moveBegins() {
			r.before = r.nodes(r.workers)
			r.awaitJoined()
			r.event = r.lastEvent()
			r.move()
		}

		r.checkKept()
		r.checkNothingLeft()
		r.checkAll(relocated + added)
	})
}

func TestMoveBesideAScaleUp(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, by harness.Fixture) {
		r := newRelocation(t, by, added, movable(by)...)

		r.moveAndScaleUp("Pausing the source cluster")

		r.checkKept()
		r.checkNothingLeft()
		// Again, in case that clusterctl had read the MachineDeployment before.
		r.target.scale(r.workers, relocated+added)
		r.checkAll(relocated + added)
	})
}

// trigger does something once, when a text was written to it.
type trigger struct {
	text    string
	do      func()
	done    bool
	written bytes.Buffer
}

func (t *trigger) Write(content []byte) (int, error) {
	n, err := t.written.Write(content)
	if !t.done && strings.Contains(t.written.String(), t.text) {
		t.done = true
		t.do()
	}
	return n, err
}

// moveAndScaleUp moves, and asks for more machines when clusterctl says something.
func (r *relocation) moveAndScaleUp(said string) {
	r.Helper()
	r.step("moving")
	var scaling error
	workers := r.workers.DeepCopy()
	up := &trigger{text: said, do: func() { scaling = r.stack.Scale(r.Context(), workers, relocated+added) }}
	_, err := r.stack.MoveShown(r.Context(), r.ns, r.target.stack, up)
	if !up.done {
		err = errors.Join(err, fmt.Errorf("clusterctl did not say %q", said))
	}
	if err := errors.Join(err, scaling); err != nil {
		r.Fatal(err)
	}
	r.checkMoved()
}

// awaitMore waits until the machines that are added are stored. One that is stored after
// clusterctl has looked, and before it pauses the Cluster, would be left behind.
func (r *relocation) awaitMore() {
	r.Helper()
	r.eventually(provisioned, "the new machines to be stored", func(ctx context.Context) error {
		machines, err := r.objects(ctx, &capvv1.VSphereMachine{})
		if err != nil {
			return err
		}
		if len(machines) < relocated+added {
			return fmt.Errorf("there are %d machines", len(machines))
		}
		return nil
	})
}

// moveBegins moves, and tells whether clusterctl did: it refuses to while a machine
// that it finds is no node yet, or is one of which it does not find all. Where it
// takes long to start, they may be nodes.
func (r *relocation) moveBegins() bool {
	r.Helper()
	r.step("moving")
	if _, err := r.stack.Move(r.Context(), r.ns, r.target.stack); err == nil {
		r.checkMoved()
		return true
	}
	cluster := &clusterv1.Cluster{}
	cluster.Namespace, cluster.Name = r.ns, harness.DefaultCluster
	r.get(cluster)
	if paused := cluster.Spec.Paused; paused != nil && *paused {
		r.Fatal("the move has failed, and left the Cluster paused")
	}
	if err := r.target.stack.Plane.Client.Get(r.Context(), client.ObjectKeyFromObject(cluster), cluster); !apierrors.IsNotFound(err) {
		r.Fatalf("reading the Cluster in the target: got %v, want that it is not there", err)
	}
	r.step("the move has not begun")
	return false
}

// checkAll waits until all machines that are wanted hold addresses in the target.
func (r *relocation) checkAll(wanted int) {
	r.Helper()
	nodes := r.target.nodes(r.workers)
	if len(nodes) != wanted {
		r.Errorf("got %d machines, want %d", len(nodes), wanted)
	}
	r.target.eventually(harness.Soon, "all machines to hold their addresses", func(ctx context.Context) error {
		return r.target.allHeld(ctx, nodes)
	})
	r.checkVMsUntouched()
}

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func TestMovedMachinesKeepTheAddressesOfAnInClusterPool(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, harness.OfInCluster, 0)

	r.move()

	r.checkKept()
	r.checkNothingLeft()
	r.checkNewMachineOnTheFreeAddress()
	r.checkReleased()
}

func TestMovedMachinesKeepTheAddressesOfAMetal3PoolOfTheirCluster(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, harness.OfMetal3, 0, ofItsCluster)

	r.move()

	r.checkKept()
	r.checkNothingLeft()
	r.checkNewMachineOnTheFreeAddress()
	r.checkReleased()
}

func TestMovedMachinesKeepTheAddressesOfAMetal3PoolThatIsToldToMove(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, harness.OfMetal3, 0, harness.WithLabel(clusterctlv1.ClusterctlMoveHierarchyLabel, ""))

	r.move()

	r.checkKept()
	r.checkNothingLeft()
	r.checkNewMachineOnTheFreeAddress()
	r.checkReleased()
}

func TestMovedMachinesKeepTheAddressesOfAMetal3PoolMadeByHandBeforeTheMove(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, harness.OfMetal3, 0)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}}
	r.target.create(namespace, r.pool(r.target))

	r.move()

	r.checkKept()
	r.checkNothingLeft()
	r.checkNewMachineOnTheFreeAddress()
	r.checkReleased()
}

func TestMovedMachinesKeepTheAddressesOfAMetal3PoolMadeByHandAfterTheMove(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, harness.OfMetal3, 0)

	r.move()
	// A machine that is wanted before the pool is there waits for it, and then
	// asks for an address when those that moved do, too.
	r.grow()
	r.checkRefused("no IPPool and no InClusterIPPool")
	r.target.create(r.pool(r.target))

	r.checkKept()
	r.checkNothingLeft()
	r.checkNewMachineOnTheFreeAddress()
	r.checkAddressesStay()
}

// ofItsCluster makes a pool of metal3 one of the Cluster, with which it is moved.
func ofItsCluster(object client.Object) {
	cluster := harness.DefaultCluster
	object.(*ipamv1.IPPool).Spec.ClusterName = &cluster
}

// relocated is the number of machines that are moved.
const relocated = 3

// relocation is the move of a Cluster, with its workers, from one management
// cluster to another. The scene itself is in the one that the Cluster comes
// from; its pool has one address more than there are machines.
type relocation struct {
	*scene
	target  *scene
	pool    func(*scene) client.Object
	workers *clusterv1.MachineDeployment

	// before is what there was before the move, and event the last thing that
	// had happened in the vCenter.
	before []stack.Node
	event  int
}

// newRelocation makes a Cluster with workers that can be moved, and hold their
// addresses. Its pool, which options change, has so many addresses more.
func newRelocation(t *testing.T, by harness.Fixture, more byte, options ...harness.Option) *relocation {
	t.Helper()
	return newRelocationAsking(t, by, by.Ask("workers"), more, options...)
}

// newRelocationAsking is newRelocation with workers that ask in this way.
func newRelocationAsking(t *testing.T, by harness.Fixture, ask harness.Option, more byte, options ...harness.Option) *relocation {
	t.Helper()
	r := newUnpeopled(t, by, more, options...)
	template := r.template("workers", ask)
	r.people(template, r.scene.workers(template, "md-moved", relocated))
	return r
}

// newUnpeopled is a relocation without its workers, see people.
func newUnpeopled(t *testing.T, by harness.Fixture, more byte, options ...harness.Option) *relocation {
	t.Helper()
	s := newScene(t, secondStack(t))
	r := &relocation{
		scene:  s,
		target: &scene{T: t, stack: shared, ns: s.ns, network: s.network, began: s.began},
		pool:   func(s *scene) client.Object { return s.pool(by, "workers", 10, 10+relocated+more, options...) },
	}
	t.Cleanup(r.target.inspect)
	return r
}

// people makes the workers, and waits until they can be moved.
func (r *relocation) people(template *capvv1.VSphereMachineTemplate, workers *clusterv1.MachineDeployment) {
	r.Helper()
	r.workers = workers
	r.create(r.pool(r.scene), template, workers)
	r.before = r.nodes(workers)
	r.moveBootstrapData()
	r.awaitJoined()
	r.eventually(harness.Soon, "the machines to hold their addresses", func(ctx context.Context) error {
		return r.allHeld(ctx, r.before)
	})
	r.event = r.lastEvent()
	r.step("the machines are nodes, and hold their addresses")
}

// moveBootstrapData labels the bootstrap data that all workers share: there is
// no KubeadmConfig that it would move with.
func (s *scene) moveBootstrapData() {
	s.Helper()
	secrets := &corev1.SecretList{}
	s.list(secrets, client.MatchingLabels{clusterv1.ClusterNameLabel: harness.DefaultCluster})
	for i := range secrets.Items {
		patch(s, &secrets.Items[i], func(secret *corev1.Secret) { secret.Labels[clusterctlv1.ClusterctlMoveLabel] = "" })
	}
}

// awaitJoined waits until each Machine knows its Node: clusterctl moves no others.
func (s *scene) awaitJoined() {
	s.Helper()
	s.eventually(provisioned, "the machines to know their Nodes", func(ctx context.Context) error { return s.stack.Joined(ctx, s.ns) })
}

func (r *relocation) move() {
	r.Helper()
	r.step("moving")
	if output, err := r.moveTo(r.target.stack); err != nil {
		r.Fatalf("%v; it said:\n%s", err, output)
	}
	r.checkMoved()
}

// moving is held by who moves what has no namespace, which clusterctl takes along with every
// Cluster, for as long as that is there; others share it while they move.
var moving sync.RWMutex

// moveTo moves the scene's Cluster to another management cluster.
func (s *scene) moveTo(target *stack.Stack) (output string, err error) {
	if !s.movesAlone {
		moving.RLock()
		defer moving.RUnlock()
	}
	return s.stack.Move(s.Context(), s.ns, target)
}

// checkMoved reads the workers in the target.
func (r *relocation) checkMoved() {
	r.Helper()
	r.workers.UID, r.workers.ResourceVersion = "", ""
	r.target.get(r.workers)
	r.step("moved")
}

// checkKept waits until all machines hold in the target what they held before,
// and checks that nothing has happened to their virtual machines.
func (r *relocation) checkKept() {
	r.Helper()
	r.target.eventually(provisioned, "the moved machines to hold their addresses", func(ctx context.Context) error {
		return r.target.allHeld(ctx, r.before)
	})
	vms, err := r.stack.VCenter.VMs(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	for _, node := range r.before {
		machine := &capvv1.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: node.Machine.Name}}
		r.target.get(machine)
		if machine.UID == node.Machine.UID {
			r.Errorf("machine %s has its old UID: it was not moved", machine.Name)
		}
		if got, want := harness.Addresses(machine), harness.Addresses(node.Machine); !slices.Equal(got, want) {
			r.Errorf("machine %s has %v, want %v as before the move", machine.Name, got, want)
		}
		at := slices.IndexFunc(vms, func(vm stack.VM) bool { return vm.ID == node.VM.ID })
		if at < 0 {
			r.Errorf("the virtual machine of %s is gone", machine.Name)
		} else if vms[at].Metadata != node.VM.Metadata {
			r.Errorf("the metadata of virtual machine %s became\n%s\nwant as before the move\n%s", machine.Name, vms[at].Metadata, node.VM.Metadata)
		}
	}
	r.checkVMsUntouched()
	r.step("the machines hold their addresses in the target")
}

func (r *relocation) checkVMsUntouched() {
	r.Helper()
	untouched{scene: r.scene, nodes: r.before, event: r.event}.checkVMs()
}

// checkNothingLeft waits until nothing of ours is where the Cluster was.
func (r *relocation) checkNothingLeft() {
	r.Helper()
	r.eventually(harness.Soon, "nothing of ours to be left", func(ctx context.Context) error {
		_, err := r.left(ctx)
		return err
	})
	r.step("nothing of ours is left in the source")
}

// checkAddressesStay checks that nobody gives back, where the Cluster was, addresses
// of a pool that stayed there: machines use them elsewhere.
func (r *relocation) checkAddressesStay() {
	r.Helper()
	err := harness.Consistently(r.Context(), gracePeriod+gracePeriod/4, "addresses stay taken in the source", func(ctx context.Context) error {
		now, err := r.left(ctx)
		if err == nil && now != relocated {
			err = fmt.Errorf("%d are, of %d machines", now, relocated)
		}
		return err
	})
	if err != nil {
		r.Error(err)
	}
	r.step("the addresses stay taken in the source")
}

// grow asks for one machine more in the target.
func (r *relocation) grow() {
	r.Helper()
	r.target.scale(r.workers, relocated+1)
}

// checkRefused waits until the owner of the new machine is told why there is none.
func (r *relocation) checkRefused(why string) {
	r.Helper()
	r.target.eventually(provisioned, "the new machine to be refused", func(ctx context.Context) error {
		return r.target.refused(ctx, why)
	})
	r.step("a new machine is refused: %s", why)
}

// checkNewMachineOnTheFreeAddress asks for one machine more, which only gets an
// address if it is given the one that none of the others has.
func (r *relocation) checkNewMachineOnTheFreeAddress() {
	r.Helper()
	r.grow()
	nodes := r.target.nodes(r.workers)
	taken := map[string]string{}
	for _, node := range nodes {
		for _, address := range harness.Addresses(node.Machine) {
			if other := taken[address]; other != "" {
				r.Errorf("%s and %s both have %s", other, node.Machine.Name, address)
			}
			taken[address] = node.Machine.Name
		}
	}
	r.target.eventually(harness.Soon, "all machines to hold their addresses", func(ctx context.Context) error {
		return r.target.allHeld(ctx, nodes)
	})
	r.checkVMsUntouched()
}

// checkReleased deletes the machines in the target; their addresses go back to
// the pool there.
func (r *relocation) checkReleased() {
	r.Helper()
	r.target.delete(r.workers)
	r.target.gone(r.workers, provisioned)
	r.target.awaitFree()
	r.step("the addresses are free again in the target")
}

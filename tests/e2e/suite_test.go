// Package e2e shows on a whole management cluster, from kubectl's side to the
// virtual machines in a simulated vCenter, what capv-static-ip promises. Each
// test is named for one behaviour, plays in a namespace with a Cluster of its
// own, and ends with a look at the invariants, in the API server and in what
// happened in the vCenter.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

const (
	// gracePeriod is the orphan grace period of the managers under test. It is
	// above the 10 s of a request, as it must be in production.
	gracePeriod = 12 * time.Second
	// provisioned is a deadline for machines to have virtual machines that run:
	// CAPV takes about 10 s, alone on a quiet machine.
	provisioned = 3 * time.Minute
)

// shared is the stack of all tests that harm nobody else.
var shared *stack.Stack

func TestMain(m *testing.M) {
	harness.RunTests(func(ctx context.Context) (int, error) { return run(ctx, m) })
}

func run(ctx context.Context, m *testing.M) (int, error) {
	began := time.Now()
	started, err := stack.Start(ctx, stackOptions())
	if err != nil {
		return 1, err
	}
	fmt.Printf("stack started in %s\n", time.Since(began).Round(time.Millisecond))
	shared = started
	code := m.Run()
	if code != 0 {
		shared.Plane.DumpLogs(os.Stderr, 40)
	}
	return code, errors.Join(stopSecond(code != 0), shared.Stop())
}

// stackOptions are those of the shared stack. KEEP_FILES=1 keeps its logs. All that
// we have against people is in force, and must be in nobody else's way.
func stackOptions() stack.Options {
	return stack.Options{
		Manager:   harness.ManagerOptions{OrphanGracePeriod: gracePeriod},
		Protected: true,
		// They change nothing for who does not use them.
		FeatureGates: []string{"ClusterTopology=true", "RuntimeSDK=true", "InPlaceUpdates=true"},
		Plane:        harness.Options{KeepFiles: os.Getenv("KEEP_FILES") != "", ControllerAccounts: true},
	}
}

// networks counts the networks that scenes have taken.
var networks atomic.Uint32

// scene is a namespace with a Cluster on a stack, in which one test plays. Its
// addresses are its own in the whole vCenter.
type scene struct {
	*testing.T
	stack *stack.Stack
	ns    string
	// network is a /24 that no other scene has.
	network netip.Prefix
	// movesAlone says that it has moving for itself.
	movesAlone bool

	began time.Time
}

// newScene makes a namespace with a Cluster named harness.DefaultCluster.
func newScene(t *testing.T, on *stack.Stack, options ...harness.Option) *scene {
	t.Helper()
	s := newEmptyScene(t, on)
	if err := on.CreateCluster(t.Context(), s.ns, harness.DefaultCluster, options...); err != nil {
		t.Fatal(err)
	}
	s.step("the Cluster is there, in namespace %s with network %s", s.ns, s.network)
	return s
}

// newEmptyScene makes a namespace. When the test ends, the invariants must hold in
// it, and must have held in the vCenter all the time.
func newEmptyScene(t *testing.T, on *stack.Stack) *scene {
	t.Helper()
	ns, err := on.Plane.CreateNamespace(t.Context(), "scene")
	if err != nil {
		t.Fatal(err)
	}
	number := networks.Add(1)
	s := &scene{
		T: t, stack: on, ns: ns, began: time.Now(),
		network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96 + byte(number>>8), byte(number), 0}), 24),
	}
	t.Cleanup(s.inspect)
	return s
}

// rest pauses the Clusters of a scene that has ended: CAPV goes on looking at each of their
// virtual machines every few seconds otherwise, for as long as others play.
func (s *scene) rest() {
	s.Helper()
	clusters := &clusterv1.ClusterList{}
	if err := s.stack.Plane.Client.List(context.Background(), clusters, client.InNamespace(s.ns)); err != nil {
		s.Error(err)
	}
	pause := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"paused":true}}`))
	for i := range clusters.Items {
		err := s.stack.Plane.Client.Patch(context.Background(), &clusters.Items[i], pause)
		if client.IgnoreNotFound(err) != nil {
			s.Error(err)
		}
	}
}

// inspect looks at the invariants. The test's own context has ended by then.
func (s *scene) inspect() {
	s.Helper()
	ctx := context.Background()
	err := s.stack.Plane.AwaitAgreement(ctx, harness.Soon, harness.InvariantOptions{Namespaces: []string{s.ns}})
	if err != nil {
		s.Error(err)
	}
	events, err := s.events(ctx)
	if err != nil {
		s.Error(err)
	}
	for _, violation := range stack.SharedAddresses(events) {
		s.Error(violation)
	}
	s.rest()
}

// events are what happened in the vCenter to virtual machines with addresses of
// this scene.
func (s *scene) events(ctx context.Context) ([]stack.VMEvent, error) {
	all, err := s.stack.VCenter.Events(ctx, 0)
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{}
	for _, event := range all {
		for _, text := range event.Addresses {
			prefix, err := netip.ParsePrefix(text)
			ours[event.ID] = ours[event.ID] || err == nil && (s.network.Contains(prefix.Addr()) || s.network6().Contains(prefix.Addr()))
		}
	}
	return slices.DeleteFunc(all, func(event stack.VMEvent) bool { return !ours[event.ID] }), nil
}

// step logs what has been reached, and when.
func (s *scene) step(format string, args ...any) {
	s.Helper()
	s.Logf("%6.1fs %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// address is one of the scene's network.
func (s *scene) address(last byte) string {
	octets := s.network.Addr().As4()
	octets[3] = last
	return netip.AddrFrom4(octets).String()
}

// network6 is a /64 that no other scene has.
func (s *scene) network6() netip.Prefix {
	four := s.network.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, four[1], four[2]}), 64)
}

// address6 is one of the scene's IPv6 network.
func (s *scene) address6(last byte) string {
	octets := s.network6().Addr().As16()
	octets[15] = last
	return netip.AddrFrom16(octets).String()
}

// addresses are those from first to last, each with the prefix length.
func (s *scene) addresses(first, last byte) []string {
	var list []string
	for n := int(first); n <= int(last); n++ {
		list = append(list, fmt.Sprintf("%s/%d", s.address(byte(n)), s.network.Bits()))
	}
	return list
}

// create creates objects and fails the test if one is refused.
func (s *scene) create(objects ...client.Object) {
	s.Helper()
	if err := s.stack.Create(s.Context(), objects...); err != nil {
		s.Fatal(err)
	}
}

// delete deletes an object and does not wait for it to go.
func (s *scene) delete(object client.Object, options ...client.DeleteOption) {
	s.Helper()
	if err := s.stack.Plane.Client.Delete(s.Context(), object, options...); err != nil {
		s.Fatalf("deleting %T %s: %v", object, object.GetName(), err)
	}
}

// get reads an object again, which must exist.
func (s *scene) get(object client.Object) {
	s.Helper()
	if err := s.stack.Plane.Client.Get(s.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		s.Fatalf("reading %T %s: %v", object, object.GetName(), err)
	}
}

// list lists the objects of a kind in the namespace.
func (s *scene) list(list client.ObjectList, options ...client.ListOption) {
	s.Helper()
	if err := s.stack.Plane.Client.List(s.Context(), list, append(options, client.InNamespace(s.ns))...); err != nil {
		s.Fatalf("listing %T: %v", list, err)
	}
}

// patch changes an object, and fails the test if the change is refused.
func patch[T client.Object](s *scene, object T, change func(T)) {
	s.Helper()
	before := object.DeepCopyObject().(client.Object)
	change(object)
	if err := s.stack.Plane.Client.Patch(s.Context(), object, client.MergeFrom(before)); err != nil {
		s.Fatalf("patching %T %s: %v", object, object.GetName(), err)
	}
}

// eventually waits until a condition holds, and fails the test if it does not.
func (s *scene) eventually(timeout time.Duration, what string, condition func(context.Context) error) {
	s.Helper()
	if err := harness.Eventually(s.Context(), timeout, what, condition); err != nil {
		s.Fatal(err)
	}
}

// gone waits until an object is gone.
func (s *scene) gone(object client.Object, timeout time.Duration) {
	s.Helper()
	if err := harness.WaitGone(s.Context(), s.stack.Plane.Client, object, timeout); err != nil {
		s.Fatal(err)
	}
}

// template is a VSphereMachineTemplate of the namespace.
func (s *scene) template(name string, options ...harness.Option) *capvv1.VSphereMachineTemplate {
	return s.stack.Template(s.ns, name, options...)
}

// workers is a MachineDeployment of the scene's Cluster.
func (s *scene) workers(template *capvv1.VSphereMachineTemplate, name string, replicas int32) *clusterv1.MachineDeployment {
	return stack.Workers(template, harness.DefaultCluster, name, replicas)
}

// scale changes the number of machines of a MachineDeployment.
func (s *scene) scale(workers *clusterv1.MachineDeployment, replicas int32) {
	s.Helper()
	if err := s.stack.Scale(s.Context(), workers, replicas); err != nil {
		s.Fatal(err)
	}
}

// nodes waits until a MachineDeployment is complete, and returns its machines,
// which then hold what they should, see agree.
func (s *scene) nodes(workers *clusterv1.MachineDeployment) []stack.Node {
	s.Helper()
	nodes, err := s.stack.AwaitNodes(s.Context(), workers, provisioned)
	if err != nil {
		s.Fatal(err)
	}
	s.allAgree(workers.Name, nodes)
	return nodes
}

// allAgree checks each of a group's nodes.
func (s *scene) allAgree(group string, nodes []stack.Node) {
	s.Helper()
	var held []string
	for _, node := range nodes {
		if err := s.agree(node); err != nil {
			s.Error(err)
		}
		held = append(held, harness.Addresses(node.Machine)...)
	}
	s.step("%s has %d virtual machines, with %s", group, len(nodes), strings.Join(held, ", "))
}

// agree checks that the machine and its virtual machine have the same addresses,
// all of the scene's network.
func (s *scene) agree(node stack.Node) error {
	held := harness.Addresses(node.Machine)
	var errs []error
	for _, text := range held {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || !s.network.Contains(prefix.Addr()) && !s.network6().Contains(prefix.Addr()) {
			errs = append(errs, fmt.Errorf("machine %s has %s, which is not of network %s", node.Machine.Name, text, s.network))
		}
	}
	if !slices.Equal(held, node.VM.Addresses) {
		errs = append(errs, fmt.Errorf("machine %s has %v, and its virtual machine %v", node.Machine.Name, held, node.VM.Addresses))
	}
	return errors.Join(errs...)
}

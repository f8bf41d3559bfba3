package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// etcd was restored to before some machines were made: their virtual machines run, and nobody
// here knows of them.
func TestAddressesOfVirtualMachinesThatNobodyKnowsAreFoundAndReserved(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", by.Ask("pool"))
		known, lost := s.workers(template, "md-known", 1), s.workers(template, "md-lost", 2)
		pool := s.pool(by, "pool", 88, 91)
		s.create(pool, template, known, lost)
		s.nodes(known)
		gone := s.nodes(lost)
		if found := s.audits(); len(found) > 0 {
			t.Fatalf("before, the audit finds %q", found)
		}

		s.forgets(lost, gone, 1)

		found := s.audits()
		for _, node := range gone {
			want := fmt.Sprintf("VirtualMachine %s  answers with %s of ", node.Machine.Name, addressOf(node))
			if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, want) }) {
				t.Errorf("the audit finds %q, want %q", found, want)
			}
		}
		if len(found) != len(gone) {
			t.Errorf("the audit finds %q, want %d errors", found, len(gone))
		}
		s.runs([]int{0, 3}, "reserve", "--vcenter")
		if found := s.audits(); len(found) != len(gone) {
			t.Errorf("after a plan the audit finds %q, want the same", found)
		}
		s.runs([]int{0, 3}, "reserve", "--vcenter", "--yes")
		if found := s.audits(); len(found) > 0 {
			t.Errorf("after they were reserved, the audit finds %q", found)
		}
		s.step("the addresses are reserved")

		// There is one more, and no other.
		s.scale(known, 3)
		const exhausted = "is exhausted"
		s.eventually(provisioned, "one machine too many to be refused", func(ctx context.Context) error { return s.refused(ctx, exhausted) })
		for _, node := range s.allNodes(known, 2) {
			if slices.ContainsFunc(gone, func(other stack.Node) bool { return addressOf(other) == addressOf(node) }) {
				t.Errorf("machine %s got %s, on which a virtual machine answers", node.Machine.Name, addressOf(node))
			}
		}

		// A person has looked at one of them.
		decided := gone[0]
		if err := s.stack.VCenter.Destroy(t.Context(), decided.VM); err != nil {
			t.Fatal(err)
		}
		s.runs([]int{0}, "reserve", "pool", addressOf(decided), "--undo", "--yes")
		nodes := s.nodes(known)
		if !slices.ContainsFunc(nodes, func(node stack.Node) bool { return addressOf(node) == addressOf(decided) }) {
			t.Errorf("no machine has %s, which is free again", addressOf(decided))
		}
		if found := s.audits(); len(found) > 0 {
			t.Errorf("at the end the audit finds %q", found)
		}
	})
}

// addressOf is the one that a machine has.
func addressOf(node stack.Node) string {
	ip, _, _ := strings.Cut(harness.Addresses(node.Machine)[0], "/")
	return ip
}

// runs runs the plugin with the login of the VSphereCluster, and returns what it printed with
// runs of spaces made two.
func (s *scene) runs(codes []int, args ...string) string {
	s.Helper()
	cmd := s.plugin(s.stack.Plane.Kubeconfig, args...)
	cmd.Env = append(cmd.Environ(), "GOVC_INSECURE=true")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		s.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains(codes, code) {
		s.Fatalf("%q exits with %d, want one of %v:\n%s\n%s", args, code, codes, out.String(), errs.String())
	}
	for _, secret := range []string{s.stack.VCenter.Password} {
		if strings.Contains(out.String()+errs.String(), secret) {
			s.Error("the password of the vCenter is printed")
		}
	}
	s.step("kubectl static-ip %s\n%s%s", strings.Join(args, " "), out.String(), errs.String())
	return out.String()
}

// aboutAddresses are the checks that find who has an address that another may be given. That the
// webhook is behind a forwarder here, others would find.
const aboutAddresses = "SIP-001,SIP-004,SIP-005,SIP-006,SIP-012,SIP-017,SIP-020"

// audits are the errors that audit finds with the vCenter. What other scenes do there may not be
// seen wholly.
func (s *scene) audits() []string {
	s.Helper()
	var found []string
	for line := range strings.Lines(s.runs([]int{0, 1, 3}, "audit", "--vcenter", "--checks", aboutAddresses)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "error" {
			found = append(found, spaced(line))
		}
	}
	return found
}

// spaced is a line of a table with two spaces between its columns.
func spaced(line string) string {
	var cells []string
	for cell := range strings.SplitSeq(strings.TrimSpace(line), "  ") {
		if cell = strings.TrimSpace(cell); cell != "" {
			cells = append(cells, cell)
		}
	}
	return strings.Join(cells, "  ")
}

// allNodes waits until there are so many machines that have virtual machines, of more that are
// wanted.
func (s *scene) allNodes(workers *clusterv1.MachineDeployment, count int) []stack.Node {
	s.Helper()
	some := workers.DeepCopy()
	replicas := int32(count) //nolint:gosec // there are few
	some.Spec.Replicas = &replicas
	return s.nodes(some)
}

// forgets takes away all objects of some machines, and of what makes them, as if they had never
// been, so that so many addresses are left. Their virtual machines run on: while the Cluster is
// paused, CAPV looks at nothing of it.
func (s *scene) forgets(workers *clusterv1.MachineDeployment, nodes []stack.Node, left int) {
	s.Helper()
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: harness.DefaultCluster}}
	s.get(cluster)
	patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = new(true) })
	for _, node := range nodes {
		s.pausedIn(&capvv1.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: node.Machine.Name}})
		s.pausedIn(&capvv1.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: node.Machine.Name}})
	}
	sets := &clusterv1.MachineSetList{}
	s.list(sets, client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
	machines := &clusterv1.MachineList{}
	s.list(machines, client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
	var objects []client.Object
	objects = append(objects, workers)
	for i := range sets.Items {
		objects = append(objects, &sets.Items[i])
	}
	for _, node := range nodes {
		objects = append(objects, &capvv1.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: node.Machine.Name}})
	}
	for i := range machines.Items {
		objects = append(objects, &machines.Items[i])
	}
	for _, object := range objects {
		s.strip(object, metav1.DeletePropagationOrphan)
	}
	for _, node := range nodes {
		s.strip(node.Machine, metav1.DeletePropagationBackground, ipam.ReleaseFinalizer)
		s.gone(node.Machine, harness.Soon)
	}
	s.get(cluster)
	patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = nil })
	s.eventually(harness.Soon, "the addresses to be free", s.hasAddresses(left))
	vms, err := s.stack.VCenter.VMs(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	for _, node := range nodes {
		if !slices.ContainsFunc(vms, func(vm stack.VM) bool { return vm.ID == node.VM.ID && vm.PoweredOn && len(vm.Reported) > 0 }) {
			s.Fatalf("virtual machine %s does not run any more", node.VM.Name)
		}
	}
	s.step("nobody knows of %d virtual machines any more", len(nodes))
}

// pausedIn waits until CAPV says of an object that it is paused.
func (s *scene) pausedIn(object client.Object) {
	s.Helper()
	s.eventually(harness.Soon, fmt.Sprintf("%T %s to be paused", object, object.GetName()), func(ctx context.Context) error {
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		conditions := object.(interface{ GetConditions() []metav1.Condition }).GetConditions()
		if !slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
			return c.Type == clusterv1.PausedCondition && c.Status == metav1.ConditionTrue
		}) {
			return fmt.Errorf("its conditions are %v", conditions)
		}
		return nil
	})
}

// strip deletes an object, and takes all finalizers off but these.
func (s *scene) strip(object client.Object, how metav1.DeletionPropagation, but ...string) {
	s.Helper()
	if err := s.stack.Plane.Client.Delete(s.Context(), object, &client.DeleteOptions{PropagationPolicy: &how}); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	s.eventually(harness.Soon, fmt.Sprintf("the finalizers of %T %s to be off", object, object.GetName()), func(ctx context.Context) error {
		err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(object), object)
		if err != nil {
			return client.IgnoreNotFound(err)
		}
		before := object.DeepCopyObject().(client.Object)
		object.SetFinalizers(slices.DeleteFunc(object.GetFinalizers(), func(f string) bool {
			return f != metav1.FinalizerOrphanDependents && !slices.Contains(but, f)
		}))
		if err := s.stack.Plane.Client.Patch(ctx, object, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return err
		}
		if left := object.GetFinalizers(); len(but) == 0 && len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}

// hasAddresses returns an error unless there are so many address objects in the namespace.
func (s *scene) hasAddresses(count int) func(context.Context) error {
	return func(ctx context.Context) error {
		found := 0
		for _, provider := range harness.Providers {
			addresses, err := s.objects(ctx, ipam.EmptyAddress(provider))
			if err != nil {
				return err
			}
			found += len(addresses)
		}
		if found != count {
			return fmt.Errorf("there are %d", found)
		}
		return nil
	}
}

package stack_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

var shared *stack.Stack

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, m)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (int, error) {
	start := time.Now()
	started, err := stack.Start(ctx, stack.Options{Plane: harness.Options{KeepFiles: os.Getenv("KEEP_FILES") != ""}})
	if err != nil {
		return 1, err
	}
	fmt.Printf("stack started in %s\n", time.Since(start).Round(time.Millisecond))
	shared = started
	code := m.Run()
	if code != 0 {
		shared.Plane.DumpLogs(os.Stderr, 20)
	}
	return code, shared.Stop()
}

func TestVirtualMachinesHaveTheAddressesOfThePool(t *testing.T) {
	ctx := t.Context()
	ns, err := shared.Plane.CreateNamespace(ctx, "stack")
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.CreateCluster(ctx, ns, harness.DefaultCluster); err != nil {
		t.Fatal(err)
	}
	template := shared.Template(ns, "workers", harness.WithPool(harness.DefaultPool))
	workers := stack.Workers(template, harness.DefaultCluster, "md-0", 3)
	if err := shared.Create(ctx, harness.Pool(ns), template, workers); err != nil {
		t.Fatal(err)
	}
	nodes, err := shared.AwaitNodes(ctx, workers, 3*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		t.Logf("%s: %v, metadata %v, reports %v", node.Machine.Name, harness.Addresses(node.Machine), node.VM.Addresses, node.VM.Reported)
		for _, want := range append(harness.Addresses(node.Machine), `gateway4: "10.16.56.1"`, "10.16.56.10", "10.16.56.11") {
			if !strings.Contains(node.VM.Metadata, want) {
				t.Errorf("the metadata of %s lacks %s:\n%s", node.Machine.Name, want, node.VM.Metadata)
			}
		}
	}
	awaitRunning(t, ns, 3)

	roll(t, workers)

	if err := shared.Plane.Client.Delete(ctx, workers); err != nil {
		t.Fatal(err)
	}
	if err := harness.WaitGone(ctx, shared.Plane.Client, workers, time.Minute); err != nil {
		t.Fatal(err)
	}
	events, err := shared.VCenter.Events(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events {
		t.Log(event.Sequence, event.Time.Format(time.StampMilli), event.Kind, event.Name, event.Addresses)
	}
	if err := harness.AwaitInvariants(ctx, shared.Plane.Client, harness.Soon, harness.InvariantOptions{Namespaces: []string{ns}}); err != nil {
		t.Error(err)
	}
	for _, err := range harness.SharedAddresses(events) {
		t.Error(err)
	}
}

// awaitRunning waits until Cluster API says that so many machines run.
func awaitRunning(t *testing.T, ns string, want int) {
	t.Helper()
	err := harness.Eventually(t.Context(), 3*time.Minute, "the machines to run", func(ctx context.Context) error {
		machines := &clusterv1.MachineList{}
		if err := shared.Plane.Client.List(ctx, machines, client.InNamespace(ns)); err != nil {
			return err
		}
		var phases []string
		for _, machine := range machines.Items {
			phases = append(phases, machine.Status.Phase)
		}
		if len(phases) != want || slices.ContainsFunc(phases, func(phase string) bool { return phase != string(clusterv1.MachinePhaseRunning) }) {
			return fmt.Errorf("they are %v", phases)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// roll replaces every machine, and waits until all of them are new.
func roll(t *testing.T, workers *clusterv1.MachineDeployment) {
	t.Helper()
	old, err := shared.Nodes(t.Context(), workers)
	if err != nil {
		t.Fatal(err)
	}
	before := workers.DeepCopy()
	workers.Spec.Rollout.After = metav1.Now()
	if err := shared.Plane.Client.Patch(t.Context(), workers, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = harness.Eventually(t.Context(), 3*time.Minute, "all machines to be new", func(ctx context.Context) error {
		nodes, err := shared.Nodes(ctx, workers)
		if err != nil {
			return err
		}
		for _, node := range nodes {
			if slices.ContainsFunc(old, func(o stack.Node) bool { return o.Machine.UID == node.Machine.UID }) {
				return fmt.Errorf("%s is still there", node.Machine.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("rolled in %s", time.Since(start))
	if _, err := shared.AwaitNodes(t.Context(), workers, time.Minute); err != nil {
		t.Fatal(err)
	}
}

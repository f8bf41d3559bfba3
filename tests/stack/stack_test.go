package stack_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

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

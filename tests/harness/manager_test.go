package harness_test

import (
	"context"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// It is not parallel: the webhook is called for every machine.
func TestManagersServeAndTakeOver(t *testing.T) {
	installation, err := plane.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := installation.RemoveWebhook(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	metal3, err := plane.StartMetal3(t.Context(), harness.Metal3Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer metal3.Kill()
	start := time.Now()
	first, err := installation.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %s", time.Since(start))
	ns := namespace(t)
	create(t, harness.Pool(ns))
	start = time.Now()
	machine := harness.Machine(ns, "cp-0", harness.WithPool(harness.DefaultPool))
	create(t, machine)
	t.Logf("created after %s with %v", time.Since(start), harness.Addresses(machine))

	second, err := installation.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	first.Kill()
	// A request may still go out on a connection to the replica that is gone.
	if err := harness.Eventually(t.Context(), harness.Soon, "the second replica to be called", func(ctx context.Context) error {
		return plane.Client.Create(ctx, harness.Machine(ns, "cp-1", harness.WithPool(harness.DefaultPool)))
	}); err != nil {
		t.Fatal(err)
	}
	if n := installation.Forwarder.Connections(second.WebhookAddress); n == 0 {
		t.Error("no connection went to the second replica")
	}
	samples, err := second.Metric(t.Context(), "go_goroutines", nil)
	if err != nil || samples == 0 {
		t.Errorf("reading a metric: got %v and error %v", samples, err)
	}
	if err := harness.AwaitInvariants(t.Context(), plane.Client, harness.Soon, harness.InvariantOptions{}); err != nil {
		t.Error(err)
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Log(first.LogTail(40))
		t.Log(second.LogTail(40))
	}
}

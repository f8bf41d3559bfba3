package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ledger"
	"capv-static-ip.dev/collector"
	"capv-static-ip.dev/inventory"
)

// leastClaimAge is how long a claim is without a machine before that is counted as wrong,
// where the grace period is shorter.
const leastClaimAge = 10 * time.Minute

// reads is what is read by, and who knows what the cache has.
type reads struct {
	providers ipam.Providers
	counts    *ledger.Ledger
	kinds     *informers.Starter
	live      client.Client
}

// addCounts adds what is counted of the caches: the metrics, what is found to be wrong, and
// what is forecast.
func addCounts(ctx context.Context, mgr manager.Manager, by reads, opts *options) error {
	workloads, err := watchWorkloads(ctx, mgr, by.live, opts)
	if err != nil {
		return err
	}
	counts, err := addCollector(ctx, mgr, by, workloads, opts)
	if err != nil {
		return err
	}
	registerCapacity(mgr, counts, opts)
	return addAuditor(mgr, counts, opts)
}

// addAuditor adds the metrics of what is found to be wrong.
func addAuditor(mgr manager.Manager, counts *collector.Collector, opts *options) error {
	auditor := &collector.Auditor{
		Collector: counts, Every: opts.syncPeriod,
		Limits: inventory.Limits{Claim: max(2*opts.orphanGracePeriod, leastClaimAge), ReuseAfter: opts.reuseAfter},
	}
	if err := metrics.Registry.Register(auditor); err != nil {
		return fmt.Errorf("adding the metrics of findings: %w", err)
	}
	if err := mgr.Add(auditor); err != nil {
		return fmt.Errorf("adding what looks for findings: %w", err)
	}
	return nil
}

// addCollector adds the metrics that are counted when they are asked for. There are no
// workloads where nothing is to be forecast.
func addCollector(ctx context.Context, mgr manager.Manager, by reads, workloads *informers.Starter, opts *options) (*collector.Collector, error) {
	options := collector.Options{
		Client:         mgr.GetClient(),
		Cache:          mgr.GetCache(),
		Providers:      by.providers,
		Counts:         by.counts,
		Watches:        by.kinds.Watches,
		ReuseAfter:     opts.reuseAfter,
		CertificateEnd: collector.CertificateEndOf(opts.webhookHost, opts.webhookPort),
		Version:        version,
	}
	if workloads != nil {
		options.WatchesWhole = workloads.Watches
	}
	counts := collector.New(ctx, options)
	if err := metrics.Registry.Register(counts); err != nil {
		return nil, fmt.Errorf("adding the metrics of pools and bindings: %w", err)
	}
	return counts, nil
}

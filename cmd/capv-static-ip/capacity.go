package main

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/collector"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/webhook"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machinedeployments,verbs=list;watch
// +kubebuilder:rbac:groups=controlplane.cluster.x-k8s.io,resources=kubeadmcontrolplanes,verbs=get;list;watch
// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

// forecaster says what changes will want for, by what the collector reads.
type forecaster struct{ *collector.Collector }

// Forecast implements webhook.Forecaster.
func (f forecaster) Forecast(ctx context.Context, before, after *unstructured.Unstructured) ([]string, error) {
	graph, err := f.Read(ctx)
	if err != nil {
		return nil, err
	}
	return graph.Forecast(inventory.Change{Before: before, After: after}), nil
}

// watchWorkloads starts to watch what a forecast needs beside the rest, nil if nothing is
// to be forecast.
func watchWorkloads(ctx context.Context, mgr manager.Manager, live client.Reader, opts *options) (*informers.Starter, error) {
	if !opts.capacityWarnings {
		return nil, nil
	}
	choose := func() (*runtime.Scheme, error) { return newScheme(ctx, mgr.GetConfig()) }
	return informers.NewOptionalStarter(mgr, live, choose, inventory.Sources(mgr.GetScheme()))
}

// registerCapacity has the webhook server answer for changes, with or without warnings.
func registerCapacity(mgr manager.Manager, counts *collector.Collector, opts *options) {
	var warns webhook.Forecaster
	if opts.capacityWarnings {
		warns = forecaster{counts}
	}
	mgr.GetWebhookServer().Register(webhook.CapacityPath, webhook.NewForCapacity(warns, opts.namespace))
}

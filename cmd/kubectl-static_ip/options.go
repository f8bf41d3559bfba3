package main

import (
	"context"
	"fmt"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
)

// Limits of what is asked of the API server. The lists are few, and long.
const (
	qps   = 50
	burst = 100
)

// options are the flags of all commands.
type options struct {
	config        *genericclioptions.ConfigFlags
	print         *genericclioptions.PrintFlags
	streams       genericiooptions.IOStreams
	allNamespaces bool
	output        string
	noHeaders     bool
}

// readHere reads what the flags say: a namespace, or all.
func (o *options) readHere(ctx context.Context) (*inventory.Graph, error) {
	if o.allNamespaces {
		return o.read(ctx, "")
	}
	namespace, _, err := o.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, exit{exitUnreachable, err}
	}
	return o.read(ctx, namespace)
}

// read reads the cluster in a namespace, empty for all. What may not be read is said once.
func (o *options) read(ctx context.Context, namespace string) (*inventory.Graph, error) {
	source, err := o.source(namespace)
	if err != nil {
		return nil, err
	}
	graph, err := source.Read(ctx)
	if err != nil {
		return nil, exit{exitUnreachable, err}
	}
	for _, unseen := range graph.Unseen {
		fmt.Fprintln(o.streams.ErrOut, "warning:", unseen)
	}
	return graph, nil
}

// source reads a namespace, or all.
func (o *options) source(namespace string) (inventory.Source, error) {
	config, err := o.config.ToRESTConfig()
	if err != nil {
		return inventory.Source{}, exit{exitUnreachable, fmt.Errorf("finding the cluster: %w", err)}
	}
	c, err := o.client(config)
	if err != nil {
		return inventory.Source{}, exit{exitUnreachable, fmt.Errorf("reaching the cluster: %w", err)}
	}
	return inventory.Source{
		Client: c, Reader: c, Namespace: namespace, PageSize: inventory.PageSize, WithWorkloads: true, Now: time.Now,
		Providers: ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{}),
	}, nil
}

// client knows the kinds in the versions that are served.
func (o *options) client(config *rest.Config) (client.Client, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = qps, burst
	mapper, err := o.config.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, ipamv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	if err := capi.AddToScheme(scheme, mapper); err != nil {
		return nil, err
	}
	if err := contract.AddToScheme(scheme, mapper); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme, Mapper: mapper})
}

// seen is the error for what could not be looked at, nil if that is nothing.
func seen(graph *inventory.Graph) error {
	if len(graph.Unseen) > 0 {
		return exit{code: exitUnseen}
	}
	return nil
}

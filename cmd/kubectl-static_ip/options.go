package main

import (
	"context"
	"fmt"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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
	// color is what the user says of colours, and colours whether there are any.
	color   string
	colours bool
}

// readHere reads what the flags say: a namespace, or all.
func (o *options) readHere(ctx context.Context) (*inventory.Graph, error) {
	source, err := o.sourceHere()
	if err != nil {
		return nil, err
	}
	return o.readFrom(ctx, source)
}

// read reads the cluster in a namespace, empty for all.
func (o *options) read(ctx context.Context, namespace string) (*inventory.Graph, error) {
	source, err := o.source(namespace)
	if err != nil {
		return nil, err
	}
	return o.readFrom(ctx, source)
}

// readFrom reads the cluster. What may not be read is said once.
func (o *options) readFrom(ctx context.Context, source inventory.Source) (*inventory.Graph, error) {
	graph, err := source.Read(ctx)
	if err != nil {
		return nil, exit{exitUnreachable, err}
	}
	o.warn(graph)
	return graph, nil
}

// readAround reads all namespaces, or what the user may see: that of the flags.
func (o *options) readAround(ctx context.Context) (*inventory.Graph, error) {
	graph, _, err := o.around(ctx)
	if err == nil {
		o.warn(graph)
	}
	return graph, err
}

// readCloser is readAround with what it takes to explain what has this name.
func (o *options) readCloser(ctx context.Context, key types.NamespacedName) (*inventory.Graph, error) {
	graph, source, err := o.around(ctx)
	if err != nil {
		return nil, err
	}
	source.LookCloser(ctx, graph, key)
	o.warn(graph)
	return graph, nil
}

func (o *options) around(ctx context.Context) (*inventory.Graph, inventory.Source, error) {
	source, err := o.source("")
	if err != nil {
		return nil, source, err
	}
	graph, err := source.Read(ctx)
	if err == nil {
		return graph, source, nil
	}
	if !apierrors.IsForbidden(err) {
		return nil, source, exit{exitUnreachable, err}
	}
	if source.Namespace, _, err = o.config.ToRawKubeConfigLoader().Namespace(); err != nil {
		return nil, source, exit{exitUnreachable, err}
	}
	if graph, err = source.Read(ctx); err != nil {
		return nil, source, exit{exitUnreachable, err}
	}
	graph.Unseen = append(graph.Unseen, inventory.Unseen{Kind: "What is in other namespaces", Err: apierrors.NewForbidden(schema.GroupResource{}, "", nil)})
	return graph, source, nil
}

// warn says what could not be looked at.
func (o *options) warn(graph *inventory.Graph) {
	for _, unseen := range graph.Unseen {
		fmt.Fprintln(o.streams.ErrOut, "warning:", unseen)
	}
}

// sourceHere is where what the flags say is read from: a namespace, or all.
func (o *options) sourceHere() (inventory.Source, error) {
	if o.allNamespaces {
		return o.source("")
	}
	namespace, _, err := o.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return inventory.Source{}, exit{exitUnreachable, err}
	}
	return o.source(namespace)
}

// source is where a namespace is read from, empty for all.
func (o *options) source(namespace string) (inventory.Source, error) {
	c, err := o.connect(nil)
	if err != nil {
		return inventory.Source{}, err
	}
	return sourceOf(c, namespace), nil
}

// connect is a client for the cluster of the flags. What the API server warns of goes to a
// handler, or where client-go has it if that is nil.
func (o *options) connect(warned rest.WarningHandler) (client.Client, error) {
	config, err := o.config.ToRESTConfig()
	if err != nil {
		return nil, exit{exitUnreachable, fmt.Errorf("finding the cluster: %w", err)}
	}
	if warned != nil {
		config.WarningHandler = warned
	}
	c, err := o.client(config)
	if err != nil {
		return nil, exit{exitUnreachable, fmt.Errorf("reaching the cluster: %w", err)}
	}
	return c, nil
}

// connectFast is connect for who asks for much.
func (o *options) connectFast(qps float32, burst int) (client.Client, error) {
	config, err := o.config.ToRESTConfig()
	if err != nil {
		return nil, exit{exitUnreachable, fmt.Errorf("finding the cluster: %w", err)}
	}
	c, err := o.clientAt(config, qps, burst)
	if err != nil {
		return nil, exit{exitUnreachable, fmt.Errorf("reaching the cluster: %w", err)}
	}
	return c, nil
}

// sourceOf reads a namespace, all if it is empty.
func sourceOf(c client.Client, namespace string) inventory.Source {
	return inventory.Source{
		Client: c, Reader: c, Namespace: namespace, PageSize: inventory.PageSize, WithWorkloads: true, Now: time.Now,
		Providers: ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{}),
	}
}

// client knows the kinds in the versions that are served.
func (o *options) client(config *rest.Config) (client.Client, error) {
	return o.clientAt(config, qps, burst)
}

func (o *options) clientAt(config *rest.Config, qps float32, burst int) (client.Client, error) {
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

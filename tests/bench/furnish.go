package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// exemplar is a machine with its VM, its claim and its address, as provider and manager have
// left them. What takes them minutes to make is written as copies of it.
type exemplar struct {
	machine, vm, claim, address *unstructured.Unstructured
	ip                          netip.Addr
}

const (
	exemplarName = "exemplar"
	// deployment is what the machines are of.
	deployment = "workers"
)

// newExemplar makes the site's first machine. A manager has to run.
func (s *site) newExemplar(ctx context.Context) (*exemplar, error) {
	if err := s.client.Create(ctx, harness.MachineDeployment(s.namespace, deployment, s.template.Name, "1")); err != nil {
		return nil, fmt.Errorf("making a MachineDeployment: %w", err)
	}
	claimName := ipam.ClaimName(exemplarName, ipam.Slot{})
	adopted := s.claims.Expect(claimName, isAdopted)
	machine := harness.Clone(s.template, exemplarName, harness.WithFinalizer(harness.MachineFinalizer),
		harness.WithLabel(clusterv1.MachineDeploymentNameLabel, deployment), harness.WithLabel(clusterv1.MachineSetNameLabel, deployment+"-x7k2p"))
	if _, err := measure.Insist(ctx, s.client, machine, 1); err != nil {
		return nil, err
	}
	if err := adopted(ctx); err != nil {
		return nil, err
	}
	vm := harness.VSphereVM(machine)
	if err := s.client.Create(ctx, vm); err != nil {
		return nil, fmt.Errorf("making a VM: %w", err)
	}
	before := machine.DeepCopy()
	harness.WithProviderID("vsphere://" + exemplarName)(machine)
	if err := s.client.Patch(ctx, machine, client.MergeFrom(before)); err != nil {
		return nil, fmt.Errorf("giving a machine its VM: %w", err)
	}
	if _, err := s.settledWrites(ctx); err != nil {
		return nil, err
	}
	return s.readExemplar(ctx, machine, vm)
}

func isAdopted(event watch.Event) bool { return len(event.Object.(object).GetOwnerReferences()) > 0 }

// readExemplar reads what is left when nothing more is written.
func (s *site) readExemplar(ctx context.Context, machine *capvv1.VSphereMachine, vm object) (*exemplar, error) {
	prefix, err := netip.ParsePrefix(harness.Addresses(machine)[0])
	if err != nil {
		return nil, fmt.Errorf("reading the address of a machine: %w", err)
	}
	e := &exemplar{ip: prefix.Addr()}
	if e.machine, err = s.read(ctx, machine); err != nil {
		return nil, err
	}
	if e.vm, err = s.read(ctx, vm); err != nil {
		return nil, err
	}
	if e.claim, err = s.read(ctx, s.source.Claim(s.namespace, ipam.ClaimName(exemplarName, ipam.Slot{}))); err != nil {
		return nil, err
	}
	e.address, err = s.addressAt(ctx, e.ip)
	return e, err
}

func (s *site) read(ctx context.Context, of object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(of, s.client.Scheme())
	if err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(gvk)
	if err := s.client.Get(ctx, client.ObjectKeyFromObject(of), object); err != nil {
		return nil, fmt.Errorf("reading %s: %w", of.GetName(), err)
	}
	return object, nil
}

// addressAt is the only address object that there is yet.
func (s *site) addressAt(ctx context.Context, ip netip.Addr) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(s.source.Addresses, s.client.Scheme())
	if err != nil {
		return nil, err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk)
	if err := s.client.List(ctx, list, client.InNamespace(s.namespace)); err != nil {
		return nil, fmt.Errorf("reading addresses: %w", err)
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("reading the address %s: there are %d objects", ip, len(list.Items))
	}
	return &list.Items[0], nil
}

// furnish raises the number of bindings in the pool, where the exemplar is the first. Neither
// provider nor manager runs, and nobody asks their webhooks.
func (s *site) furnish(ctx context.Context, e *exemplar, from, to int) error {
	return s.withoutProvider(ctx, func() error {
		if err := s.installation.RemoveWebhook(ctx); err != nil {
			return err
		}
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(fillers)
		ip := e.ip
		for n := 1; n < to; n++ {
			ip = ip.Next()
			if n < max(from, 1) {
				continue
			}
			name, at := s.name("held"), ip
			group.Go(func() error { return s.copy(groupCtx, e, name, at) })
		}
		return errors.Join(group.Wait(), s.installation.Apply(ctx))
	})
}

// copy makes a machine with all that belongs to it, like the exemplar.
func (s *site) copy(ctx context.Context, e *exemplar, name string, ip netip.Addr) error {
	texts := []string{
		exemplarName, name, ipam.MachineLabelValue(exemplarName), ipam.MachineLabelValue(name),
		e.ip.String(), ip.String(), dashed(e.ip), dashed(ip),
	}
	for _, original := range []*unstructured.Unstructured{e.machine, e.vm, e.claim, e.address} {
		made, err := copyOf(original, strings.NewReplacer(texts...))
		if err != nil {
			return fmt.Errorf("copying %s: %w", original.GetName(), err)
		}
		status, hasStatus := made.Object["status"]
		if err := s.client.Create(ctx, made); err != nil {
			return fmt.Errorf("copying %s: %w", original.GetName(), err)
		}
		texts = append(texts, string(original.GetUID()), string(made.GetUID()))
		if !hasStatus || original == e.machine || original == e.vm {
			continue
		}
		made.Object["status"] = status
		if err := s.client.Status().Update(ctx, made); err != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("copying the status of %s: %w", original.GetName(), err)
		}
	}
	return nil
}

// copyOf is an object as somebody makes it, with other texts in it.
func copyOf(original *unstructured.Unstructured, texts *strings.Replacer) (*unstructured.Unstructured, error) {
	original = original.DeepCopy()
	for _, field := range []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation"} {
		unstructured.RemoveNestedField(original.Object, "metadata", field)
	}
	text, err := json.Marshal(original.Object)
	if err != nil {
		return nil, err
	}
	made := &unstructured.Unstructured{}
	return made, made.UnmarshalJSON([]byte(texts.Replace(string(text))))
}

func dashed(ip netip.Addr) string { return strings.ReplaceAll(ip.String(), ".", "-") }

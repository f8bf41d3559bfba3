package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// allHeld checks that each machine holds the addresses that it had before, see held.
func (s *scene) allHeld(ctx context.Context, nodes []stack.Node) error {
	var errs []error
	for _, node := range nodes {
		if err := s.held(ctx, node.Machine); err != nil {
			errs = append(errs, fmt.Errorf("machine %s: %w", node.Machine.Name, err))
		}
	}
	return errors.Join(errs...)
}

// held checks that a machine holds the addresses of its devices: for each there is
// a claim that is the machine's and an address that answers it and is protected.
func (s *scene) held(ctx context.Context, was *capvv1.VSphereMachine) error {
	machine := &capvv1.VSphereMachine{}
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(was), machine); err != nil {
		return err
	}
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return err
	}
	var bound []string
	for _, b := range bindings.Bindings {
		if err := s.bound(ctx, machine, b); err != nil {
			return err
		}
		bound = append(bound, b.Address.String())
	}
	if want := harness.Addresses(was); !slices.Equal(bound, want) {
		return fmt.Errorf("it holds %v, want %v", bound, want)
	}
	return nil
}

func (s *scene) bound(ctx context.Context, machine *capvv1.VSphereMachine, b ipam.Binding) error {
	provider := harness.Providers.For(b.Pool)
	object, addressObject := ipam.EmptyClaim(provider), ipam.EmptyAddress(provider)
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: b.Claim}, object); err != nil {
		return err
	}
	claim := provider.ReadClaim(object)
	if owner := capi.OwnerMachine(object); owner.UID != machine.UID {
		return fmt.Errorf("claim %s is owned by %s with UID %q, want %q", b.Claim, owner.Name, owner.UID, machine.UID)
	}
	if claim.Address == "" {
		return fmt.Errorf("claim %s is not bound, failure %q", b.Claim, claim.Failure)
	}
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: claim.Address}, addressObject); err != nil {
		return err
	}
	address := provider.ReadAddress(addressObject)
	switch uid := addressObject.GetAnnotations()[ipam.MachineUIDAnnotation]; {
	case address.IP != b.Address.Addr().String():
		return fmt.Errorf("claim %s is bound to %s, want %s", b.Claim, address.IP, b.Address.Addr())
	case !ipam.Answers(addressObject, object.GetUID()):
		return fmt.Errorf("address %s is owned by %v, not by claim %s with UID %s", claim.Address, addressObject.GetOwnerReferences(), b.Claim, object.GetUID())
	case !slices.Contains(addressObject.GetFinalizers(), ipam.InUseFinalizer):
		return fmt.Errorf("address %s is not protected", claim.Address)
	case uid != string(machine.UID):
		return fmt.Errorf("address %s is protected for a machine with UID %q, want %q", claim.Address, uid, machine.UID)
	}
	return nil
}

// left counts the address objects in the namespace. There must be no machine, no
// claim, and no address that is protected.
func (s *scene) left(ctx context.Context) (int, error) {
	machines := &capvv1.VSphereMachineList{}
	if err := s.stack.Plane.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
		return 0, err
	}
	if len(machines.Items) > 0 {
		return 0, fmt.Errorf("%d machines are left", len(machines.Items))
	}
	count := 0
	for _, provider := range harness.Providers {
		claims, err := s.objects(ctx, ipam.EmptyClaim(provider))
		if err != nil {
			return 0, err
		}
		if len(claims) > 0 {
			return 0, fmt.Errorf("%d claims are left, one is %s with finalizers %v", len(claims), claims[0].GetName(), claims[0].GetFinalizers())
		}
		addresses, err := s.objects(ctx, ipam.EmptyAddress(provider))
		if err != nil {
			return 0, err
		}
		for _, address := range addresses {
			if slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) {
				return 0, fmt.Errorf("address %s is protected", address.GetName())
			}
		}
		count += len(addresses)
	}
	return count, nil
}

// awaitFree waits until nobody holds an address in the namespace.
func (s *scene) awaitFree() {
	s.Helper()
	s.eventually(harness.Soon, "all addresses to be free", func(ctx context.Context) error {
		left, err := s.left(ctx)
		if err == nil && left != 0 {
			err = fmt.Errorf("%d address objects are left", left)
		}
		return err
	})
}

// objects lists the objects of the kind of this empty one in the namespace.
func (s *scene) objects(ctx context.Context, kind client.Object) ([]metav1.PartialObjectMetadata, error) {
	gvk, err := apiutil.GVKForObject(kind, harness.Scheme)
	if err != nil {
		return nil, err
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	err = s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns))
	return list.Items, err
}

// refused checks that an event in the namespace says why a machine was refused.
func (s *scene) refused(ctx context.Context, why string) error {
	events := &corev1.EventList{}
	if err := s.stack.Plane.Client.List(ctx, events, client.InNamespace(s.ns)); err != nil {
		return err
	}
	for i := range events.Items {
		if strings.Contains(events.Items[i].Message, why) {
			return nil
		}
	}
	return fmt.Errorf("none of %d events says %q", len(events.Items), why)
}

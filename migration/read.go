package migration

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// observe reads a machine, and both ends of its moves. What it says of its moves counts; what
// was planned does if it says nothing.
func (m *Migration) observe(ctx context.Context, planned Machine, back bool) (observed, error) {
	machine := &capi.VSphereMachine{}
	err := m.Client.Get(ctx, planned.Key, machine)
	if kube.IsAbsent(err) || err == nil && machine.UID != planned.UID {
		return observed{}, nil
	}
	if err != nil {
		return observed{}, fmt.Errorf("reading VSphereMachine %s: %w", planned.Key, err)
	}
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return observed{}, err
	}
	o := observed{machine: machine, bindings: bindings.Bindings, back: back}
	moves := planned.Moves
	if announced, ok := ipam.MigrationOf(machine); ok {
		o.announced, o.back, moves = true, announced.Back, announced.Moves
	}
	for _, move := range moves {
		j := journey{Move: move, places: m.places(move), rests: m.rests(move)}
		o.journeys = append(o.journeys, j)
		i := len(o.journeys) - 1
		if err := errors.Join(m.lookAtOld(ctx, &o, i), m.lookAtNew(ctx, &o, i)); err != nil {
			return observed{}, err
		}
	}
	return o, nil
}

// confirm returns a conflict unless the machine still says what was read of it. Both ends were
// read before that: what is written about them is against what they were when the machine still
// said so. Others may be at work at the same machine.
func (m *Migration) confirm(ctx context.Context, o *observed) error {
	now := &capi.VSphereMachine{}
	err := m.Client.Get(ctx, client.ObjectKeyFromObject(o.machine), now)
	if err != nil && !kube.IsAbsent(err) {
		return fmt.Errorf("reading VSphereMachine %s again: %w", client.ObjectKeyFromObject(o.machine), err)
	}
	was, is := o.machine.Annotations, now.Annotations
	if err != nil || now.UID != o.machine.UID || !now.DeletionTimestamp.IsZero() ||
		was[ipam.MigratingAnnotation] != is[ipam.MigratingAnnotation] || was[ipam.BindingsAnnotation] != is[ipam.BindingsAnnotation] {
		return conflict(o.machine, "somebody else is at work at it")
	}
	o.machine = now
	return nil
}

// conflict is the error for a machine that has to be read again.
func conflict(machine client.Object, why string) error {
	resource := schema.GroupResource{Group: capi.VSphereMachineKind.Group, Resource: "vspheremachines"}
	return apierrors.NewConflict(resource, machine.GetName(), errors.New(why))
}

// lookAtOld and lookAtNew read an end of a move. What is written about the other one is against
// what was read of it.
func (m *Migration) lookAtOld(ctx context.Context, o *observed, i int) (err error) {
	j := &o.journeys[i]
	j.old, err = m.side(ctx, o.machine.Namespace, j.Move, j.From)
	return err
}

func (m *Migration) lookAtNew(ctx context.Context, o *observed, i int) (err error) {
	j := &o.journeys[i]
	j.new, err = m.side(ctx, o.machine.Namespace, j.Move, j.To)
	return err
}

// places tells whether the provider of the new pool takes an address that is there before its
// claim.
func (m *Migration) places(move ipam.Move) bool {
	requester, ok := m.Source.Providers.For(move.To.Pool).(ipam.Requester)
	return ok && requester.Requested("", bindingOf(move, move.To)) != nil
}

func (m *Migration) rests(move ipam.Move) bool {
	provider, ok := m.Source.Providers.For(move.From.Pool).(ipam.Migratable)
	return ok && provider.RestsWhenFrozen()
}

// bindingOf is as much of a binding as it takes to find its address.
func bindingOf(move ipam.Move, ref ipam.ClaimReference) ipam.Binding {
	return ipam.Binding{Pool: ref.Pool, Claim: ref.Claim, Address: prefixOf(move.Address)}
}

// side reads a claim and its address. Where the claim names none, that is looked for among
// all addresses, unless its name is known.
func (m *Migration) side(ctx context.Context, namespace string, move ipam.Move, ref ipam.ClaimReference) (side, error) {
	var s side
	provider := m.Source.Providers.For(ref.Pool)
	object := ipam.EmptyClaim(provider)
	found, err := m.get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Claim}, object)
	if err != nil {
		return s, err
	}
	name := ""
	if found {
		read := provider.ReadClaim(object)
		s.claim, name = &read, read.Address
	}
	if requester, ok := provider.(ipam.Requester); ok && name == "" {
		if requested := requester.Requested(namespace, bindingOf(move, ref)); requested != nil {
			name = requested.GetName()
		}
	}
	if name == "" {
		if !found {
			s.address, err = m.left(ctx, namespace, move, ref)
		}
		return s, err
	}
	address := ipam.EmptyAddress(provider)
	if found, err = m.get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, address); err != nil || !found {
		return s, err
	}
	read := provider.ReadAddress(address)
	s.address = &read
	return s, nil
}

// left is an address whose claim is gone. The pools that have none to be found are not searched
// for one: of the new pool, there is none before its claim.
func (m *Migration) left(ctx context.Context, namespace string, move ipam.Move, ref ipam.ClaimReference) (*ipam.Address, error) {
	if ref == move.To {
		return nil, nil
	}
	provider := m.Source.Providers.For(ref.Pool)
	objects, err := kube.List(ctx, m.Client, ipam.EmptyAddress(provider), client.InNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", ref.Pool, err)
	}
	for _, object := range objects {
		address := provider.ReadAddress(object)
		if address.Pool == ref.Pool && address.Claim == ref.Claim && capi.ParseAddress(address.IP) == move.Address {
			return &address, nil
		}
	}
	return nil, nil
}

// get reads an object, and tells whether there is one.
func (m *Migration) get(ctx context.Context, key types.NamespacedName, object client.Object) (bool, error) {
	err := m.Client.Get(ctx, key, object)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %T %s: %w", object, key, err)
	}
	return true, nil
}

package allocator

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// CheckNotCopied checks that none of the bindings' claims belongs to another
// machine that lives. It returns a Refusal if one does.
func (a *Allocator) CheckNotCopied(ctx context.Context, machine ipam.Machine, bindings ipam.Bindings) error {
	for _, b := range bindings.Bindings {
		claim := ipam.EmptyClaim(a.providers.For(b.Pool))
		err := a.live.Get(ctx, types.NamespacedName{Namespace: machine.Namespace, Name: b.Claim}, claim)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading claim %s/%s: %w", machine.Namespace, b.Claim, err)
		}
		owner := capi.OwnerMachine(claim).Name
		if owner == "" {
			owner = ipam.MachineOf(claim)
		}
		if err != nil {
			if owner, err = a.takerOf(ctx, machine, b); err != nil {
				return err
			}
		}
		if owner == "" || owner == machine.Name {
			continue
		}
		exists, err := machineExists(ctx, a.live, types.NamespacedName{Namespace: machine.Namespace, Name: owner})
		if err != nil {
			return err
		}
		if exists {
			return ipam.Refuse(ipam.BindingsShared, "annotation %s names claim %q, which belongs to VSphereMachine %q: "+
				"remove the annotation and the copied ipAddrs, so that the machine gets addresses of its own",
				ipam.BindingsAnnotation, b.Claim, owner)
		}
	}
	return nil
}

// takerOf is the machine that the address of a binding was taken for, while there is no claim,
// empty if there is none.
func (a *Allocator) takerOf(ctx context.Context, machine ipam.Machine, b ipam.Binding) (string, error) {
	name, ok, err := a.nameTaken(ctx, machine, b)
	if err != nil || !ok {
		return "", err
	}
	address, key := ipam.EmptyAddress(a.providers.For(b.Pool)), types.NamespacedName{Namespace: machine.Namespace, Name: name}
	if err := a.live.Get(ctx, key, address); err != nil {
		if kube.IsAbsent(err) {
			return "", nil
		}
		return "", fmt.Errorf("reading address %s: %w", key, err)
	}
	return ipam.MachineOf(address), nil
}

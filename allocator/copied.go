package allocator

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
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
		owner := capi.OwnerMachine(claim)
		if owner.Name == "" {
			owner.Name = ipam.MachineOf(claim)
		}
		if err != nil || owner.Name == "" || owner.Name == machine.Name {
			continue
		}
		exists, err := machineExists(ctx, a.live, types.NamespacedName{Namespace: machine.Namespace, Name: owner.Name})
		if err != nil {
			return err
		}
		if exists {
			return ipam.Refuse(ipam.BindingsShared, "annotation %s names claim %q, which belongs to VSphereMachine %q: "+
				"remove the annotation and the copied ipAddrs, so that the machine gets addresses of its own",
				ipam.BindingsAnnotation, b.Claim, owner.Name)
		}
	}
	return nil
}

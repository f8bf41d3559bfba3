package allocator

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// accept checks an address, and protects it for the machine.
func (a *Allocator) accept(ctx context.Context, req Request, want Want, pool Pool, address Address) (Binding, error) {
	if address.Pool != want.Pool {
		// metal3 serves claims of the CAPI contract by the name of their pool alone.
		return Binding{}, Refuse(InvalidAddress, "%s was answered for by the provider of another pool of that name, %s: give one of the two another name",
			want.Pool.In(pool.GetNamespace()), address.Pool)
	}
	binding, err := a.providers.For(want.Pool).Bind(pool, address, want)
	if err != nil {
		return Binding{}, err
	}
	if err := a.checkUnused(ctx, req.Machine, pool, binding); err != nil {
		return Binding{}, err
	}
	return binding, a.protect(ctx, req, want, address)
}

// acceptEarly accepts an address that answers the claim before the claim names
// it: the provider takes about as long for that as protecting takes. It returns
// the address's UID, or nothing: what goes wrong here shows again, or not, when
// the claim does name an address.
func (a *Allocator) acceptEarly(ctx context.Context, req Request, want Want, pool Pool, claim Claim) (types.UID, Binding) {
	provider := a.providers.For(want.Pool)
	addresses, err := List(ctx, a.client, EmptyAddress(provider), client.InNamespace(claim.GetNamespace()), client.MatchingFields{byClaim: claim.GetName()})
	if err != nil {
		return "", Binding{}
	}
	for _, obj := range addresses {
		if !Answers(obj, claim.GetUID()) || !obj.GetDeletionTimestamp().IsZero() {
			continue
		}
		if binding, err := a.accept(ctx, req, want, pool, provider.Address(obj)); err == nil {
			return obj.GetUID(), binding
		}
	}
	return "", Binding{}
}

package main

import (
	"context"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/watch"
)

// bound returns a function that waits until metal3 has bound the claim.
func (b *bench) bound(claim string) func(context.Context) error {
	return b.claims.Expect(claim, func(event watch.Event) bool {
		return event.Object.(*ipamv1.IPClaim).Status.Address != nil
	})
}

// gone returns a function that waits until the claim, and so its address, is gone.
func (b *bench) gone(claim string) func(context.Context) error {
	return b.claims.Expect(claim, func(event watch.Event) bool { return event.Type == watch.Deleted })
}

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const (
	firstAddress, lastAddress = "10.16.0.1", "10.16.63.254"
	// fillers is how many clients fill the pool.
	fillers = 16
)

// fill raises the number of bindings in the pool. What metal3 takes minutes for
// is written as metal3 would have left it: addresses from the pool's first one
// on, and claims that are bound to them. The claims say that they are paused, or
// metal3 would look at each of them.
func (b *bench) fill(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	next := netip.MustParseAddr(firstAddress)
	for n := range to {
		ip, name := next, b.name("filler")
		if n >= from {
			group.Go(func() error { return b.bind(ctx, name, ip) })
		}
		next = ip.Next()
	}
	return group.Wait()
}

// bind makes the address before its claim: if metal3 sees the claim before it is
// complete, it completes it with the address that is there.
func (b *bench) bind(ctx context.Context, name string, ip netip.Addr) error {
	address := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: b.namespace,
			Name:      harness.DefaultPool + "-" + strings.ReplaceAll(ip.String(), ".", "-"),
		},
		Spec: ipamv1.IPAddressSpec{
			Pool:    corev1.ObjectReference{Namespace: b.namespace, Name: harness.DefaultPool},
			Claim:   corev1.ObjectReference{Namespace: b.namespace, Name: name},
			Address: ipamv1.IPAddressStr(ip.String()),
			Prefix:  24,
		},
	}
	if err := b.client.Create(ctx, address); err != nil {
		return fmt.Errorf("filling the pool: %w", err)
	}
	bound := b.bound(name)
	claim := harness.Claim(b.namespace, name, harness.DefaultPool)
	harness.WithFinalizer(ipamv1.IPClaimFinalizer)(claim)
	harness.WithAnnotation(clusterv1.PausedAnnotation, "")(claim)
	if err := b.client.Create(ctx, claim); err != nil {
		return fmt.Errorf("filling the pool: %w", err)
	}
	claim.Status.Address = &corev1.ObjectReference{Namespace: b.namespace, Name: address.Name}
	if err := b.client.Status().Update(ctx, claim); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("filling the pool: %w", err)
	}
	return bound(ctx)
}

package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

const (
	// ownWarmUp is how many samples of each kind do not count.
	ownWarmUp = 10
	// ownQuiet is a pause for what goes on after a sample.
	ownQuiet = 20 * time.Millisecond
	// promptAddresses is how many the pool of a prompt provider has: a network's, but for
	// its first and its last.
	promptAddresses = 1<<16 - 2
)

// own is what was measured with this many bindings in the pool of a prompt provider.
type own struct {
	bindings               int
	plain, claim, injected measure.Durations
}

// share is what a create takes beside the plain one and the claim.
func (o own) share() time.Duration {
	return o.injected.Median() - o.plain.Median() - o.claim.Median()
}

// promptSource is a provider that answers each claim as soon as it sees it, however many
// there are: what a create takes is then the API server's share and ours. It plays the
// in-cluster provider, which does not run meanwhile.
func promptSource() measure.Source {
	source := measure.InCluster()
	source.Name = "prompt"
	source.Pool = func(namespace string, network int) client.Object {
		return harness.InClusterPool(namespace, harness.InClusterAddresses(fmt.Sprintf("10.%d.0.0/16", network)),
			harness.InClusterField(int64(16), "prefix"), harness.InClusterField(nil, "gateway"))
	}
	return source
}

// prompt is a site of that provider.
type prompt struct {
	*site
	// last counts the addresses that were handed out.
	last atomic.Int64
}

// ownShare measures what grows with the bindings of a pool where its provider does not. A
// manager has to run.
func (b *bench) ownShare(ctx context.Context, p plan) ([]own, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	provider, err := b.startPrompt(ctx)
	if err != nil {
		return nil, err
	}
	kinds := []sample{
		provider.untouched("prompt-plain", harness.WithDevices(harness.DHCPDevice())), provider.claim(), provider.asking("prompt", 1),
	}
	var all []own
	held := 0
	for _, size := range p.ownSizes {
		b.log.Begin(fmt.Sprintf("a provider that answers at once: filling its pool to %d bindings", size))
		if err := provider.fill(ctx, size-held); err != nil {
			return nil, err
		}
		held = size
		b.log.Done()
		b.log.Begin(fmt.Sprintf("one client, %d bindings", size))
		if _, err := provider.inTurn(ctx, pace{ownWarmUp, ownQuiet, 0}, kinds...); err != nil {
			return nil, err
		}
		took, err := provider.inTurn(ctx, pace{p.ownSamples, ownQuiet, 0}, kinds...)
		if err != nil {
			return nil, err
		}
		all = append(all, own{bindings: size, plain: took[0], claim: took[1], injected: took[2]})
		b.log.Done()
	}
	provider.leave()
	return all, provider.clear(ctx)
}

// startPrompt makes the pool, and answers until the context ends.
func (b *bench) startPrompt(ctx context.Context) (*prompt, error) {
	s, err := b.newSite(ctx, promptSource())
	if err != nil {
		return nil, err
	}
	provider := &prompt{site: s}
	pool, ok := s.pool.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("counting the addresses of a prompt provider: its pool is a %T", s.pool)
	}
	counts := map[string]any{"total": int64(promptAddresses), "free": int64(promptAddresses), "used": int64(0), "outOfRange": int64(0)}
	if err := unstructured.SetNestedMap(pool.Object, counts, "status", "ipAddresses"); err != nil {
		return nil, fmt.Errorf("counting the addresses of a prompt provider: %w", err)
	}
	if err := b.client.Status().Update(ctx, pool); err != nil {
		return nil, fmt.Errorf("counting the addresses of a prompt provider: %w", err)
	}
	claims, err := b.client.Watch(ctx, &ipamv1.IPAddressClaimList{}, client.InNamespace(s.namespace))
	if err != nil {
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	go provider.run(ctx, claims)
	return provider, nil
}

// run answers claims. What goes wrong shows in that they are not.
func (p *prompt) run(ctx context.Context, claims watch.Interface) {
	defer claims.Stop()
	for event := range claims.ResultChan() {
		claim, ok := event.Object.(*ipamv1.IPAddressClaim)
		switch {
		case !ok:
		case event.Type == watch.Added && claim.Status.AddressRef.Name == "" && claim.Annotations[fillerAnnotation] == "":
			go func() { _ = p.answer(ctx, claim) }()
		case event.Type == watch.Deleted:
			go func() {
				_ = p.client.Delete(ctx, &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: claim.Name}})
			}()
		}
	}
}

// fillerAnnotation is on claims that fill the pool, which are answered by who makes them.
const fillerAnnotation = "bench/filler"

// answer binds a claim.
func (p *prompt) answer(ctx context.Context, claim *ipamv1.IPAddressClaim) error {
	n := p.last.Add(1)
	ip := netip.AddrFrom4([4]byte{10, byte(p.network), byte(n >> 8), byte(n)}) //nolint:gosec // the pool has no more
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: claim.Name}}
	address.Spec = ipamv1.IPAddressSpec{
		ClaimRef: ipamv1.IPAddressClaimReference{Name: claim.Name}, PoolRef: claim.Spec.PoolRef, Address: ip.String(), Prefix: new(int32(16)),
	}
	if err := controllerutil.SetControllerReference(claim, address, p.client.Scheme()); err != nil {
		return err
	}
	if err := p.client.Create(ctx, address); err != nil {
		return fmt.Errorf("making an address: %w", err)
	}
	bound := claim.DeepCopy()
	bound.Status.AddressRef.Name = address.Name
	return p.client.Status().Patch(ctx, bound, client.MergeFrom(claim))
}

// fill raises the number of bindings in the pool.
func (p *prompt) fill(ctx context.Context, by int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for _, name := range p.names("filler", by) {
		group.Go(func() error {
			claim, ok := p.source.Claim(p.namespace, name).(*ipamv1.IPAddressClaim)
			if !ok {
				return fmt.Errorf("filling the pool: %s is no IPAddressClaim", name)
			}
			harness.WithAnnotation(fillerAnnotation, "x")(claim)
			if err := p.client.Create(ctx, claim); err != nil {
				return fmt.Errorf("filling the pool: %w", err)
			}
			return p.answer(ctx, claim)
		})
	}
	return group.Wait()
}

// clear takes the pool and all that is bound away, so that nobody else sees it.
func (p *prompt) clear(ctx context.Context) error {
	for _, kind := range []client.ObjectList{&ipamv1.IPAddressClaimList{}, &ipamv1.IPAddressList{}} {
		if err := p.wipeAll(ctx, kind); err != nil {
			return fmt.Errorf("removing what a prompt provider bound: %w", err)
		}
	}
	return p.client.Delete(ctx, p.pool)
}

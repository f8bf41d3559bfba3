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

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

const (
	// promptPool is the name of a pool whose provider answers at once.
	promptPool = "prompt"
	// firstPrompt is its first address, and promptAddresses is how many it has.
	firstPrompt, promptRange, promptAddresses = "10.32.0.1", "10.32.0.0/16", 1<<16 - 2
	// ownWarmUp is how many samples of each kind do not count.
	ownWarmUp = 10
	// ownQuiet is a pause for what goes on after a sample.
	ownQuiet = 20 * time.Millisecond
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

// prompt is a provider that answers each claim as soon as it sees it, however many there
// are: what a create takes is then the API server's share and ours.
type prompt struct {
	*bench
	answered *measure.Watch
	// last counts the addresses that were handed out.
	last atomic.Int64
}

// ownShare measures what grows with the bindings of a pool where its provider does not.
func (b *bench) ownShare(ctx context.Context, p plan, r *results) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	provider, err := b.startPrompt(ctx)
	if err != nil {
		return err
	}
	held := 0
	for _, size := range p.ownSizes {
		b.log.Begin(fmt.Sprintf("a provider that answers at once: filling its pool to %d bindings", size))
		if err := provider.fill(ctx, held, size); err != nil {
			return err
		}
		held = size
		b.log.Done()
		b.log.Begin(fmt.Sprintf("one client, %d bindings", size))
		measured := own{bindings: size}
		if err := provider.measure(ctx, p.ownSamples, &measured); err != nil {
			return err
		}
		r.own = append(r.own, measured)
		b.log.Done()
	}
	return nil
}

// startPrompt makes the pool, in the namespace of the bench, and answers until the context
// ends.
func (b *bench) startPrompt(ctx context.Context) (*prompt, error) {
	pool := harness.InClusterPool(b.namespace, harness.InClusterNamed(promptPool), harness.InClusterAddresses(promptRange),
		harness.InClusterField(int64(16), "prefix"), harness.InClusterField(nil, "gateway"))
	if err := b.client.Create(ctx, pool); err != nil {
		return nil, fmt.Errorf("making the pool of a prompt provider: %w", err)
	}
	counts := map[string]any{"total": int64(promptAddresses), "free": int64(promptAddresses), "used": int64(0), "outOfRange": int64(0)}
	if err := unstructured.SetNestedMap(pool.Object, counts, "status", "ipAddresses"); err != nil {
		return nil, fmt.Errorf("counting the addresses of a prompt provider: %w", err)
	}
	if err := b.client.Status().Update(ctx, pool); err != nil {
		return nil, fmt.Errorf("counting the addresses of a prompt provider: %w", err)
	}
	answered, err := measure.NewWatch(ctx, b.client, &ipamv1.IPAddressClaimList{}, b.namespace)
	if err != nil {
		return nil, err
	}
	claims, err := b.client.Watch(ctx, &ipamv1.IPAddressClaimList{}, client.InNamespace(b.namespace))
	if err != nil {
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	provider := &prompt{bench: b, answered: answered}
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
	first := netip.MustParseAddr(firstPrompt).As4()
	ip := netip.AddrFrom4([4]byte{first[0], first[1], byte(n >> 8), byte(n)}) //nolint:gosec // the pool has no more
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
func (p *prompt) fill(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for range to - from {
		name := p.name("filler")
		group.Go(func() error {
			claim := p.newClaim(name)
			harness.WithAnnotation(fillerAnnotation, "x")(claim)
			if err := p.client.Create(ctx, claim); err != nil {
				return fmt.Errorf("filling the pool: %w", err)
			}
			return p.answer(ctx, claim)
		})
	}
	return group.Wait()
}

func (p *prompt) newClaim(name string) *ipamv1.IPAddressClaim {
	return harness.AddressClaim(p.namespace, name, harness.InClusterPoolKind, promptPool)
}

// claimed is a bare claim until it is answered.
func (p *prompt) claimed() sample {
	return sample{
		kind: "prompt-claim",
		make: func(ctx context.Context, name string) error {
			bound := p.answered.Expect(name, func(event watch.Event) bool {
				return event.Object.(*ipamv1.IPAddressClaim).Status.AddressRef.Name != ""
			})
			if err := p.client.Create(ctx, p.newClaim(name)); err != nil {
				return fmt.Errorf("making a claim: %w", err)
			}
			return bound(ctx)
		},
		remove: func(ctx context.Context, name string) error {
			gone := p.goneFrom(name)
			if err := p.client.Delete(ctx, p.newClaim(name)); err != nil {
				return fmt.Errorf("deleting a claim: %w", err)
			}
			return gone(ctx)
		},
	}
}

func (p *prompt) goneFrom(claim string) func(context.Context) error {
	return p.answered.Expect(claim, func(event watch.Event) bool { return event.Type == watch.Deleted })
}

// given is a machine that is stored with an address of the pool.
func (p *prompt) given() sample {
	given := p.asking("prompt", 1, harness.WithAnnotation(firstDevice, harness.InClusterPoolKind+"/"+promptPool))
	given.remove = func(ctx context.Context, name string) error {
		gone := p.goneFrom(ipam.ClaimName(name, ipam.Slot{}))
		if err := p.client.Delete(ctx, harness.Machine(p.namespace, name)); err != nil {
			return fmt.Errorf("deleting a machine: %w", err)
		}
		return gone(ctx)
	}
	return given
}

// measure takes samples of each kind in turns, and removes what they made.
func (p *prompt) measure(ctx context.Context, count int, into *own) error {
	kinds := []struct {
		sample
		into *measure.Durations
	}{
		{p.untouched("prompt-plain", harness.WithDevices(harness.DHCPDevice())), &into.plain}, {p.claimed(), &into.claim}, {p.given(), &into.injected},
	}
	for i := range ownWarmUp + count {
		for _, kind := range kinds {
			time.Sleep(ownQuiet)
			name, took, err := p.once(ctx, kind.sample)
			if err != nil {
				return err
			}
			if i >= ownWarmUp {
				*kind.into = append(*kind.into, took)
			}
			time.Sleep(ownQuiet)
			if err := p.removeAll(ctx, kind.sample, []string{name}); err != nil {
				return err
			}
		}
	}
	return nil
}

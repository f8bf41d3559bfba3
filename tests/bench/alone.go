package main

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// alone is what one client measures in one way: a machine without us, one on DHCP with us, a
// bare claim, a machine with an injected address; and one with two of a device, and one whose
// first choice is full.
type alone struct {
	plain, dhcp, claim, injected, two, chosen measure.Durations
}

const (
	// warmUp is how many samples of each kind do not count.
	warmUp = 5
	// fullPool is the name of a pool whose only address somebody has.
	fullPool = "full"
)

// oneClient measures all ways in turns.
func (b *bench) oneClient(ctx context.Context, p plan, into []*result) error {
	sites, err := b.sites(ctx, into)
	if err != nil {
		return err
	}
	if err := b.furnishFull(ctx, sites[measure.Metal3().Name]); err != nil {
		return err
	}
	b.log.Begin(fmt.Sprintf("one client: %d rounds", p.rounds))
	for round := range p.rounds {
		for _, r := range into {
			s := sites[r.source.Name]
			err := b.with(ctx, r.way, func(*harness.Manager) error { return s.alone(ctx, p, round == 0, r) })
			if err != nil {
				return err
			}
		}
		b.log.Tick()
	}
	b.log.Done()
	return nil
}

// sites are one for each provider, with nothing in it.
func (b *bench) sites(ctx context.Context, all []*result) (map[string]*site, error) {
	sites := map[string]*site{}
	for _, r := range all {
		if sites[r.source.Name] != nil {
			continue
		}
		s, err := b.newSite(ctx, r.source)
		if err != nil {
			return nil, err
		}
		sites[r.source.Name] = s
	}
	return sites, nil
}

func (b *bench) furnishFull(ctx context.Context, s *site) error {
	b.networks++
	only := fmt.Sprintf("10.%d.0.1", b.networks)
	holder := harness.Claim(s.namespace, "somebody", fullPool)
	pool := harness.Pool(s.namespace, harness.PoolNamed(fullPool), harness.PoolRange(only, only))
	if err := createAll(ctx, b.client, pool, holder); err != nil {
		return err
	}
	_, err := harness.WaitBound(ctx, b.client, holder, harness.Soon)
	return err
}

// alone takes a turn of samples, while a manager works in this way.
func (s *site) alone(ctx context.Context, p plan, isFirst bool, into *result) error {
	kinds := []sample{s.claim(), s.injected()}
	durations := []*measure.Durations{&into.claim, &into.injected}
	if into.isUsual() {
		kinds = append(kinds,
			s.asking("two", 2, harness.WithAnnotation(measure.FirstDevice, harness.DefaultPool+","+harness.DefaultPool)),
			s.asking("chosen", 1, harness.WithAnnotation(measure.FirstDevice, fullPool+"|"+harness.DefaultPool)))
		durations = append(durations, &into.two, &into.chosen)
	}
	if isFirst {
		if _, err := s.inTurn(ctx, pace{warmUp, quiet(0), 0}, kinds...); err != nil {
			return err
		}
	}
	if err := s.uninstall(ctx, s); err != nil {
		return err
	}
	if err := s.creates(ctx, p.creates, s.untouched("plain"), &into.plain); err != nil {
		return err
	}
	if err := s.install(ctx, s); err != nil {
		return err
	}
	if err := s.creates(ctx, p.creates, s.untouched("dhcp", harness.WithDevices(harness.DHCPDevice())), &into.dhcp); err != nil {
		return err
	}
	took, err := s.inTurn(ctx, pace{p.claims, quiet(0), 0}, kinds...)
	if err != nil {
		return err
	}
	for k := range kinds {
		*durations[k] = append(*durations[k], took[k]...)
	}
	return s.isEmpty(ctx)
}

// isEmpty waits until nothing is left of the measurements before, but for who has the
// address of the full pool.
func (s *site) isEmpty(ctx context.Context) error {
	return harness.Eventually(ctx, harness.Soon, "everything to be removed", func(ctx context.Context) error {
		left := 0
		for _, kind := range []client.ObjectList{&capvv1.VSphereMachineList{}, s.source.Claims, s.source.Addresses} {
			list := kind.DeepCopyObject().(client.ObjectList)
			if err := s.client.List(ctx, list, client.InNamespace(s.namespace)); err != nil {
				return err
			}
			left += meta.LenList(list)
		}
		if left > 2 {
			return fmt.Errorf("%d machines, claims and addresses are left", left)
		}
		return nil
	})
}

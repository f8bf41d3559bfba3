package allocator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// maxGroup bounds the pools of one group that are looked at, each of which may cost reads
// of the API server.
const maxGroup = 64

// candidate is one pool from which an address may be, or what is to be said in its place.
type candidate struct {
	want ipam.Want
	// refusal is not nil if the choice leads to no pool.
	refusal *ipam.Refusal
	// isNamed says that the pool stands in the choice itself, not in a group's.
	isNamed bool
}

// Meant are the pools from which the address of an ask may be, those that are preferred
// first. It returns a Refusal if no choice leads to any.
func (a *Allocator) Meant(ctx context.Context, machine ipam.Machine, ask ipam.Ask) ([]ipam.PoolReference, error) {
	al := a.attempt(Request{Machine: machine, Asks: []ipam.Ask{ask}}).allocations[0]
	candidates, err := a.candidates(ctx, a.client, al)
	if err != nil {
		return nil, err
	}
	var pools []ipam.PoolReference
	for _, c := range candidates {
		if c.refusal == nil {
			// Of pools that cannot be used any one may be meant.
			pools = append(append(pools, c.want.Pool), c.want.AlsoMissing...)
		}
	}
	if len(pools) == 0 {
		return nil, candidates[0].refusal
	}
	return pools, nil
}

// candidates are what the choices of an allocation lead to, in their order. A pool stands
// where it is named first.
func (a *Allocator) candidates(ctx context.Context, reader client.Reader, al *allocation) ([]candidate, error) {
	var all []candidate
	for _, choice := range al.want.Choices {
		found, err := a.candidatesOf(ctx, reader, al, choice)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			if c.refusal != nil || !slices.ContainsFunc(all, func(other candidate) bool {
				return other.refusal == nil && other.want.Pool == c.want.Pool && other.want.IP == c.want.IP
			}) {
				all = append(all, c)
			}
		}
	}
	return all, nil
}

func (a *Allocator) candidatesOf(ctx context.Context, reader client.Reader, al *allocation, choice ipam.Choice) ([]candidate, error) {
	if choice.Labels.IsEmpty() {
		c, err := a.named(ctx, al, choice.Pool)
		c.want.IP = choice.IP
		return []candidate{c}, err
	}
	pools, err := a.labelled(ctx, reader, al.Machine, choice.Labels)
	if err != nil {
		return nil, err
	}
	if len(pools) == 0 {
		err := noPoolMatches(al, choice.Labels)
		refusal, _ := ipam.AsRefusal(err)
		return []candidate{{refusal: refusal, isNamed: true}}, nil
	}
	candidates := make([]candidate, len(pools))
	for i, pool := range pools {
		candidates[i] = candidate{want: ipam.Want{Ask: al.want.Ask, Pool: pool, IP: choice.IP}}
	}
	return candidates, nil
}

// named is the pool that a choice names. What a bare name means is looked up once a
// request: with more than one pool of that name it costs reads of the API server.
func (a *Allocator) named(ctx context.Context, al *allocation, pool ipam.PoolReference) (candidate, error) {
	if known, is := al.meant[pool]; is {
		return known, nil
	}
	want, err := a.resolve(ctx, al.Machine.Namespace, ipam.Want{Ask: al.want.Ask, Pool: pool})
	refusal, refused := ipam.AsRefusal(err)
	if err != nil && !refused {
		return candidate{}, err
	}
	al.meant[pool] = candidate{want: want, refusal: refusal, isNamed: true}
	return al.meant[pool], nil
}

func noPoolMatches(al *allocation, labels ipam.PoolLabels) error {
	// What is to be corrected is an annotation, or labels.
	place, _, _ := strings.Cut(al.want.AskedBy, " ")
	return ipam.Refuse(ipam.NoPoolMatches, "no pool in namespace %q carries %s, asked for by %s: label a pool, or correct the %s there",
		al.Machine.Namespace, labels, al.want.AskedBy, place)
}

// labelled are the pools that bear these labels: first those of the machine's namespace,
// by name, of one name in the order of the providers; then those of all namespaces that
// say that they are for this machine.
func (a *Allocator) labelled(ctx context.Context, reader client.Reader, machine ipam.Machine, labels ipam.PoolLabels) ([]ipam.PoolReference, error) {
	var own, shared []ipam.PoolReference
	for _, provider := range a.providers {
		for _, kind := range provider.PoolKinds() {
			gvk, err := a.client.GroupVersionKindFor(kind)
			if err != nil {
				return nil, fmt.Errorf("finding the kind of pools: %w", err)
			}
			isShared := isSharedKind(provider, gvk.Kind)
			options := []client.ListOption{client.MatchingLabels(labels.Set()), client.UnsafeDisableDeepCopy}
			if !isShared {
				options = append(options, client.InNamespace(machine.Namespace))
			}
			objects, err := kube.ListFrom(ctx, a.client, reader, kind, options...)
			if err != nil {
				return nil, fmt.Errorf("listing the %ss with %s: %w", gvk.Kind, labels, err)
			}
			for _, obj := range objects {
				pool := ipam.Pool{Object: obj, Reference: ipam.PoolReference{APIGroup: gvk.Group, Kind: gvk.Kind, Name: obj.GetName()}}
				switch {
				case !isShared:
					own = append(own, pool.Reference)
				case ipam.IsOpenedTo(pool, machine):
					shared = append(shared, pool.Reference)
				}
			}
		}
	}
	for _, pools := range [][]ipam.PoolReference{own, shared} {
		slices.SortStableFunc(pools, func(a, b ipam.PoolReference) int { return cmp.Compare(a.Name, b.Name) })
	}
	all := slices.Concat(own, shared)
	return all[:min(len(all), maxGroup)], nil
}

// isSharedKind tells whether pools of this kind are of all namespaces.
func isSharedKind(provider ipam.Provider, kind string) bool {
	short, ok := provider.(ipam.Shorthand)
	if !ok {
		return false
	}
	shared, has := short.Shared("")
	return has && shared.Kind == kind
}

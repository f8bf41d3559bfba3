package allocator

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// plan reads the pools of an attempt, and checks that they have room. What the
// cache refuses is asked again of the API server: a pool may have been made, or
// an address freed, a moment ago.
func (a *Allocator) plan(ctx context.Context, attempt *Attempt) error {
	err := a.planFrom(ctx, a.client, attempt)
	if _, refused := ipam.AsRefusal(err); refused {
		return a.planFrom(ctx, a.live, attempt)
	}
	return err
}

func (a *Allocator) planFrom(ctx context.Context, reader client.Reader, attempt *Attempt) error {
	pools := map[ipam.PoolReference]ipam.Pool{}
	// fresh are the claims for which a pool must have an address left: one that
	// exists has its own, or is in line for it.
	fresh := map[ipam.PoolReference][]string{}
	for _, al := range attempt.allocations {
		pool, known := pools[al.want.Pool]
		if !known {
			var err error
			if pool, err = al.provider.Pool(ctx, reader, al.Machine, al.want); err != nil {
				return ipam.WithShortages(err, al.shortages()...)
			}
			pools[al.want.Pool] = pool
		}
		if err := ipam.CheckStatement(pool, al.Machine, al.want); err != nil {
			return ipam.WithShortages(err, al.shortagesOf(al.want.AlsoMissing)...)
		}
		al.pool = pool
		has, err := hasClaim(ctx, reader, al)
		if err != nil {
			return err
		}
		if !has {
			fresh[al.want.Pool] = append(fresh[al.want.Pool], al.claim)
		}
	}
	for _, al := range attempt.allocations {
		if al.pool.Free == nil {
			continue
		}
		if free, needed := al.pool.Free(fresh[al.want.Pool]); free < needed {
			return exhausted(al.pool, free, needed)
		}
	}
	return nil
}

func exhausted(pool ipam.Pool, free, needed uint64) error {
	more := ""
	if needed > 1 {
		more = fmt.Sprintf(" and the machine needs %d", needed)
	}
	cools := ""
	if after := ipam.CoolsFor(pool, 0); after != "" {
		cools = "; addresses cool down for " + after
	}
	name, short := pool.Reference.In(pool.GetNamespace()), ipam.Shortage{Pool: pool.Reference, Needed: needed}
	if pool.Free == nil {
		return ipam.WithShortages(ipam.Refuse(ipam.PoolExhausted, "%s is exhausted%s: add addresses to the pool or delete a machine that holds one", name, cools), short)
	}
	return ipam.WithShortages(ipam.Refuse(ipam.PoolExhausted, "%s is exhausted: %d of %d addresses in use%s%s; add addresses to the pool or delete a machine that holds one",
		name, pool.Total-min(free, pool.Total), pool.Total, more, cools), short)
}

// hasClaim tells whether there is a claim already that the request will use, or wait for.
func hasClaim(ctx context.Context, reader client.Reader, al *allocation) (bool, error) {
	claim := ipam.EmptyClaim(al.provider)
	err := reader.Get(ctx, al.claimKey(), claim)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading claim %s: %w", al.claimKey(), err)
	}
	return err == nil && !isPassedOver(claim, al), nil
}

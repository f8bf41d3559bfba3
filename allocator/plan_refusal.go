package allocator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"capv-static-ip.dev/allocator/ipam"
)

// refuse says why no combination of pools serves: by the first address that none of its
// candidates can give.
func (s *survey) refuse(ctx context.Context) error {
	preferred, err := s.preferred(ctx)
	if err != nil {
		return err
	}
	for i, al := range s.allocations {
		refusals, err := s.refusalsOf(ctx, i, preferred)
		if err != nil {
			return err
		}
		if len(refusals) == len(s.candidates[i]) {
			return together(al, s.candidates[i], refusals)
		}
	}
	// Each could be given one, but not all of them: more than one pool is short.
	for _, o := range preferred {
		if free, needed := roomFor(o.pool, claimsOn(o.want.Pool, preferred)); free < needed {
			return exhausted(o.pool, free, needed)
		}
	}
	// The search has ended before it came to all combinations.
	free, _ := roomFor(preferred[0].pool, nil)
	return exhausted(preferred[0].pool, free, free+1)
}

// preferred are the first candidates that are not refused, of each allocation that has one.
func (s *survey) preferred(ctx context.Context) (offers []*offer, err error) {
	for i := range s.allocations {
		for j := range s.candidates[i] {
			o, err := s.look(ctx, i, j)
			if err != nil {
				return nil, err
			}
			if o.refusal == nil {
				offers = append(offers, o)
				break
			}
		}
	}
	return offers, nil
}

// refusalsOf are why the candidates of an allocation do not serve, where they do not: by
// themselves, or because of the others that would have an address of the pool.
func (s *survey) refusalsOf(ctx context.Context, address int, preferred []*offer) (refusals []*ipam.Refusal, err error) {
	for j := range s.candidates[address] {
		o, err := s.look(ctx, address, j)
		if err != nil {
			return nil, err
		}
		if o.refusal != nil {
			refusals = append(refusals, o.refusal)
			continue
		}
		if isGivenBy(o, preferred) {
			refusal, _ := ipam.AsRefusal(ipam.Refuse(ipam.PoolNameInvalid, "%s of %s, which %s wants, is wanted for another address of the machine as well: ask for it once",
				o.want.IP, o.pool.Reference.In(o.pool.GetNamespace()), o.want.AskedBy))
			refusals = append(refusals, refusal)
			continue
		}
		claims := claimsOn(o.want.Pool, preferred)
		if o.claim != "" && !slices.Contains(claims, o.claim) {
			claims = append(claims, o.claim)
		}
		if free, needed := roomFor(o.pool, claims); free < needed {
			refusal, _ := ipam.AsRefusal(exhausted(o.pool, free, needed))
			refusals = append(refusals, refusal)
		}
	}
	return refusals, nil
}

// together is the refusal of an address by its only candidate, or by all of them. It is
// that of a full pool if there is one: that ends when any address becomes free.
func together(al *allocation, candidates []candidate, refusals []*ipam.Refusal) error {
	if len(refusals) == 1 {
		return refusals[0]
	}
	var causes []string
	var shortages []ipam.Shortage
	for i, refusal := range refusals {
		causes = append(causes, causeOf(candidates[i], refusal))
		for _, short := range refusal.Shortages {
			if !slices.Contains(shortages, short) {
				shortages = append(shortages, short)
			}
		}
	}
	err := ipam.Refuse(ipam.PoolExhausted, "no pool asked for by %s can serve: %s; add addresses to one of them, or name or label another",
		al.want.AskedBy, strings.Join(causes, ", "))
	isExhausted := func(refusal *ipam.Refusal) bool { return refusal.Reason == ipam.PoolExhausted }
	if refusal, is := ipam.AsRefusal(err); is && !slices.ContainsFunc(refusals, isExhausted) {
		refusal.Reason = refusals[0].Reason
	}
	return ipam.WithShortages(err, shortages...)
}

// causeOf is a refusal in few words, without counts, which change.
func causeOf(c candidate, refusal *ipam.Refusal) string {
	if refusal.Reason == ipam.NoPoolMatches {
		return "no pool of the group"
	}
	words := map[ipam.Reason]string{
		ipam.PoolExhausted:           "is exhausted",
		ipam.PoolNotFound:            "not found",
		ipam.PoolTerminating:         "is being deleted",
		ipam.Frozen:                  "is frozen",
		ipam.PoolNotServed:           "is not served",
		ipam.PoolForbidden:           "cannot be read",
		ipam.PoolNotForNetwork:       "is for other networks",
		ipam.PoolNotForFailureDomain: "is for other failure domains",
		ipam.PoolNotAllowed:          "is for others",
		ipam.AddressTaken:            "has given the address to others",
	}[refusal.Reason]
	if words == "" {
		words = "cannot be used"
	}
	return fmt.Sprintf("%s %q %s", c.want.Pool.Kind, c.want.Pool.Name, words)
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

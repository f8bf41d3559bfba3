package allocator

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// plan chooses a pool for each allocation of an attempt, and checks that all of them have
// room. As soon as a claim may be there it only checks what was chosen. What the
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
	survey := newSurvey(a, reader)
	for _, al := range attempt.allocations {
		if !attempt.claiming {
			// It may have been that of a pool which is not chosen any more.
			al.forgetClaim()
		}
		if err := survey.add(ctx, al, attempt.claiming); err != nil {
			return err
		}
	}
	choosing := choosing{candidates: survey.counts(), look: func(address, candidate int) (*offer, error) {
		return survey.look(ctx, address, candidate)
	}}
	found, err := choosing.choose()
	if err != nil {
		return err
	}
	if !found {
		return survey.refuse(ctx)
	}
	if !attempt.claiming {
		attempt.Warnings = survey.passedOver(choosing.chosen)
	}
	for i, al := range attempt.allocations {
		al.follow(choosing.chosen[i])
	}
	return nil
}

// follow has an allocation go on with what was chosen.
func (al *allocation) follow(chosen *offer) {
	al.want, al.provider, al.pool, al.isNew, al.isTaken = chosen.want, chosen.provider, chosen.pool, chosen.claim != "", chosen.isTaken
	if !al.used && chosen.existing != "" {
		al.use(chosen.existing)
	}
}

// survey is what is known of the pools that an attempt may use, at one moment, by one
// reader.
type survey struct {
	*Allocator
	reader client.Reader

	allocations []*allocation
	candidates  [][]candidate
	offers      []map[int]*offer
	pools       map[ipam.PoolReference]ipam.Pool
	// claims are those that exist, nil where there is none.
	claims map[claimID]client.Object
}

// claimID tells the claims of a machine apart: those of two claim APIs may share a name.
type claimID struct {
	provider, name string
}

func newSurvey(a *Allocator, reader client.Reader) *survey {
	return &survey{Allocator: a, reader: reader, pools: map[ipam.PoolReference]ipam.Pool{}, claims: map[claimID]client.Object{}}
}

// add has an allocation take part. What is chosen for it already is its only candidate.
// A claim of its name that exists decides for its own pool, if that is among them:
// a repeated request keeps its address.
func (s *survey) add(ctx context.Context, al *allocation, isChosen bool) error {
	candidates := []candidate{{want: al.want, isNamed: true}}
	if !isChosen {
		var err error
		if candidates, err = s.Allocator.candidates(ctx, s.reader, al); err != nil {
			return err
		}
	}
	if len(candidates) > 1 {
		i, err := s.claimed(ctx, al, candidates)
		if err != nil {
			return err
		}
		candidates = slices.Concat(candidates[i:i+1], candidates[:i], candidates[i+1:])
	}
	s.allocations = append(s.allocations, al)
	s.candidates = append(s.candidates, candidates)
	s.offers = append(s.offers, map[int]*offer{})
	return nil
}

// claimed is the candidate that an allocation has a claim on already, by a claim that was
// kept for its owner or one of its name, in whichever claim API. It is the first if
// there is none.
func (s *survey) claimed(ctx context.Context, al *allocation, candidates []candidate) (int, error) {
	for i, c := range candidates {
		if c.refusal == nil && al.keptFor(c.want) >= 0 {
			return i, nil
		}
	}
	for i, c := range candidates {
		if c.refusal != nil {
			continue
		}
		provider := s.providers.For(c.want.Pool)
		obj, err := s.existingClaim(ctx, provider, al)
		if err != nil {
			return 0, err
		}
		if obj == nil {
			continue
		}
		claim := provider.ReadClaim(obj)
		if answersTo(claim, c.want) && claim.Failure == "" && claim.GetDeletionTimestamp().IsZero() {
			return i, nil
		}
	}
	return s.taken(ctx, al, candidates)
}

// taken is the candidate of whose pool an address was taken for an allocation by an earlier
// request, which has no claim yet. It is the first if there is none.
func (s *survey) taken(ctx context.Context, al *allocation, candidates []candidate) (int, error) {
	for i, c := range candidates {
		if c.refusal != nil {
			continue
		}
		isTaken, err := s.hasTaken(ctx, al, c.want.Pool)
		if err != nil || isTaken {
			return i, err
		}
	}
	return 0, nil
}

// hasTaken tells whether an address of a pool was taken for an allocation already: it needs
// no other.
func (s *survey) hasTaken(ctx context.Context, al *allocation, pool ipam.PoolReference) (bool, error) {
	if al.took != "" {
		return true, nil
	}
	obj, err := s.takenBefore(ctx, al, pool)
	if err != nil || obj == nil {
		return false, err
	}
	return ipam.IsTaken(obj) && ipam.HolderOf(obj) == al.Machine.Holder(), nil
}

// keptFor is the place of a claim among those that were kept for an allocation that is on
// the pool of a want, -1 if none is.
func (al *allocation) keptFor(want ipam.Want) int {
	return slices.IndexFunc(al.kept, func(kept ipam.Claim) bool { return answersTo(kept, want) })
}

// answersTo tells whether a claim asks what is wanted.
func answersTo(claim ipam.Claim, want ipam.Want) bool {
	return claim.Pool == want.Pool && (claim.Requested == want.IP || !want.IP.IsValid())
}

// existingClaim is the claim that an allocation will use, or wait for, nil if there is none.
// However many pools it may be on, it is read once.
func (s *survey) existingClaim(ctx context.Context, provider ipam.Provider, al *allocation) (client.Object, error) {
	id := claimID{provider: provider.Name(), name: al.claim}
	if known, is := s.claims[id]; is {
		return known, nil
	}
	claim := ipam.EmptyClaim(provider)
	err := s.reader.Get(ctx, al.claimKey(), claim)
	switch {
	case apierrors.IsNotFound(err), err == nil && isPassedOver(claim, al):
		s.claims[id] = nil
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading claim %s: %w", al.claimKey(), err)
	}
	s.claims[id] = claim
	return claim, nil
}

// counts are the numbers of candidates.
func (s *survey) counts() []int {
	counts := make([]int, len(s.candidates))
	for i := range s.candidates {
		counts[i] = len(s.candidates[i])
	}
	return counts
}

// look tells of one candidate of one allocation.
func (s *survey) look(ctx context.Context, address, candidate int) (*offer, error) {
	if known, is := s.offers[address][candidate]; is {
		return known, nil
	}
	o, err := s.lookAnew(ctx, s.allocations[address], s.candidates[address][candidate])
	if err != nil {
		return nil, err
	}
	s.offers[address][candidate] = o
	return o, nil
}

func (s *survey) lookAnew(ctx context.Context, al *allocation, c candidate) (*offer, error) {
	o := &offer{candidate: c}
	if c.refusal != nil {
		return o, nil //nolint:nilerr // the offer has it
	}
	o.provider = s.providers.For(c.want.Pool)
	var err error
	if o.refusal, err = refusalOrError(s.read(ctx, al, o)); err != nil || o.refusal != nil {
		return o, err
	}
	if i := al.keptFor(c.want); i >= 0 && !al.used {
		o.existing = al.kept[i].GetName()
		return o, nil
	}
	claim, err := s.existingClaim(ctx, o.provider, al)
	if err != nil || claim != nil {
		return o, err
	}
	if o.isTaken, err = s.hasTaken(ctx, al, c.want.Pool); err != nil || o.isTaken {
		return o, err
	}
	o.claim = al.claim
	o.refusal, _ = ipam.AsRefusal(checkRequested(o, al))
	if o.refusal != nil && o.refusal.Reason == ipam.AddressTaken {
		// Whatever comes back to the pool may be it.
		o.refusal.Shortages = s.shortages(o.want, []ipam.PoolReference{o.want.Pool})
	}
	return o, nil
}

// checkRequested refuses a given address that a claim cannot ask for, or cannot have.
func checkRequested(o *offer, al *allocation) error {
	if !o.want.IP.IsValid() {
		return nil
	}
	name := o.pool.Reference.In(o.pool.GetNamespace())
	if o.pool.Offers == nil {
		return ipam.Refuse(ipam.AddressNotRequestable, "%s cannot be asked for %s, which %s wants: make a pool of that address alone, or use an IPPool",
			name, o.want.IP, o.want.AskedBy)
	}
	switch in, taken := o.pool.Offers(o.want.IP, al.claim); {
	case !in:
		return ipam.Refuse(ipam.PoolNameInvalid, "%s, which %s wants, is not in %s: correct one of them", o.want.IP, o.want.AskedBy, name)
	case taken:
		return addressTaken(name, o.want)
	}
	return nil
}

func addressTaken(pool string, want ipam.Want) error {
	return ipam.Refuse(ipam.AddressTaken, "%s of %s, which %s wants, is in use or reserved for another claim: free it, or ask for another", want.IP, pool, want.AskedBy)
}

// refusalOrError is an error as the one or the other.
func refusalOrError(err error) (*ipam.Refusal, error) {
	if refusal, refused := ipam.AsRefusal(err); refused {
		return refusal, nil
	}
	return nil, err
}

// read reads the pool of an offer, and what that says it is for. It returns a Refusal if
// the pool does not serve the allocation.
func (s *survey) read(ctx context.Context, al *allocation, o *offer) error {
	pool, known := s.pools[o.want.Pool]
	if !known {
		var err error
		if pool, err = o.provider.Pool(ctx, s.reader, al.Machine, o.want); err != nil {
			return ipam.WithShortages(err, s.shortages(o.want, append([]ipam.PoolReference{o.want.Pool}, o.want.AlsoMissing...))...)
		}
		s.pools[o.want.Pool] = pool
	}
	o.pool = pool
	if err := ipam.CheckStatement(pool, al.Machine, o.want); err != nil {
		return ipam.WithShortages(err, s.shortages(o.want, o.want.AlsoMissing)...)
	}
	return nil
}

// shortages are what the machine waits for if a pool cannot serve: any of these pools, that
// may be meant, will do.
func (s *survey) shortages(want ipam.Want, pools []ipam.PoolReference) []ipam.Shortage {
	var needed uint64
	for _, candidates := range s.candidates {
		if len(candidates) == 1 && candidates[0].refusal == nil && candidates[0].want.Pool == want.Pool {
			needed++
		}
	}
	var shortages []ipam.Shortage
	for _, pool := range pools {
		shortages = append(shortages, ipam.Shortage{Pool: pool, Needed: max(needed, 1)})
	}
	return shortages
}

// passedOver warns of choices that lead to no pool, or to one that is for others, and
// come before the chosen one. Of a group it is expected that some of its pools are.
func (s *survey) passedOver(chosen []*offer) (warnings []string) {
	for i, offers := range s.offers {
		for j := range s.candidates[i] {
			o, looked := offers[j]
			if !looked || o == chosen[i] {
				break
			}
			if o.isNamed && o.refusal != nil && !passes(o.refusal.Reason) && !slices.Contains(warnings, o.refusal.Message) {
				warnings = append(warnings, o.refusal.Message)
			}
		}
	}
	return warnings
}

// passes tells whether what a pool is refused for ends by itself, as a rule.
func passes(reason ipam.Reason) bool {
	return reason == ipam.PoolExhausted || reason == ipam.PoolTerminating || reason == ipam.PoolNotServed || reason == ipam.AddressTaken
}

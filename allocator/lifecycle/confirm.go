package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// behindCheck is how soon it is looked again where the cache was behind. The watches
// bring what it did not have; but a claim that an address names may be about another
// machine, and its events then are, too.
const behindCheck = 2 * time.Second

// decision is what is to be done about a holding, and after what time to decide again.
type decision struct {
	*holding
	step step
	wait time.Duration
	// err is why the step is not taken: what it depends on could not be read.
	err error
}

// decideAll decides what is to be done about each holding. After a step that frees,
// others may have the address, so it is decided upon twice: by the cache, which is
// cheap and nearly always right, and then by the API server.
func (r *Reconciler) decideAll(ctx context.Context, s *state) []decision {
	decisions := make([]decision, len(s.holdings))
	var freeing []*decision
	for i, h := range s.holdings {
		decisions[i] = r.decide(s, h)
		r.keepFrozen(ctx, s, &decisions[i])
		if decisions[i].step.frees() && decisions[i].err == nil {
			freeing = append(freeing, &decisions[i])
		}
	}
	if len(freeing) == 0 {
		return decisions
	}
	same := r.reread(ctx, s, freeing)
	for _, first := range freeing {
		if first.err == nil {
			*first = settled(*first, r.decide(s, first.holding), same)
		}
	}
	return decisions
}

func (r *Reconciler) decide(s *state, h *holding) decision {
	next, wait := decide(s.machineState, *h, r.now(), r.grace)
	return decision{holding: h, step: next, wait: wait}
}

// settled is what is done where the first decision was to free. What the second one
// says counts, but frees only if the first one said the same, of the same machine: the
// rest of the holding is still as the cache had it.
func settled(first, second decision, same bool) decision {
	if !same || second.step.frees() && second.step != first.step {
		return decision{holding: first.holding, step: idle, wait: behindCheck}
	}
	return second
}

// reread asks the API server about what is to be freed: for the claims, then for the
// machine, then for its VMs. A request that uses a claim writes its stamp before the
// machine is stored. So either the claim read here has that stamp, or the write that
// follows conflicts; after the machine, a claim could be read that a machine has got
// in between. A machine has its VM made only when it is there: of one that came and
// went before the machine is read, the VM shows. It tells whether the machine is the
// one that was observed. What cannot be read holds up the decisions that need it, and
// no others.
func (r *Reconciler) reread(ctx context.Context, s *state, freeing []*decision) (same bool) {
	same = true
	var unsure []*decision
	for _, d := range freeing {
		if isObservedLive(s, d) {
			continue
		}
		unsure = append(unsure, d)
		d.err = r.rereadClaims(ctx, s, d.holding)
	}
	if len(unsure) > 0 {
		now := &state{namespace: s.namespace}
		if err := r.observeMachine(ctx, s.key(), now, r.live); err != nil {
			return unread(freeing, err)
		}
		same = now.isSame(s.machineState)
		for _, d := range unsure {
			r.observeUse(now, d.holding)
		}
	}
	if err := r.observeVMs(ctx, s); err != nil {
		return unread(freeing, err)
	}
	return same
}

// unread has none of these decisions taken.
func unread(decisions []*decision, err error) bool {
	for _, d := range decisions {
		d.err = err
	}
	return false
}

// isObservedLive tells whether a decision was made by what the API server said: a
// machine that is being deleted is read there before its holdings are collected.
func isObservedLive(s *state, d *decision) bool {
	return s.deleting && !d.isCooling(s.machineState) && (d.step == release || d.step == cool)
}

// rereadClaims reads the claim of a holding again, and the one that its address was
// made for: another one, or one that the cache does not have yet. The address itself
// is not read again, since each write to it is against the version that was judged.
func (r *Reconciler) rereadClaims(ctx context.Context, s *state, h *holding) error {
	var err error
	if h.claim != nil {
		if h.claim, err = r.liveClaim(ctx, r.providers.OfClaim(h.claim.Object), client.ObjectKeyFromObject(h.claim)); err != nil {
			return err
		}
		h.abandoned = h.abandoned && h.claim != nil && !h.claim.GetDeletionTimestamp().IsZero()
	}
	h.madeFor = nil
	if h.address != nil {
		provider, key := r.providers.OfAddress(h.address.Object), keyIn(h.address, h.address.Claim)
		if h.claim != nil && h.claim.GetName() == key.Name && r.providers.OfClaim(h.claim.Object).Name() == provider.Name() {
			h.madeFor = h.claim
		} else if h.madeFor, err = r.liveClaim(ctx, provider, key); err != nil {
			return err
		}
	}
	// A claim that a request has used meanwhile is another one, by the leader's clock.
	r.recall(s.key(), h)
	return nil
}

// observeUse finds out what the machine, as the API server has it, says of a holding.
func (r *Reconciler) observeUse(s *state, h *holding) {
	h.used, h.rebound, h.onDevice = false, false, false
	if !s.exists {
		return
	}
	bindings := bindingsOf(s.object)
	if h.claim != nil {
		provider := r.providers.For(h.claim.Pool)
		h.used = slices.ContainsFunc(bindings, func(b ipam.Binding) bool {
			return b.Claim == h.claim.GetName() && r.providers.For(b.Pool).Name() == provider.Name()
		})
	}
	if h.address != nil {
		ip := capi.ParseAddress(h.address.IP)
		h.onDevice = deviceOf(s.object, ip) >= 0
		h.used = h.used || slices.ContainsFunc(bindings, func(b ipam.Binding) bool { return b.Address.Addr() == ip })
		h.rebound = slices.ContainsFunc(bindings, func(b ipam.Binding) bool { return b.Claim == h.address.Claim })
	}
}

// liveClaim is a claim as the API server has it, nil if it does not exist.
func (r *Reconciler) liveClaim(ctx context.Context, provider ipam.Provider, key types.NamespacedName) (*ipam.Claim, error) {
	if key.Name == "" || len(content.IsPathSegmentName(key.Name)) > 0 {
		// An address may name anything as its claim. There is none of such a name.
		return nil, nil
	}
	obj := ipam.EmptyClaim(provider)
	exists, err := r.exists(ctx, key, obj)
	if err != nil {
		return nil, fmt.Errorf("reading claim %s: %w", key, err)
	}
	if !exists {
		return nil, nil
	}
	claim := provider.ReadClaim(obj)
	return &claim, nil
}

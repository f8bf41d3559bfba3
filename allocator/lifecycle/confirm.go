package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

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
}

// decideAll decides what is to be done about each holding. After a step that frees,
// others may have the address, so it is decided upon twice: by the cache, which is
// cheap and nearly always right, and then by the API server.
func (r *Reconciler) decideAll(ctx context.Context, s *state) ([]decision, error) {
	var decisions, freeing []decision
	for _, h := range s.holdings {
		first := r.decide(s, h)
		decisions = append(decisions, first)
		if first.step.frees() {
			freeing = append(freeing, first)
		}
	}
	if len(freeing) == 0 {
		return decisions, nil
	}
	same, err := r.reread(ctx, s, freeing)
	if err != nil {
		return nil, err
	}
	for i, first := range decisions {
		if first.step.frees() {
			decisions[i] = settled(first, r.decide(s, first.holding), same)
		}
	}
	return decisions, nil
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
// machine, then for its VMs. That is the order in which they come to be, so what comes in
// between is not missed. A request stamps its claim before its machine is stored: either
// the claim has that stamp when it is read here, or the write that follows conflicts. A VM
// is made for a machine that is stored: if the machine came and went before it is read
// here, its VM is there afterwards. It tells whether the machine is the one that was
// observed.
func (r *Reconciler) reread(ctx context.Context, s *state, freeing []decision) (bool, error) {
	unsure := slices.DeleteFunc(slices.Clone(freeing), isObservedLive)
	for _, d := range unsure {
		if err := r.rereadClaims(ctx, s, d.holding); err != nil {
			return false, err
		}
	}
	same := true
	if len(unsure) > 0 {
		now := &state{namespace: s.namespace}
		if err := r.observeMachine(ctx, s.key(), now, r.live); err != nil {
			return false, err
		}
		same = now.isSame(s.machineState)
		for _, d := range unsure {
			r.observeUse(now, d.holding)
		}
	}
	// For a release, too: CAPV may let go of a machine before its VM is gone.
	return same, r.observeVMs(ctx, s)
}

// isObservedLive tells whether a decision was made by what the API server said: a
// machine that is being deleted is read there before its holdings are collected.
func isObservedLive(d decision) bool { return d.step == release }

// rereadClaims reads the claim of a holding again, and the one that its address was
// made for: another one, or one that the cache does not have yet. The address itself
// is not read again, since each write to it is against the version that was judged.
func (r *Reconciler) rereadClaims(ctx context.Context, s *state, h *holding) error {
	var err error
	if h.claim != nil {
		if h.claim, err = r.liveClaim(ctx, r.providers.OfClaim(h.claim.Object), client.ObjectKeyFromObject(h.claim)); err != nil {
			return err
		}
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

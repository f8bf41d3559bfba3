package lifecycle

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// state is the machine of one name and everything that is or was its own.
type state struct {
	machineState
	frost
	namespace string
	// object is the machine, nil if it does not exist.
	object   *capi.VSphereMachine
	holdings []*holding
	// confirmed says that the API server has been asked whether it still lives.
	confirmed bool
	// renamed are the bindings whose claims have other names than the annotation says.
	renamed []renamedBinding
}

func (s *state) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.namespace, Name: s.name}
}

// observe reads the state of the machine of this name. A machine that is being
// deleted is read from the API server: what follows frees addresses. That a machine
// does not exist is the word of the cache; before a step that trusts in it, reread asks.
func (r *Reconciler) observe(ctx context.Context, key types.NamespacedName) (*state, error) {
	s := &state{namespace: key.Namespace}
	if err := r.observeMachine(ctx, key, s, r.client); err != nil {
		return nil, err
	}
	if s.deleting {
		// A release trusts in this read: reread passes over the machine then.
		if err := r.observeMachine(ctx, key, s, r.live); err != nil {
			return nil, err
		}
	}
	if err := r.observeHoldings(ctx, key, s); err != nil {
		return nil, err
	}
	if s.hasEarlier() {
		// The cache may still show an earlier machine of the name, not this one.
		if err := r.observeMachine(ctx, key, s, r.live); err != nil {
			return nil, err
		}
	}
	// What matters about a holding depends on the machine, so it comes last.
	for _, h := range s.holdings {
		if err := r.observeHolding(ctx, key, s, h); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// observeHolding finds out what a decision about a holding needs to know beside
// its objects.
func (r *Reconciler) observeHolding(ctx context.Context, key types.NamespacedName, s *state, h *holding) error {
	var err error
	if h.paused, err = r.isPaused(ctx, key.Namespace, s, h); err != nil {
		return err
	}
	if h.sharedWith, err = r.sharedWith(ctx, key, s, h); err != nil {
		return err
	}
	if s.exists {
		if h.busy, err = r.isBusy(ctx, h); err != nil {
			return err
		}
	}
	h.hasTwin = s.hasTwin(h)
	if h.annotated != nil {
		h.requestable, h.placed = r.recreation().CanRequest(key.Namespace, *h.annotated)
		h.offDevice = s.exists && deviceOf(s.object, h.annotated.Address.Addr()) < 0
	}
	h.onDevice = s.exists && h.address != nil && deviceOf(s.object, capi.ParseAddress(h.address.IP)) >= 0
	if !s.exists || h.isOfEarlierMachine(s.machineState) || h.isSpareClaim(s.machineState) || h.isSpare(s.machineState) || h.isStray(s.name) || h.isCooling(s.machineState) {
		r.recall(key, h)
	}
	h.foreign = h.isStray(s.name) && !r.providers.For(h.address.Pool).HasOnlyOwnFinalizers(h.address.Object)
	if h.abandoned, err = r.isAbandoned(ctx, h); err != nil {
		return err
	}
	return r.observeCoolDown(ctx, s, h)
}

func (r *Reconciler) observeMachine(ctx context.Context, key types.NamespacedName, s *state, reader client.Reader) error {
	s.machineState, s.object = machineState{name: key.Name}, nil
	machine := &capi.VSphereMachine{}
	if err := reader.Get(ctx, key, machine); err != nil {
		if kube.IsAbsent(err) {
			return nil
		}
		return fmt.Errorf("reading the machine: %w", err)
	}
	s.object = machine
	s.exists = true
	s.uid = machine.UID
	s.created = machine.CreationTimestamp.Time
	s.deleting = !machine.DeletionTimestamp.IsZero()
	s.moving = capi.IsMoving(machine)
	s.done = allocator.IsDone(machine)
	return nil
}

// claimID tells claims apart: those of different providers may share a name.
type claimID struct {
	provider, name string
}

// observeHoldings collects claims and addresses that name the machine, and
// those that the machine names.
func (r *Reconciler) observeHoldings(ctx context.Context, key types.NamespacedName, s *state) error {
	byClaim := map[claimID]*holding{}
	holdingOf := func(provider ipam.Provider, claim string) *holding {
		id := claimID{provider: provider.Name(), name: claim}
		if byClaim[id] == nil {
			byClaim[id] = &holding{}
			s.holdings = append(s.holdings, byClaim[id])
		}
		return byClaim[id]
	}
	// Claims come first: each is a holding of its own, whatever else leads to it. One of
	// the same name and pool may be of the other API, see ipam.Twinned.
	claims, err := r.claimsNaming(ctx, key)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		holdingOf(r.providers.OfClaim(claim.Object), claim.GetName()).claim = &claim
	}
	addresses, err := r.addressesNaming(ctx, key)
	if err != nil {
		return err
	}
	isKnown := func(b ipam.Binding) bool {
		return byClaim[claimID{provider: r.providers.For(b.Pool).Name(), name: b.Claim}] != nil
	}
	// The machine's bindings join the holding of their claim. One whose claim names the
	// machine no more, or is missing, is a holding all the same.
	for _, b := range r.confirmedBindings(ctx, s, isKnown, addresses) {
		h := holdingOf(r.providers.For(b.Pool), b.Claim)
		h.annotated = &b
		if h.claim != nil {
			continue
		}
		readers := []client.Reader{r.client}
		if deviceOf(s.object, b.Address.Addr()) >= 0 {
			// Only for an address that is in use it is worth asking.
			readers = append(readers, r.live)
		}
		if h.claim, err = r.claim(ctx, types.NamespacedName{Namespace: key.Namespace, Name: b.Claim}, b.Pool, readers...); err != nil {
			return err
		}
	}
	// An address is found by claim and binding, so both must be there. What no holding
	// has got then leads to one of its own.
	for _, h := range s.holdings {
		if h.address, err = r.addressOf(ctx, key.Namespace, h, addresses); err != nil {
			return err
		}
	}
	s.addRemaining(addresses, func(address ipam.Address) *holding {
		return holdingOf(r.providers.OfAddress(address.Object), address.Claim)
	})
	return nil
}

// addressOf is the address of a claim: the one that the machine was given, or
// else the one that the claim names. metal3 has been seen to make two for one
// claim, and to name the second in it when the first had been used.
func (r *Reconciler) addressOf(ctx context.Context, namespace string, h *holding, addresses []ipam.Address) (*ipam.Address, error) {
	for _, address := range addresses {
		candidate := holding{annotated: h.annotated, address: &address}
		if h.annotated != nil && address.Claim == h.annotated.Claim && address.Pool == h.annotated.Pool && candidate.isAnnotatedAddress() {
			return &address, nil
		}
	}
	if h.claim == nil || h.claim.Address == "" {
		return nil, nil
	}
	return r.address(ctx, types.NamespacedName{Namespace: namespace, Name: h.claim.Address}, r.providers.OfClaim(h.claim.Object))
}

// addRemaining adds the addresses that no holding has. One that answers a claim
// which has no address yet is left out: the provider may be about to bind it.
func (s *state) addRemaining(addresses []ipam.Address, holdingOf func(ipam.Address) *holding) {
	for _, address := range addresses {
		known := slices.ContainsFunc(s.holdings, func(h *holding) bool {
			return h.address != nil && h.address.GetUID() == address.GetUID()
		})
		if known {
			continue
		}
		switch h := holdingOf(address); {
		case h.address == nil && h.claim == nil && h.annotated == nil:
			// Nothing else is known of its claim: the holding was made just now.
			h.address = &address
		case h.address == nil && h.claim != nil && ipam.IsProtected(address) && ipam.Answers(address, h.claim.GetUID()):
			// The claim is about to name it.
			h.address = &address
		case h.address != nil || ipam.IsProtected(address):
			// Its claim has another one, or it is what an earlier claim of the name left.
			s.holdings = append(s.holdings, &holding{address: &address})
		}
	}
}

// hasTwin tells whether there is another address for the claim of a holding.
func (s *state) hasTwin(h *holding) bool {
	return slices.ContainsFunc(s.holdings, func(other *holding) bool {
		switch {
		case other == h || other.address == nil:
			return false
		case h.address != nil:
			return other.address.Claim == h.address.Claim && other.address.Pool == h.address.Pool
		}
		return h.annotated != nil && other.isTaken() && other.address.Claim == h.annotated.Claim && other.address.Pool == h.annotated.Pool
	})
}

// isPaused tells whether the machine, or the Cluster of machine, claim or
// address, is paused, or the holding is on its way from one pool to another. A Cluster
// that does not exist is not.
func (r *Reconciler) isPaused(ctx context.Context, namespace string, s *state, h *holding) (bool, error) {
	if s.exists && (annotations.HasPaused(s.object) || s.isMigrating(h)) {
		return true, nil
	}
	name := s.clusterOf(h)
	if name == "" {
		return false, nil
	}
	cluster := &capi.Cluster{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, cluster)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s: %w", name, err)
	}
	return cluster.IsPaused(), nil
}

func (s *state) hasEarlier() bool {
	return s.exists && slices.ContainsFunc(s.holdings, func(h *holding) bool {
		return h.isOfEarlierMachine(s.machineState)
	})
}

func (s *state) clusterOf(h *holding) string {
	if s.exists {
		return s.object.Labels[clusterv1.ClusterNameLabel]
	}
	if h.claim != nil {
		return h.claim.GetLabels()[clusterv1.ClusterNameLabel]
	}
	if h.address != nil {
		return h.address.GetLabels()[clusterv1.ClusterNameLabel]
	}
	return ""
}

// sharedWith names another machine that has the address on a device, and may have
// it from the same pool: one in this namespace, or in any if the pool is for all.
func (r *Reconciler) sharedWith(ctx context.Context, key types.NamespacedName, s *state, h *holding) (string, error) {
	if h.address == nil {
		return "", nil
	}
	ip, err := netip.ParseAddr(h.address.IP)
	if err != nil {
		return "", nil //nolint:nilerr // a machine cannot hold what is not an address
	}
	place := capi.Place{IP: ip.Unmap(), Network: s.networkOf(ip.Unmap())}
	search := allocator.Search{Cache: r.client, Live: r.live}
	machines, err := search.MachinesIn(ctx, key.Namespace, key, place)
	if err == nil && len(machines) == 0 {
		machines, err = r.machinesBeyond(ctx, search, key, place, h.address.Pool)
	}
	if err != nil || len(machines) == 0 {
		return "", err
	}
	return machines[0].Name, nil
}

// machinesBeyond are those with an address in all namespaces, if the pool has none
// itself. Which scope a kind of pools has may cost a question, so that it is asked only
// where there is such a machine.
func (r *Reconciler) machinesBeyond(ctx context.Context, search allocator.Search, key types.NamespacedName, place capi.Place, pool ipam.PoolReference) ([]allocator.User, error) {
	elsewhere, err := search.HasElsewhere(ctx, key, place)
	if err != nil || !elsewhere {
		return nil, err
	}
	namespace, err := r.recreation().NamespaceOf(key.Namespace, pool)
	if err != nil || namespace != metav1.NamespaceAll {
		return nil, err
	}
	return search.MachinesIn(ctx, metav1.NamespaceAll, key, place)
}

// networkOf is the network on which the machine has an address, empty if that is
// not known.
func (s *state) networkOf(ip netip.Addr) string {
	if !s.exists {
		return ""
	}
	for _, place := range s.object.Addresses() {
		if place.IP == ip {
			return place.Network
		}
	}
	return ""
}

// isBusy tells whether many requests wait for the provider of a claim that is to
// be adopted, or made, on the same pool.
func (r *Reconciler) isBusy(ctx context.Context, h *holding) (bool, error) {
	var pool ipam.PoolReference
	switch {
	case h.isTaken():
		pool = h.address.Pool
	case h.claim != nil && len(h.claim.GetOwnerReferences()) == 0:
		pool = h.claim.Pool
	default:
		return false, nil
	}
	claim := ipam.EmptyClaim(r.providers.For(pool))
	claims, err := kube.List(ctx, r.client, claim, client.InNamespace(h.requested().GetNamespace()),
		client.MatchingFields{waiting: pool.String()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("listing the claims that wait: %w", err)
	}
	count := 0
	for _, claim := range claims {
		if r.isWaitedFor(claim) {
			count++
		}
	}
	return count >= busyClaims, nil
}

// isWaitedFor tells whether a request may still wait for a claim: one has used it no
// longer ago than requests take. The stamp is by the clock of another replica, which
// may be ahead by as much.
func (r *Reconciler) isWaitedFor(claim client.Object) bool {
	stamp, err := ipam.StampOf(claim)
	return err == nil && r.now().Sub(stamp.Time).Abs() < maxWebhookTimeout
}

// isAbandoned tells whether the claim is being deleted and never will be. It is asked
// at every event on the way of a released claim, so the API server is asked only where
// the cache has no pool.
func (r *Reconciler) isAbandoned(ctx context.Context, h *holding) (bool, error) {
	if h.claim == nil || h.claim.GetDeletionTimestamp().IsZero() {
		return false, nil
	}
	return ipam.Abandons(ctx, r.client, r.live, r.providers.For(h.claim.Pool), *h.claim)
}

package endpoint

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// state is the VSphereCluster of one name and everything that is or was its own.
type state struct {
	clusterState
	frost
	key types.NamespacedName
	// object is the VSphereCluster, nil if it does not exist.
	object *capi.VSphereCluster
	// cluster is the name of its Cluster, empty if that does not exist.
	cluster  string
	holdings []*holding
}

// observe reads the state. A VSphereCluster that is being deleted is read from the API
// server: what follows frees its address. That it does not exist is the word of the cache;
// before a step that trusts in it, decide asks.
func (r *reconciler) observe(ctx context.Context, key types.NamespacedName) (*state, error) {
	s := &state{key: key}
	if err := r.observeCluster(ctx, s, r.client); err != nil {
		return nil, err
	}
	if s.deleting {
		if err := r.observeCluster(ctx, s, r.live); err != nil {
			return nil, err
		}
	}
	if err := r.observeHoldings(ctx, s); err != nil {
		return nil, err
	}
	r.observeBinding(s)
	if err := r.observePause(ctx, s); err != nil {
		return nil, err
	}
	return s, r.observeCoolDowns(ctx, s)
}

func (r *reconciler) observeCluster(ctx context.Context, s *state, reader client.Reader) error {
	s.clusterState, s.object = clusterState{holder: ipam.Holder{Kind: ipam.OfCluster, Name: s.key.Name}}, nil
	s.departed = r.memory.hasDeparted(s.key)
	object := &capi.VSphereCluster{}
	if err := reader.Get(ctx, s.key, object); err != nil {
		if kube.IsAbsent(err) {
			return nil
		}
		return fmt.Errorf("reading the VSphereCluster: %w", err)
	}
	s.object, s.exists, s.departed = object, true, false
	r.memory.forgetDeparture(s.key)
	s.deleting = !object.DeletionTimestamp.IsZero()
	s.done = allocator.IsDone(object)
	s.moving = capi.IsMoving(object)
	s.host = capi.ParseAddress(object.Spec.ControlPlaneEndpoint.Host)
	return nil
}

// observeHoldings collects the claims and addresses that name the VSphereCluster.
func (r *reconciler) observeHoldings(ctx context.Context, s *state) error {
	for _, provider := range r.providers {
		claims, err := r.listNaming(ctx, s.key, ipam.EmptyClaim(provider))
		if err != nil {
			return fmt.Errorf("listing claims: %w", err)
		}
		addresses, err := r.listNaming(ctx, s.key, ipam.EmptyAddress(provider))
		if err != nil {
			return fmt.Errorf("listing addresses: %w", err)
		}
		for _, obj := range claims {
			claim := provider.ReadClaim(obj)
			h := &holding{claim: &claim, seen: r.memory.see(obj, r.now())}
			if h.address, err = r.addressOf(ctx, provider, claim); err != nil {
				return err
			}
			s.holdings = append(s.holdings, h)
		}
		for _, obj := range addresses {
			address := provider.ReadAddress(obj)
			s.add(address)
		}
	}
	for _, h := range s.holdings {
		if h.claim == nil && h.address != nil {
			h.seen = r.memory.see(h.address, r.now())
			h.foreign = !r.providers.OfAddress(h.address.Object).HasOnlyOwnFinalizers(h.address.Object)
		}
	}
	return nil
}

// add adds an address that names the VSphereCluster, unless a holding has it. It may answer
// a claim that does not name it yet: a move and a restore take that from the claim. Or a
// claim of its name was made anew for it, and waits.
func (s *state) add(address ipam.Address) {
	isEndpoint := s.exists && s.host.IsValid() && capi.ParseAddress(address.IP) == s.host
	for _, h := range s.holdings {
		switch {
		case h.address != nil && h.address.GetUID() == address.GetUID():
			return
		case h.address == nil && h.claim != nil && (ipam.Answers(address, h.claim.GetUID()) ||
			isEndpoint && h.claim.Address == "" && h.claim.GetName() == address.Claim && h.claim.Pool == address.Pool):
			h.address = &address
			return
		}
	}
	s.holdings = append(s.holdings, &holding{address: &address})
}

// observeBinding finds out what the claim of the endpoint has to be, where that or its
// address is missing: by its address or, without one, by the VSphereCluster's own word.
// That counts only with a claim of a name that its claims have.
func (r *reconciler) observeBinding(s *state) {
	if !s.exists || !s.host.IsValid() {
		return
	}
	h := s.endpoint()
	if h == nil {
		bound, ok := (&machine.VSphereCluster{ObjectMeta: s.object.ObjectMeta}).Bound()
		if !ok || bound.Address.Addr() != s.host || laterTry.ReplaceAllString(bound.Claim, "") != s.key.Name {
			return
		}
		if h = s.claimed(bound); h == nil && s.deleting {
			return
		}
		if h == nil {
			h = &holding{}
			s.holdings = append(s.holdings, h)
		}
		h.bound = &bound
	} else {
		h.bound = &ipam.Binding{Pool: h.address.Pool, Claim: h.address.Claim, Address: prefixOf(s.host)}
	}
	h.requestable, h.placed = r.recreation().CanRequest(s.key.Namespace, *h.bound)
}

// endpoint is the holding with the address that is the endpoint, nil if there is none.
func (s *state) endpoint() *holding {
	i := slices.IndexFunc(s.holdings, func(h *holding) bool { return h.address != nil && h.isEndpointOf(s.clusterState) })
	if i < 0 {
		return nil
	}
	return s.holdings[i]
}

// claimed is the holding with the claim of a binding, whose address is missing, nil if
// there is none.
func (s *state) claimed(b ipam.Binding) *holding {
	i := slices.IndexFunc(s.holdings, func(h *holding) bool {
		return h.address == nil && h.claim != nil && h.claim.GetName() == b.Claim && h.claim.Pool == b.Pool
	})
	if i < 0 {
		return nil
	}
	return s.holdings[i]
}

// addressOf is the address that a claim names, nil if there is none.
func (r *reconciler) addressOf(ctx context.Context, provider ipam.Provider, claim ipam.Claim) (*ipam.Address, error) {
	if claim.Address == "" {
		return nil, nil
	}
	key := types.NamespacedName{Namespace: claim.GetNamespace(), Name: claim.Address}
	for _, reader := range []client.Reader{r.client, r.live} {
		obj := ipam.EmptyAddress(provider)
		err := reader.Get(ctx, key, obj)
		switch {
		case err == nil:
			address := provider.ReadAddress(obj)
			return &address, nil
		case !kube.IsAbsent(err):
			return nil, fmt.Errorf("reading address %s: %w", key, err)
		}
	}
	return nil, nil
}

// observePause finds the Cluster, and whether anything is paused.
func (r *reconciler) observePause(ctx context.Context, s *state) error {
	cluster, err := r.clusterOf(ctx, s)
	if err != nil {
		return err
	}
	if cluster != nil {
		s.cluster = cluster.Name
	}
	s.paused = s.exists && annotations.HasPaused(s.object) || cluster != nil && cluster.IsPaused()
	return nil
}

// clusterOf is the Cluster of the VSphereCluster, or of what is left of it, nil if it does
// not exist.
func (r *reconciler) clusterOf(ctx context.Context, s *state) (*capi.Cluster, error) {
	for _, name := range s.clusterNames() {
		cluster := &capi.Cluster{}
		err := r.client.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, cluster)
		if err == nil {
			return cluster, nil
		}
		if !kube.IsAbsent(err) {
			return nil, fmt.Errorf("reading Cluster %s: %w", name, err)
		}
	}
	clusters := &capi.ClusterList{}
	if err := r.client.List(ctx, clusters, client.InNamespace(s.key.Namespace)); err != nil {
		if kube.IsAbsent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("listing Clusters: %w", err)
	}
	for i := range clusters.Items {
		if clusters.Items[i].IsOn(s.key.Name) {
			return &clusters.Items[i], nil
		}
	}
	return nil, nil
}

func (s *state) clusterNames() []string {
	var labelled []client.Object
	if s.exists {
		labelled = append(labelled, s.object)
	}
	for _, h := range s.holdings {
		if h.claim != nil {
			labelled = append(labelled, h.claim.Object)
		}
		if h.address != nil {
			labelled = append(labelled, h.address.Object)
		}
	}
	var names []string
	for _, obj := range labelled {
		if name := obj.GetLabels()[clusterv1.ClusterNameLabel]; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (r *reconciler) listNaming(ctx context.Context, key types.NamespacedName, kind client.Object) ([]client.Object, error) {
	return kube.List(ctx, r.client, kind, client.InNamespace(key.Namespace), client.MatchingFields{byCluster: key.Name})
}

func (r *reconciler) search() allocator.Search {
	return allocator.Search{Cache: r.client, Live: r.live}
}

// prefixOf is an address of which no more than that is known.
func prefixOf(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

package allocator

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

const (
	// byRequester is the name of the cache index that finds claims by the owner of
	// the machine that they were made for, until they are adopted.
	byRequester = "capv-static-ip.dev/requested-by"
	// unadopted is the name of the cache index that finds, by pool, the claims that
	// no machine has adopted yet.
	unadopted = "capv-static-ip.dev/unadopted"

	// maxUnstored bounds the claims of one namespace on one pool whose machines
	// were not stored. It is more than are answered and not yet stored at a time.
	maxUnstored = 64
	// storingTime is what the API server may take to store a machine after the
	// answer, for the other webhooks and the write.
	storingTime = 500 * time.Millisecond
	// storedSoon is for how long a machine that was answered, and cannot be seen,
	// may be on its way to the caches. lookForStored is how often it is looked for.
	storedSoon    = 4 * storingTime
	lookForStored = 100 * time.Millisecond
)

// indexUnadopted indexes claims that no machine has adopted.
func indexUnadopted(provider ipam.Provider) map[string]client.IndexerFunc {
	return map[string]client.IndexerFunc{
		byRequester: func(claim client.Object) []string {
			if value := ipam.UnadoptedBy(claim); value != "" {
				return []string{value}
			}
			return nil
		},
		unadopted: func(claim client.Object) []string {
			if ipam.UnadoptedBy(claim) == "" {
				return nil
			}
			return []string{provider.ReadClaim(claim).Pool.String()}
		},
	}
}

// checkEarlier refuses a machine whose owner has been given an address already
// for a machine that was not stored: something after this webhook refused it, will
// refuse this one as well, and each would cost an address for the grace period.
// It also looks for claims that were kept for the owner, and has the attempt know of
// them.
func (a *Allocator) checkEarlier(ctx context.Context, req Request, attempt *Attempt) error {
	if req.Owner.UID == "" {
		return nil
	}
	for _, provider := range a.providers {
		objects, err := a.requested(ctx, provider, req)
		if err != nil {
			return fmt.Errorf("listing the claims for %s %s: %w", req.Owner.Kind, req.Owner.Name, err)
		}
		for _, obj := range objects {
			claim := provider.ReadClaim(obj)
			if ipam.MachineOf(obj) == req.Machine.Name {
				continue
			}
			if ipam.IsKeptFor(obj, req.Owner) {
				attempt.noteKept(claim)
				continue
			}
			if err := a.checkStored(ctx, req, claim); err != nil {
				return err
			}
		}
		if err := a.checkEarlierTaken(ctx, req, provider); err != nil {
			return err
		}
	}
	return nil
}

// checkEarlierTaken is checkEarlier for the addresses of a provider that were taken without
// it, and that have no claims yet.
func (a *Allocator) checkEarlierTaken(ctx context.Context, req Request, provider ipam.Provider) error {
	addresses, err := a.takenFor(ctx, provider, req)
	if err != nil {
		return fmt.Errorf("listing the addresses that were taken for %s %s: %w", req.Owner.Kind, req.Owner.Name, err)
	}
	for _, obj := range addresses {
		address := provider.ReadAddress(obj)
		key := types.NamespacedName{Namespace: obj.GetNamespace(), Name: address.Claim}
		if ipam.MachineOf(obj) == req.Machine.Name || a.underWay.has(key) {
			continue
		}
		stored, err := a.isStored(ctx, obj)
		if err != nil {
			return err
		}
		if !stored {
			return earlierNotStored(req, address.IP)
		}
	}
	return nil
}

// takenFor are the addresses that were taken for the owner of a request, and that no machine
// is known to be stored for, where that is counted.
func (a *Allocator) takenFor(ctx context.Context, provider ipam.Provider, req Request) ([]client.Object, error) {
	names, counted := a.Counts.Taken(provider, req.Machine.Namespace, req.Owner)
	if !counted {
		return kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(req.Machine.Namespace),
			client.MatchingFields{byRequester: ipam.RequestedBy(req.Owner)})
	}
	return a.cached(ctx, req.Machine.Namespace, names, func() client.Object { return ipam.EmptyAddress(provider) },
		func(obj client.Object) bool { return ipam.TakenFor(obj) == ipam.RequestedBy(req.Owner) })
}

// cached are the objects of these names that the cache has, and that are wanted.
func (a *Allocator) cached(ctx context.Context, namespace string, names []string, empty func() client.Object, wanted func(client.Object) bool) ([]client.Object, error) {
	var found []client.Object
	for _, name := range names {
		obj := empty()
		err := a.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, obj)
		switch {
		case kube.IsAbsent(err):
		case err != nil:
			return nil, err
		case wanted(obj):
			found = append(found, obj)
		}
	}
	return found, nil
}

// requested are the claims that were made for the owner of a request and that no machine has
// adopted. While many machines are made, nearly all of them wait for that, and of most it is
// known that their machines are stored: where that is counted, these are left out.
func (a *Allocator) requested(ctx context.Context, provider ipam.Provider, req Request) ([]client.Object, error) {
	names, counted := a.Counts.Requested(provider, req.Machine.Namespace, req.Owner)
	if !counted {
		return kube.List(ctx, a.client, ipam.EmptyClaim(provider), client.InNamespace(req.Machine.Namespace),
			client.MatchingFields{byRequester: ipam.RequestedBy(req.Owner)})
	}
	return a.cached(ctx, req.Machine.Namespace, names, func() client.Object { return ipam.EmptyClaim(provider) },
		func(obj client.Object) bool { return ipam.UnadoptedBy(obj) == ipam.RequestedBy(req.Owner) })
}

// checkStored refuses a request whose owner has a claim that was answered, and
// whose machine was not stored. A request that is under way here, and one that
// was not answered yet, have no say.
func (a *Allocator) checkStored(ctx context.Context, req Request, claim ipam.Claim) error {
	key := client.ObjectKeyFromObject(claim)
	if claim.Address == "" || claim.Failure != "" || a.underWay.has(key) {
		return nil
	}
	stored, err := a.isStored(ctx, claim.Object)
	if err != nil || stored {
		return err
	}
	provider := a.providers.For(claim.Pool)
	address := ipam.EmptyAddress(provider)
	err = a.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: claim.Address}, address)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading address %s/%s: %w", key.Namespace, claim.Address, err)
	}
	if !ipam.IsProtected(address) {
		return nil
	}
	return earlierNotStored(req, provider.ReadAddress(address).IP)
}

func earlierNotStored(req Request, ip string) error {
	return ipam.Refuse(ipam.MachineNotStored, "an earlier machine of %s %q was given %s and then refused by something after this webhook "+
		"(a policy, a quota, the schema): see what is said about it there, and correct that; the address comes back after the grace period",
		req.Owner.Kind, req.Owner.Name, ip)
}

// isStored tells whether the machine of a claim, or of an address that was taken, exists.
// One that was answered a moment ago is given the time to be stored.
func (a *Allocator) isStored(ctx context.Context, claim client.Object) (bool, error) {
	key := types.NamespacedName{Namespace: claim.GetNamespace(), Name: ipam.MachineOf(claim)}
	stored, done := a.stored.subscribe(key)
	defer done()
	for _, reader := range []client.Reader{a.client, a.live} {
		exists, err := machineExists(ctx, reader, key)
		if err != nil || exists {
			return exists, err
		}
	}
	if stamp, err := ipam.StampOf(claim); err == nil && time.Since(stamp.Time) < storedSoon {
		timer := time.NewTimer(storingTime)
		defer timer.Stop()
		select {
		case <-stored:
		case <-timer.C:
		case <-ctx.Done():
		}
		return machineExists(ctx, a.live, key)
	}
	return false, nil
}

// checkUnstored refuses a request when there are as many claims as there may be
// whose machines were not stored, whoever they were made for.
func (a *Allocator) checkUnstored(ctx context.Context, al *allocation) error {
	if al.isStored() {
		return nil
	}
	unstored, _, err := a.unstored(ctx, al)
	if err != nil || unstored < maxUnstored {
		return err
	}
	return tooManyUnstored(al)
}

// awaitStored is checkUnstored for a request that is about to claim. Machines that
// were answered a moment ago may all be refused, or all be stored: while they tip
// the balance, it waits for them.
func (a *Allocator) awaitStored(ctx context.Context, al *allocation) error {
	if al.isStored() {
		return nil
	}
	again := time.NewTicker(lookForStored)
	defer again.Stop()
	for {
		unstored, settling, err := a.unstored(ctx, al)
		switch {
		case err != nil:
			return err
		case unstored >= maxUnstored:
			return tooManyUnstored(al)
		case unstored+settling < maxUnstored:
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return notBoundInTime(al)
		}
	}
}

// unstored counts the claims of a namespace on a pool whose machines were not
// stored, and apart from these the ones that were answered a moment ago. Those of
// requests that are under way here are neither.
func (a *Allocator) unstored(ctx context.Context, al *allocation) (unstored, settling int, err error) {
	if count, counted := a.Counts.Unstored(al.provider, al.Machine.Namespace, al.want.Pool); counted && count < maxUnstored {
		return 0, 0, nil
	}
	waiting, err := a.unadopted(ctx, al)
	if err != nil || len(waiting) < maxUnstored {
		return 0, 0, err
	}
	for key, claim := range waiting {
		if a.underWay.has(key) {
			continue
		}
		exists, err := holderExists(ctx, a.client, key.Namespace, ipam.HolderOf(claim))
		switch {
		case err != nil:
			return 0, 0, err
		case exists:
		case a.underWay.isSettling(key), time.Since(claim.GetCreationTimestamp().Time) < 2*storedSoon:
			// When another replica answers is not known here; as a rule soon.
			settling++
		default:
			unstored++
		}
	}
	return unstored, settling, nil
}

// unadopted are the claims of a namespace on a pool that no machine has adopted, and the
// addresses that were taken for claims which are not made yet, by the key of the claim.
func (a *Allocator) unadopted(ctx context.Context, al *allocation) (map[types.NamespacedName]client.Object, error) {
	found := map[types.NamespacedName]client.Object{}
	for _, kind := range []client.Object{ipam.EmptyAddress(al.provider), ipam.EmptyClaim(al.provider)} {
		objects, err := kube.List(ctx, a.client, kind, client.InNamespace(al.Machine.Namespace),
			client.MatchingFields{unadopted: al.want.Pool.String()}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("listing the claims on %s: %w", al.want.Pool, err)
		}
		for _, obj := range objects {
			key := client.ObjectKeyFromObject(obj)
			if ipam.IsTaken(obj) {
				key.Name = al.provider.ReadAddress(obj).Claim
			}
			found[key] = obj
		}
	}
	return found, nil
}

func tooManyUnstored(al *allocation) error {
	return ipam.Refuse(ipam.MachineNotStored, "%d machines in namespace %q were given addresses of %s and then refused by something after this webhook "+
		"(a policy, a quota, the schema): correct that; the addresses come back after the grace period",
		maxUnstored, al.Machine.Namespace, al.poolName())
}

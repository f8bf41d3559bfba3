package allocator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachines,verbs=get;list;watch

// Allocator claims addresses for machines that are being admitted.
type Allocator struct {
	providers ipam.Providers
	// client writes; its reads come from the cache.
	client client.Client
	// live reads from the API server, where a stale answer would do harm.
	live client.Reader
	// bound wakes by claim, full by pool, stored by machine.
	bound, full, stored notifier
	// queue are those of the requests that want to claim from a pool.
	queue queue
	// underWay are the claims of the requests that are being answered here.
	underWay underWay
	// promised are the addresses that were answered here a moment ago.
	promised promised
}

// New makes an Allocator. Writes go through c, whose reads come from informers
// of the providers' kinds; live reads past them. Its Sources must be started,
// or requests wait until their deadline.
func New(providers ipam.Providers, c client.Client, live client.Reader) *Allocator {
	return &Allocator{providers: providers, client: c, live: live}
}

// Check checks that every pool in the request exists, is served, and has a free
// address for each claim that does not exist yet. It changes nothing. It
// returns a Refusal if the request cannot be served.
func (a *Allocator) Check(ctx context.Context, req Request) error {
	_, err := a.pools(ctx, req)
	return err
}

// Claim binds an address for every want of the request, or fails. All pools
// are checked before the first claim is made, so that a refusal does not drain
// the healthy ones. It waits for the provider until the context's deadline.
//
// Claims made by a call that failed are left for TakeBack. The errors are a
// Refusal, ErrMachineExists, or what the API server said.
func (a *Allocator) Claim(ctx context.Context, req Request) ([]ipam.Binding, error) {
	if err := a.checkNoMachine(ctx, req.Machine); err != nil {
		return nil, err
	}
	if err := a.checkEarlier(ctx, req); err != nil {
		return nil, err
	}
	pools, err := a.pools(ctx, req)
	if err != nil {
		return nil, err
	}
	for i, want := range req.Wants {
		if slices.ContainsFunc(req.Wants[:i], func(earlier ipam.Want) bool { return earlier.Pool == want.Pool }) {
			continue
		}
		if err := a.checkUnstored(ctx, req, pools[want.Pool]); err != nil {
			return nil, err
		}
	}
	req.way = &way{underWay: &a.underWay}
	defer req.way.end()
	bindings := make([]ipam.Binding, 0, len(req.Wants))
	for i := range req.Wants {
		binding, err := a.bind(ctx, req, &req.Wants[i], pools[req.Wants[i].Pool])
		if err != nil {
			return nil, err
		}
		if err := checkDistinct(bindings, binding); err != nil {
			return nil, err
		}
		bindings = append(bindings, binding)
	}
	return bindings, nil
}

// checkDistinct refuses an address that another device of the machine has been
// given: some providers have one address for each host name.
func checkDistinct(bindings []ipam.Binding, next ipam.Binding) error {
	for _, b := range bindings {
		if b.Address.Addr() == next.Address.Addr() && capi.SameNetwork(b.Device.NetworkName, next.Device.NetworkName) {
			return ipam.Refuse(ipam.AddressRepeated, "%s %q answered with one address for device %d and for device %d: name different pools for them",
				next.Pool.Kind, next.Pool.Name, b.Device.Index, next.Device.Index)
		}
	}
	return nil
}

// checkNoMachine returns ErrMachineExists if a machine of this name lives. The
// cache may be behind: a claim that exists already makes ensureClaim ask again.
func (a *Allocator) checkNoMachine(ctx context.Context, machine ipam.Machine) error {
	exists, err := machineExists(ctx, a.client, machine.NamespacedName)
	if err != nil || !exists {
		return err
	}
	return a.checkNoLiveMachine(ctx, machine)
}

func (a *Allocator) checkNoLiveMachine(ctx context.Context, machine ipam.Machine) error {
	exists, err := machineExists(ctx, a.live, machine.NamespacedName)
	if err != nil {
		return err
	}
	if exists {
		return ErrMachineExists
	}
	return nil
}

func machineExists(ctx context.Context, reader client.Reader, key types.NamespacedName) (bool, error) {
	err := reader.Get(ctx, key, &capi.VSphereMachine{})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading VSphereMachine %s: %w", key, err)
	}
	return err == nil, nil
}

// pools reads the pools of a request and checks that they have room. What the
// cache refuses is asked again of the API server: a pool may have been made, or
// an address freed, a moment ago.
func (a *Allocator) pools(ctx context.Context, req Request) (map[ipam.PoolReference]ipam.Pool, error) {
	pools, err := a.poolsFrom(ctx, a.client, req)
	if _, refused := ipam.AsRefusal(err); refused {
		return a.poolsFrom(ctx, a.live, req)
	}
	return pools, err
}

func (a *Allocator) poolsFrom(ctx context.Context, reader client.Reader, req Request) (map[ipam.PoolReference]ipam.Pool, error) {
	pools := map[ipam.PoolReference]ipam.Pool{}
	fresh := map[ipam.PoolReference][]string{}
	for _, want := range req.Wants {
		if _, known := pools[want.Pool]; !known {
			pool, err := a.providers.Pool(ctx, reader, req.Machine, want)
			if err != nil {
				return nil, ipam.WithShortage(err, ipam.Shortage{Pool: want.Pool, Needed: req.countOf(want.Pool)})
			}
			pools[want.Pool] = pool
		}
		exists, err := a.claimExists(ctx, reader, req, want)
		if err != nil {
			return nil, err
		}
		if !exists {
			fresh[want.Pool] = append(fresh[want.Pool], req.claimKey(want).Name)
		}
	}
	for _, want := range req.Wants {
		pool := pools[want.Pool]
		if pool.Free == nil {
			continue
		}
		if free, needed := pool.Free(fresh[want.Pool]); free < needed {
			return nil, exhausted(pool, free, needed)
		}
	}
	return pools, nil
}

func exhausted(pool ipam.Pool, free, needed uint64) error {
	more := ""
	if needed > 1 {
		more = fmt.Sprintf(" and the machine needs %d", needed)
	}
	name, lack := pool.Reference.In(pool.GetNamespace()), ipam.Shortage{Pool: pool.Reference, Needed: needed}
	if pool.Free == nil {
		return ipam.WithShortage(ipam.Refuse(ipam.PoolExhausted, "%s is exhausted: add addresses to the pool or delete a machine that holds one", name), lack)
	}
	return ipam.WithShortage(ipam.Refuse(ipam.PoolExhausted, "%s is exhausted: %d of %d addresses in use%s; add addresses to the pool or delete a machine that holds one",
		name, pool.Total-min(free, pool.Total), pool.Total, more), lack)
}

func (a *Allocator) claimExists(ctx context.Context, reader client.Reader, req Request, want ipam.Want) (bool, error) {
	key := req.claimKey(want)
	err := reader.Get(ctx, key, ipam.EmptyClaim(a.providers.For(want.Pool)))
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading claim %s: %w", key, err)
	}
	return err == nil, nil
}

// ErrMachineExists says that a machine of this name lives already: the API
// server will answer the create with a conflict, and the claims found belong
// to the living machine.
var ErrMachineExists = errors.New("a machine of this name exists")

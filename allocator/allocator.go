package allocator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/ledger"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachines,verbs=get;list;watch

// Allocator claims addresses for machines that are being admitted.
type Allocator struct {
	providers ipam.Providers
	// client writes; its reads come from the cache.
	client client.Client
	// live reads from the API server, where a stale answer would do harm.
	live client.Reader
	// ReuseAfter is for how long addresses cool down whose pools say nothing of that.
	ReuseAfter time.Duration
	// Freezer finds what is frozen.
	Freezer Freezer
	// Each of these wakes waiting requests, by the key of an object. bound: the claim, or
	// an address of it, has changed; full: the pool says that it is full; stored: the
	// machine has changed.
	bound, full, stored notifier
	// queue are those of the requests that want to claim from a pool.
	queue queue
	// TakesAddresses has addresses taken without their provider, where that is possible.
	TakesAddresses bool
	// taking are the requests that take an address, by its claim, and inFlight the addresses
	// that the cache does not have yet.
	taking   queue
	inFlight inFlight
	// underWay are the claims of the requests that are being answered here.
	underWay underWay
	// Counts are of the claims that wait. They are listed where it is nil, or does not know.
	Counts *ledger.Ledger
	// promised are the addresses that were answered here a moment ago.
	promised promised
}

// New makes an Allocator. Writes go through c, whose reads come from informers
// of the providers' kinds; live reads past them. Its Sources must be started,
// or requests wait until their deadline.
func New(providers ipam.Providers, c client.Client, live client.Reader) *Allocator {
	return &Allocator{providers: providers, client: c, live: live, taking: queue{places: 1}}
}

// Check checks that the request can be served now: that for every ask there is a pool
// that exists, is served, is for the machine, and has a free address for each claim that
// does not exist yet. It changes nothing. It returns a Refusal if there is none, and else
// what would be claimed, and warnings of pools that were named and cannot be used.
func (a *Allocator) Check(ctx context.Context, req Request) (warnings []string, err error) {
	attempt := a.attempt(req)
	if err := a.plan(ctx, attempt); err != nil {
		return nil, err
	}
	return slices.Concat(attempt.preview(), attempt.Warnings), nil
}

// Claim binds an address for every ask of the request, or fails. All pools are chosen
// before the first claim is made, and all claims are made before the first is waited
// for, so that a refusal does not drain the healthy ones. It waits for the providers
// until the context's deadline.
//
// Claims made by an attempt that failed are left for TakeBack, and those of a stored
// machine to the machine, whose next request finds them. The errors are a Refusal,
// ErrMachineExists or ErrMachineGone, or what the API server said.
func (a *Allocator) Claim(ctx context.Context, req Request) (*Attempt, error) {
	attempt := a.attempt(req)
	return attempt, a.serve(ctx, req, attempt)
}

func (a *Allocator) serve(ctx context.Context, req Request, attempt *Attempt) error {
	if err := a.checkMachine(ctx, req); err != nil {
		return err
	}
	if err := a.unprotectLeft(ctx, req); err != nil {
		return err
	}
	if err := a.checkEarlier(ctx, req, attempt); err != nil {
		return err
	}
	if err := a.noteOwn(ctx, req, attempt); err != nil {
		return err
	}
	if err := a.plan(ctx, attempt); err != nil {
		return err
	}
	for _, al := range attempt.byPool() {
		if err := a.checkUnstored(ctx, al); err != nil {
			return err
		}
	}
	turns, err := a.takeTurns(ctx, attempt)
	if err != nil {
		return err
	}
	defer turns.end()
	// All claims count as under way until the last of them is bound.
	claims := &requestClaims{underWay: &a.underWay}
	defer claims.end()
	return a.bindAll(ctx, attempt, claims)
}

// checkDistinct refuses an address that the machine has been given already: some
// providers have one address for each host name, and pools may overlap.
func checkDistinct(bindings []ipam.Binding, next ipam.Binding, namespace string) error {
	for _, b := range bindings {
		if b.Address.Addr() == next.Address.Addr() && b.Device.Index == next.Device.Index && b.Pool != next.Pool {
			return ipam.Refuse(ipam.InvalidAddress, "%s %q and %s %q in namespace %q overlap: both gave the same address; correct one of them",
				b.Pool.Kind, b.Pool.Name, next.Pool.Kind, next.Pool.Name, namespace)
		}
		if b.Address.Addr() == next.Address.Addr() && capi.SameNetwork(b.Device.NetworkName, next.Device.NetworkName) {
			return ipam.Refuse(ipam.AddressRepeated, "%s %q answered with one address for device %d and for device %d: name different pools for them",
				next.Pool.Kind, next.Pool.Name, b.Device.Index, next.Device.Index)
		}
	}
	return nil
}

// checkMachine returns ErrMachineExists if a machine is being admitted whose name
// another one has. The cache may be behind: a claim that exists already makes
// ensureClaim ask again.
func (a *Allocator) checkMachine(ctx context.Context, req Request) error {
	if !req.isStored() {
		exists, err := holderExists(ctx, a.client, req.Machine.Namespace, req.Machine.Holder())
		if err != nil || !exists {
			return err
		}
	}
	return a.checkMachineInAPI(ctx, req)
}

// checkMachineInAPI asks the API server: a machine that is being admitted must not
// exist, or it returns ErrMachineExists; one that is stored must, or it returns
// ErrMachineGone.
func (a *Allocator) checkMachineInAPI(ctx context.Context, req Request) error {
	if req.isStored() {
		return a.checkStoredMachine(ctx, req)
	}
	exists, err := holderExists(ctx, a.live, req.Machine.Namespace, req.Machine.Holder())
	if err != nil {
		return err
	}
	if exists {
		return ErrMachineExists
	}
	return nil
}

// holderExists tells whether there is a machine, or a VSphereCluster, of a name.
func holderExists(ctx context.Context, reader client.Reader, namespace string, holder ipam.Holder) (bool, error) {
	key := types.NamespacedName{Namespace: namespace, Name: holder.Name}
	if holder.Kind == ipam.OfMachine {
		return machineExists(ctx, reader, key)
	}
	err := reader.Get(ctx, key, &capi.VSphereCluster{})
	if err != nil && !kube.IsAbsent(err) {
		return false, fmt.Errorf("reading VSphereCluster %s: %w", key, err)
	}
	return err == nil, nil
}

func machineExists(ctx context.Context, reader client.Reader, key types.NamespacedName) (bool, error) {
	err := reader.Get(ctx, key, &capi.VSphereMachine{})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading VSphereMachine %s: %w", key, err)
	}
	return err == nil, nil
}

// ErrMachineExists says that there is a machine of this name already, living or on its
// way out: the create conflicts with it, and the claims found belong to it.
var ErrMachineExists = errors.New("a machine of this name exists")

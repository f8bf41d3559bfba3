package allocator

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

var machineSet = ipam.Owner{Kind: "MachineSet", Name: "md", UID: "set", User: "capi"}

// earlier is what a request of machineSet has left: the claim of the machine cp-9, and
// its protected address. The machine was not stored.
type earlier struct {
	claim   *ipamv1.IPClaim
	address *ipamv1.IPAddress
	// others are there beside these.
	others   []client.Object
	underWay bool
	// next is the request that comes now, for the machine cp-0.
	next Request
}

func earlierOf(answered time.Time) *earlier {
	e := &earlier{claim: claimNamed("cp-9-0", "one"), address: &ipamv1.IPAddress{}, next: wanting("one")}
	e.next.Owner = machineSet
	e.claim.UID = "claim"
	ipam.Mark(e.claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-9"}})
	ipam.Use(e.claim, ipam.Stamp{Time: answered, Request: "earlier"})
	kube.SetAnnotation(e.claim, ipam.RequestedByAnnotation, ipam.RequestedBy(machineSet))
	kube.SetAnnotation(e.claim, ipam.DeviceAnnotation, "0")
	e.claim.Status.Address = &corev1.ObjectReference{Name: "one-10-0-0-10"}
	e.address.Namespace, e.address.Name, e.address.Finalizers = "ns", "one-10-0-0-10", []string{ipam.InUseFinalizer}
	e.address.Spec.Address = "10.0.0.10"
	return e
}

func (e *earlier) allocator(t *testing.T) *Allocator {
	t.Helper()
	a := played(t, append(e.others, e.claim, e.address)...)
	if e.underWay {
		a.underWay.add(client.ObjectKeyFromObject(e.claim))
	}
	return a
}

func storedMachine(name string) *capi.VSphereMachine {
	return &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func isRefusedFor(err error, reason ipam.Reason) bool {
	refusal, ok := ipam.AsRefusal(err)
	return ok && refusal.Reason == reason
}

func TestClaimThatWasKeptIsForTheNextMachineOfItsOwner(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		for name, test := range map[string]struct {
			change func(*earlier)
			used   bool
		}{
			"of the owner":                  {func(*earlier) {}, true},
			"of the owner, bound meanwhile": {func(e *earlier) { e.claim.Status.Address = &corev1.ObjectReference{Name: e.address.Name} }, true},
			"of the owner, and it failed":   {func(e *earlier) { failed(e.claim) }, false},
			"of another owner":              {func(e *earlier) { e.next.Owner.UID = "other" }, false},
			"of the owner, somebody else":   {func(e *earlier) { e.next.Owner.User = "somebody" }, false},
			"that was not kept":             {func(e *earlier) { delete(e.claim.Annotations, ipam.KeptAnnotation) }, false},
		} {
			t.Run(name, func(t *testing.T) {
				e := earlierOf(time.Now().Add(-time.Hour))
				e.claim.Status.Address = nil
				kube.SetAnnotation(e.claim, ipam.KeptAnnotation, "")
				test.change(e)
				a := e.allocator(t)
				prepare(t, a)
				attempt := a.attempt(e.next)

				if err := a.checkEarlier(t.Context(), e.next, attempt); err != nil {
					t.Fatalf("refused: %v", err)
				}
				if kept := attempt.allocations[0].kept; (len(kept) == 1) != test.used || test.used && kept[0].GetName() != "cp-9-0" {
					t.Errorf("it knows of %v, want the claim that was kept: %t", kept, test.used)
				}
			})
		}
	})
}

// Whatever refuses the machines of an owner will refuse the next one, too.
func TestOwnerWhoseEarlierMachineWasNotStoredIsRefused(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		gone := metav1.Now()
		for name, test := range map[string]struct {
			change  func(*earlier)
			refused bool
		}{
			"answered, and not stored":  {func(*earlier) {}, true},
			"stored":                    {func(e *earlier) { e.others = append(e.others, storedMachine("cp-9")) }, false},
			"not bound yet":             {func(e *earlier) { e.claim.Status.Address = nil }, false},
			"bound and failed":          {func(e *earlier) { e.claim.Status.ErrorMessage = new("it failed") }, false},
			"its address not protected": {func(e *earlier) { e.address.Finalizers = nil }, false},
			"its address gone":          {func(e *earlier) { e.address.Name = "another" }, false},
			"under way here":            {func(e *earlier) { e.underWay = true }, false},
			"the same machine's":        {func(e *earlier) { kube.SetAnnotation(e.claim, ipam.MachineNameAnnotation, "cp-0") }, false},
			"nobody's machine":          {func(e *earlier) { delete(e.claim.Annotations, ipam.MachineNameAnnotation) }, false},
			"of another owner":          {func(e *earlier) { kube.SetAnnotation(e.claim, ipam.RequestedByAnnotation, "other.0") }, false},
			"of another namespace":      {func(e *earlier) { e.claim.Namespace, e.address.Namespace = "other", "other" }, false},
			"adopted":                   {func(e *earlier) { e.claim.OwnerReferences = []metav1.OwnerReference{{Name: "cp-9", UID: "uid"}} }, false},
			"of no owner": {func(e *earlier) {
				kube.SetAnnotation(e.claim, ipam.RequestedByAnnotation, "none")
				e.next.Owner = ipam.Owner{}
			}, false},
			"its claim is being deleted":  {func(e *earlier) { e.claim.DeletionTimestamp, e.claim.Finalizers = &gone, []string{"any"} }, false},
			"adopted, and left by a move": {func(e *earlier) { delete(e.claim.Annotations, ipam.RequestedByAnnotation) }, false},
		} {
			t.Run(name, func(t *testing.T) {
				e := earlierOf(time.Now().Add(-time.Hour))
				test.change(e)
				a := e.allocator(t)
				prepare(t, a)

				err := a.checkEarlier(t.Context(), e.next, a.attempt(e.next))

				if refused := isRefusedFor(err, ipam.MachineNotStored); refused != test.refused || !refused && err != nil {
					t.Errorf("got error %v, want a refusal %s: %t", err, ipam.MachineNotStored, test.refused)
				}
			})
		}
	})
}

// The API server has yet to store a machine that was answered a moment ago.
func TestMachineThatWasAnsweredAMomentAgoIsGivenTheTimeToBeStored(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*earlier)
		// store is what happens while the request waits.
		store   func(context.Context, *testing.T, *Allocator)
		waited  time.Duration
		refused bool
	}{
		"it comes": {store: func(ctx context.Context, t *testing.T, a *Allocator) {
			t.Helper()
			if err := a.client.Create(ctx, storedMachine("cp-9")); err != nil {
				t.Error(err)
			}
			a.noteStored(storedMachine("cp-9"))
		}},
		"it comes, and the watch is behind": {store: func(ctx context.Context, t *testing.T, a *Allocator) {
			t.Helper()
			if err := a.client.Create(ctx, storedMachine("cp-9")); err != nil {
				t.Error(err)
			}
		}, waited: storingTime},
		"it does not come": {waited: storingTime, refused: true},
		"it was answered some time ago": {change: func(e *earlier) {
			ipam.Use(e.claim, ipam.Stamp{Time: time.Now().Add(-time.Minute), Request: "earlier"})
		}, refused: true},
		"it was not answered yet": {change: func(e *earlier) { e.claim.Status.Address = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				e := earlierOf(start)
				if test.change != nil {
					test.change(e)
				}
				a := e.allocator(t)
				result := make(chan error, 1)
				go func() { result <- a.checkEarlier(t.Context(), e.next, a.attempt(e.next)) }()
				synctest.Wait()
				if test.store != nil {
					test.store(t.Context(), t, a)
				}

				err := <-result
				if refused := isRefusedFor(err, ipam.MachineNotStored); refused != test.refused || !refused && err != nil {
					t.Errorf("got error %v, want a refusal %s: %t", err, ipam.MachineNotStored, test.refused)
				}
				if waited := time.Since(start); waited != test.waited {
					t.Errorf("it waited for %s, want %s", waited, test.waited)
				}
			})
		})
	}
}

// unstoredClaims are as many claims on pool one, made an hour ago, whose machines were
// not stored.
func unstoredClaims(count int) []*ipamv1.IPClaim {
	var claims []*ipamv1.IPClaim
	for i := range count {
		machine := fmt.Sprintf("md-%d", i)
		claim := claimNamed(ipam.ClaimName(machine, ipam.Slot{Device: 0}), "one")
		claim.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
		ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: machine}})
		kube.SetAnnotation(claim, ipam.RequestedByAnnotation, "none")
		claims = append(claims, claim)
	}
	return claims
}

// planned is an Allocator that has these claims, and a request for an address of pool
// one, planned.
func planned(t *testing.T, claims []*ipamv1.IPClaim, others ...client.Object) (*Allocator, *allocation) {
	t.Helper()
	objects := append([]client.Object{poolOf("one", "10.0.0.200")}, others...)
	for _, claim := range claims {
		objects = append(objects, claim)
	}
	a := played(t, objects...)
	attempt := a.attempt(wanting("one"))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	return a, attempt.allocations[0]
}

func TestClaimsOfAPoolWhoseMachinesWereNotStoredAreBounded(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		for name, test := range map[string]struct {
			count   int
			change  func(*ipamv1.IPClaim, *Allocator)
			refused bool
		}{
			"one less than the bound": {maxUnstored - 1, nil, false},
			"as many":                 {maxUnstored, nil, true},
			"as many, one is being answered here": {maxUnstored, func(c *ipamv1.IPClaim, a *Allocator) {
				a.underWay.add(client.ObjectKeyFromObject(c))
			}, false},
			"as many, one was answered here just now": {maxUnstored, func(c *ipamv1.IPClaim, a *Allocator) {
				a.underWay.add(client.ObjectKeyFromObject(c))()
			}, false},
		} {
			t.Run(name, func(t *testing.T) {
				claims := unstoredClaims(test.count)
				a, al := planned(t, claims)
				prepare(t, a)
				if test.change != nil {
					test.change(claims[0], a)
				}

				err := a.checkUnstored(t.Context(), al)

				if refused := isRefusedFor(err, ipam.MachineNotStored); refused != test.refused || !refused && err != nil {
					t.Errorf("got error %v, want a refusal %s: %t", err, ipam.MachineNotStored, test.refused)
				}
			})
		}
	})
}

func TestClaimOfAMachineThatMayBeStoredIsNoneOfThoseThatAreBounded(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		for name, test := range map[string]struct {
			change func(*ipamv1.IPClaim)
			others []client.Object
		}{
			"its machine was stored": {func(*ipamv1.IPClaim) {}, []client.Object{storedMachine("md-0")}},
			"made just now":          {func(c *ipamv1.IPClaim) { c.CreationTimestamp = metav1.Now() }, nil},
			"on another pool":        {func(c *ipamv1.IPClaim) { c.Spec.Pool.Name = "two" }, nil},
			"in another namespace":   {func(c *ipamv1.IPClaim) { c.Namespace = "other" }, nil},
			"adopted":                {func(c *ipamv1.IPClaim) { delete(c.Annotations, ipam.RequestedByAnnotation) }, nil},
		} {
			t.Run(name, func(t *testing.T) {
				claims := unstoredClaims(maxUnstored)
				test.change(claims[0])
				a, al := planned(t, claims, test.others...)
				prepare(t, a)

				if err := a.checkUnstored(t.Context(), al); err != nil {
					t.Errorf("refused: %v", err)
				}
			})
		}
	})
}

// Machines that were answered a moment ago may all be refused, or all be stored. While
// that decides whether there are too many, a request waits.
func TestRequestWaitsForMachinesThatMayBeStoredYet(t *testing.T) {
	for name, test := range map[string]struct {
		settling int
		// then is what happens while it waits.
		then   func(context.Context, *testing.T, *Allocator)
		reason ipam.Reason
		waits  bool
	}{
		"and goes on when one is": {settling: 1, then: func(ctx context.Context, t *testing.T, a *Allocator) {
			t.Helper()
			if err := a.client.Create(ctx, storedMachine("md-0")); err != nil {
				t.Error(err)
			}
		}, waits: true},
		"and is refused when none is": {settling: 1, reason: ipam.MachineNotStored, waits: true},
		"not if none may be":          {reason: ipam.MachineNotStored},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				claims := unstoredClaims(maxUnstored)
				for _, claim := range claims[:test.settling] {
					claim.CreationTimestamp = metav1.Now()
				}
				a, al := planned(t, claims)
				result := make(chan error, 1)
				go func() { result <- a.awaitStored(t.Context(), al) }()
				synctest.Wait()
				if waits := len(result) == 0; waits != test.waits {
					t.Fatalf("it waits: %t, want %t", waits, test.waits)
				}
				if test.then != nil {
					test.then(t.Context(), t, a)
				}

				err := <-result
				if test.reason == "" && err != nil || test.reason != "" && !isRefusedFor(err, test.reason) {
					t.Errorf("got error %v, want a refusal %q", err, test.reason)
				}
			})
		})
	}
}

func TestRequestThatWaitsForOtherMachinesEndsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claims := unstoredClaims(maxUnstored)
		claims[0].CreationTimestamp = metav1.Now()
		a, al := planned(t, claims)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()

		err := a.awaitStored(ctx, al)

		if !isRefusedFor(err, ipam.NotBoundInTime) || time.Since(start) != time.Second {
			t.Errorf("got error %v after %s, want a refusal %s after a second", err, time.Since(start), ipam.NotBoundInTime)
		}
	})
}

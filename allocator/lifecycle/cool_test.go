package lifecycle

import (
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// lasting is for how long addresses cool down here.
const lasting = 10 * time.Minute

func lastingFor(d time.Duration) option {
	return func(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.coolDown.Lasts = d }
}

func lingeringFor(d time.Duration) option {
	return func(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.coolDown.Lingers = d }
}
func poolGoes(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)  { h.coolDown.Over = true }
func unwatched(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.coolDown.Unwatched = true }
func withoutUID(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	delete(a.Annotations, ipam.MachineUIDAnnotation)
}

// cooled is the binding of a machine that is gone since then.
func cooled(ago time.Duration, options ...option) holding {
	return bound(append([]option{withoutAnnotation, lastingFor(lasting), func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		ipam.CoolClaim(c, ipam.Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}}, now.Add(-ago))
		ipam.CoolAddress(a, ipam.Holder{Name: "cp-0"}, now.Add(-ago))
	}}, options...)...)
}

// says makes both say since when they cool down.
func says(text string) option {
	return func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		kube.SetAnnotation(c, ipam.ReleasedAtAnnotation, text)
		kube.SetAnnotation(a, ipam.ReleasedAtAnnotation, text)
	}
}

// annotatedAgain is the binding of a machine that says so itself.
func annotatedAgain(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	h.annotated = bound().annotated
}

func TestAddressCoolsDownBeforeItIsReleased(t *testing.T) {
	for name, test := range map[string]struct {
		machine machineState
		holding holding
		want    step
	}{
		"of a machine that is done":                     {dying(), bound(lastingFor(lasting)), cool},
		"the pool says nothing":                         {dying(), bound(), release},
		"its VM is there":                               {dying(), bound(lastingFor(lasting), withVM), idle},
		"never adopted":                                 {dying(), bound(lastingFor(lasting), withoutOwner, withoutUID), cool},
		"not protected":                                 {dying(), bound(lastingFor(lasting), bare), cool},
		"not protected, and going":                      {dying(), bound(lastingFor(lasting), bare, terminatingAddress), release},
		"without an address":                            {dying(), bound(lastingFor(lasting), withoutAddress), release},
		"the pool goes":                                 {dying(), bound(lastingFor(lasting), poolGoes), release},
		"Cluster paused":                                {dying(), bound(lastingFor(lasting), paused), cool},
		"the provider keeps it for as long":             {dying(), bound(lastingFor(lasting), lingeringFor(lasting)), release},
		"the provider keeps it for less":                {dying(), bound(lastingFor(lasting), lingeringFor(lasting-time.Second)), cool},
		"claim going, which the provider counts from":   {dying(), bound(lastingFor(lasting), lingeringFor(lasting), terminatingClaim), cool},
		"claim gone":                                    {dying(), bound(lastingFor(lasting), withoutClaim), cool},
		"left by a machine":                             {absent(), bound(lastingFor(lasting), withoutAnnotation, terminatingClaim, held), cool},
		"left by a machine, claim gone":                 {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutClaim, terminatingAddress), cool},
		"left by a machine, its VM is there":            {absent(), bound(lastingFor(lasting), withoutAnnotation, terminatingClaim, held, withVM), idle},
		"left by a machine that moved":                  {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutClaim, terminatingAddress, movedAway), unprotect},
		"left by a machine, seen to move":               {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutClaim, terminatingAddress, seenMoved), unprotect},
		"of a request whose machine never came":         {absent(), bound(lastingFor(lasting), withoutAnnotation, terminatingClaim, held, withoutUID), unprotect},
		"of an earlier machine of the name":             {living(), bound(lastingFor(lasting), withoutClaim, withoutAnnotation, earlierUID, departed), cool},
		"of a claim that waited for its machine":        {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutOwner, usedBefore(restorePatience)), cool},
		"of a claim that somebody offered":              {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutOwner, takenOver, usedBefore(restorePatience)), handBack},
		"of a claim whose machine was never stored":     {absent(), bound(lastingFor(lasting), withoutAnnotation, withoutOwner, withoutUID, requested, usedBefore(grace)), reap},
		"of a machine that lives":                       {living(), bound(lastingFor(lasting)), adopt},
		"of a machine on which CAPV still works":        {machineState{name: "cp-0", exists: true, uid: "uid", deleting: true}, bound(lastingFor(lasting)), idle},
		"of a living machine, and somebody marked both": {living(), bound(lastingFor(lasting), says(now.Format(time.RFC3339))), adopt},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := decide(test.machine, test.holding, now, grace); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNextStepForWhatCoolsDown(t *testing.T) {
	const minute = time.Minute
	for name, test := range map[string]struct {
		machine machineState
		holding holding
		want    step
		wait    time.Duration
	}{
		"since now":                                   {absent(), cooled(0), idle, lasting},
		"since a while":                               {absent(), cooled(lasting - minute), idle, minute},
		"for as long as it has to":                    {absent(), cooled(lasting), release, 0},
		"for longer than the pool says by now":        {absent(), cooled(5*minute, lastingFor(3*minute)), release, 0},
		"and the pool says nothing any more":          {absent(), cooled(0, lastingFor(0)), release, 0},
		"and the pool goes":                           {absent(), cooled(0, poolGoes), release, 0},
		"in a pool that is not watched":               {absent(), cooled(0, unwatched), idle, time.Minute},
		"not much longer, in one that is not watched": {absent(), cooled(lasting-time.Second, unwatched), idle, time.Second},
		"and the Cluster is paused":                   {absent(), cooled(lasting, paused), idle, 0},
		"and the claim is being moved":                {absent(), cooled(lasting, movingClaim), idle, 0},
		"long enough, and a VM has it":                {absent(), cooled(lasting, withVM), idle, vmCheck},
		"and the provider keeps it for a while":       {absent(), cooled(0, lingeringFor(3*minute)), idle, 7 * minute},
		"until the provider keeps it":                 {absent(), cooled(7*minute, lingeringFor(3*minute)), release, 0},
		"claim going, the provider has kept it":       {absent(), cooled(7*minute, lingeringFor(3*minute), terminatingClaim, held), idle, 3 * minute},
		"claim going, for as long as it has to":       {absent(), cooled(lasting, terminatingClaim, held), release, 0},
		"claim going, released already":               {absent(), cooled(lasting, terminatingClaim, bare), idle, terminatingCheck},
		"claim gone":                                  {absent(), cooled(minute, withoutClaim, terminatingAddress), idle, lasting - minute},
		"claim gone, for as long as it has to":        {absent(), cooled(lasting, withoutClaim, terminatingAddress), release, 0},
		"claim gone with a move":                      {absent(), cooled(lasting, withoutClaim, seenMoved), release, 0},
		"address gone":                                {absent(), cooled(minute, withoutAddress), idle, lasting - minute},
		"since the future, seen just now":             {absent(), cooled(-time.Hour, seenBefore(0)), idle, lasting},
		"since the future, seen for long":             {absent(), cooled(-time.Hour, seenBefore(lasting)), release, 0},
		"since nobody knows when, seen just now":      {absent(), cooled(0, says("yesterday"), seenBefore(minute)), idle, lasting - minute},
		"a machine of the name lives without it":      {living(), cooled(0), idle, lasting},
		"that machine has the address by hand":        {living(), cooled(lasting, onDevice), idle, vmCheck},
		"that machine was stored without it":          {living(), cooled(lasting), release, 0},
		"that machine brings the binding along":       {living(), cooled(0, annotatedAgain), adopt, 0},
		"that machine brings no more than the record": {living(), cooled(0, annotatedAgain, offDevice), idle, lasting},
		"its machine is done, and still there":        {dying(), cooled(0, annotatedAgain), cool, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, wait := decide(test.machine, test.holding, now, grace); got != test.want || wait != test.wait {
				t.Errorf("got %q after %s, want %q after %s", got, wait, test.want, test.wait)
			}
		})
	}
}

// An address that clusterctl has left is in use elsewhere, unless it cooled down.
func TestAddressThatHasCooledDownIsFreedAlthoughItsClaimMoved(t *testing.T) {
	if got := decideFate(absent(), cooled(lasting, withoutClaim, seenMoved)); got != lost {
		t.Errorf("got %v, want %v", got, lost)
	}
}

// poolThatCools is the pool of the claims here.
func poolThatCools(text string) *ipamv1.IPPool {
	return &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool", Annotations: map[string]string{ipam.ReuseAfterAnnotation: text}}}
}

func done(m *capi.VSphereMachine) {
	m.DeletionTimestamp, m.Finalizers = &deleted, []string{ipam.ReleaseFinalizer}
}

// adopted is the claim of cp-0.
func adopted(c *ipamv1.IPClaim) {
	delete(c.Annotations, ipam.RequestedByAnnotation)
	c.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp-0", UID: "uid"}}
	c.Finalizers = []string{ipam.InUseFinalizer}
	c.Status.Address = &corev1.ObjectReference{Name: "pool-10-0-0-1"}
}

func TestMachineGoesWhileItsAddressCoolsDown(t *testing.T) {
	claim, address := unused(adopted), answering(adoptedOnce)
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), done)
	r := reconciler(t, claim, address, machine, poolThatCools("10m"))
	r.events = events.NewFakeRecorder(10)
	r.at(now)

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the machine is there: %v", err)
	}
	r.expectCooling(t, claim, address)
	if _, moves := claim.Labels[clusterctlv1.ClusterctlMoveLabel]; !moves || !slices.Contains(claim.Finalizers, ipam.InUseFinalizer) {
		t.Errorf("the claim has the labels %v and the finalizers %v", claim.Labels, claim.Finalizers)
	}

	r.at(now.Add(lasting - time.Second))
	r.settle(t.Context(), t)
	r.expectCooling(t, claim, address)
	r.at(now.Add(lasting))
	r.settle(t.Context(), t)
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err == nil {
		t.Errorf("the claim is there, with the annotations %v", claim.Annotations)
	}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) || ipam.IsReleased(address) {
		t.Errorf("the address has the finalizers %v and the annotations %v, error %v", address.Finalizers, address.Annotations, err)
	}
}

func (r *Reconciler) expectCooling(t *testing.T, claim, address client.Object) {
	t.Helper()
	for _, obj := range []client.Object{claim, address} {
		if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Fatal(err)
		}
		at, released := ipam.ReleasedAt(obj)
		if uid := obj.GetAnnotations()[ipam.MachineUIDAnnotation]; !released || !at.Equal(now) || uid != "" || ipam.MachineOf(obj) != "cp-0" || capi.OwnerMachine(obj).Name != "" {
			t.Errorf("%T has the annotations %v and the owners %v", obj, obj.GetAnnotations(), obj.GetOwnerReferences())
		}
	}
}

// The cache may not have the VM yet that CAPV has made.
func TestNothingCoolsDownWhileAVirtualMachineIsThere(t *testing.T) {
	claim, address := unused(adopted), answering(adoptedOnce)
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), done)
	vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", OwnerReferences: claim.OwnerReferences}}
	r := reconciler(t, claim, address, machine, poolThatCools("10m"))
	r.behind(t, claim, address, machine, vm, poolThatCools("10m"))
	r.events = events.NewFakeRecorder(10)
	r.at(now)

	r.settle(t.Context(), t)

	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsReleased(address) {
		t.Errorf("the address has the annotations %v, error %v", address.Annotations, err)
	}
}

// A leader that was interrupted between the two writes makes the second one.
func TestCoolDownThatWasInterruptedIsBegunAnew(t *testing.T) {
	claim, address := unused(adopted), answering()
	ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, now.Add(-time.Minute))
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), done)
	r := reconciler(t, claim, address, machine, poolThatCools("10m"))
	r.events = events.NewFakeRecorder(10)
	r.at(now)

	r.settle(t.Context(), t)

	r.expectCooling(t, claim, address)
}

// Nothing says that a machine of the name has what cools down.
func TestWhatCoolsDownBelongsToNoMachineOfTheName(t *testing.T) {
	h := cooled(0)
	if h.belongsTo(living()) {
		t.Error("it belongs to the machine that lives")
	}
	if isOrphan(h.claim, "cp-0") {
		t.Error("its claim waits for a machine")
	}
	again := cooled(0, annotatedAgain)
	if !again.belongsTo(living()) {
		t.Error("it does not belong to the machine that was restored with it")
	}
}

// Whoever may write addresses could have one of a machine freed.
func TestAddressWithTheUIDOfAMachineDoesNotCoolDown(t *testing.T) {
	h := cooled(lasting, withoutClaim, func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		kube.SetAnnotation(a, ipam.MachineUIDAnnotation, "uid")
	}, departed)
	if got, _ := decide(absent(), h, now, grace); got != cool {
		t.Errorf("got %q, want %q", got, cool)
	}
}

// Its finalizer could not be taken off at once.
func TestCoolDownIsNotBegunAnewWhileTheMachineIsStillThere(t *testing.T) {
	claim, address := unused(adopted), answering()
	ipam.CoolClaim(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}, now)
	ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, now)
	r := reconciler(t, claim, address, cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), done), poolThatCools("10m"))
	r.events = events.NewFakeRecorder(10)
	r.at(now.Add(time.Minute))

	r.settle(t.Context(), t)

	r.expectCooling(t, claim, address)
}

// The cache may not have the machine yet that a backup has brought back.
func TestWhatHasCooledDownIsConfirmedBeforeItIsReleased(t *testing.T) {
	cold := func() (*ipamv1.IPClaim, *ipamv1.IPAddress) {
		claim, address := unused(adopted), answering()
		ipam.CoolClaim(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}, now)
		ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, now)
		return claim, address
	}
	claim, address := cold()
	r := reconciler(t, claim, address, poolThatCools("10m"))
	liveClaim, liveAddress := cold()
	r.behind(t, liveClaim, liveAddress, cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24")), poolThatCools("10m"))
	r.at(now.Add(lasting))

	r.settle(t.Context(), t)

	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsReleased(address) {
		t.Errorf("the address has the annotations %v, error %v", address.Annotations, err)
	}
}

func TestRestoredMachineHasItsClaimAgain(t *testing.T) {
	claim, address := unused(adopted), answering()
	ipam.CoolClaim(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}, now)
	ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, now)
	r := reconciler(t, claim, address, cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24")), poolThatCools("10m"))
	r.events = events.NewFakeRecorder(10)
	r.at(now.Add(lasting))

	r.settle(t.Context(), t)

	for _, obj := range []client.Object{claim, address} {
		if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil || ipam.IsReleased(obj) {
			t.Errorf("%T has the annotations %v, error %v", obj, obj.GetAnnotations(), err)
		}
	}
	if owner := capi.OwnerMachine(claim); owner.UID != "uid" || address.Annotations[ipam.MachineUIDAnnotation] != "uid" {
		t.Errorf("the claim is owned by %v, and the address by %s", owner, address.Annotations[ipam.MachineUIDAnnotation])
	}
}

// clusterctl makes it before its Cluster and its pool, as it may be, and before its address.
func TestClaimThatCoolsDownWaitsForItsPoolToBeMoved(t *testing.T) {
	claim := unused(func(c *ipamv1.IPClaim) {
		ipam.CoolClaim(c, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}, Cluster: "prod"}, now.Add(-time.Minute))
	})
	r := reconciler(t, claim)
	r.at(now)

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Errorf("the claim is gone: %v", err)
	}
	r.at(now.Add(allocator.PoolPatience))
	r.settle(t.Context(), t)
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
		t.Errorf("the claim is there still, although no pool has come: %v", err)
	}
}

package migration

import (
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

var gone = metav1.NewTime(time.Unix(1, 0))

// theMove is that of cp's only address.
func theMove() ipam.Move {
	return ipam.Move{
		Address: netip.MustParseAddr("10.0.0.1"),
		From:    ipam.ClaimReference{Pool: metal3.PoolNamed("a"), Claim: "cp-0"},
		To:      ipam.ClaimReference{Pool: contract.InClusterPool("b"), Claim: "cp-0"},
	}
}

// change changes what is observed, and its only journey.
type change func(*observed, *journey)

// beginning is a machine of which nothing was moved yet.
func beginning(changes ...change) observed {
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Name: "cp", UID: "uid"}}
	o := observed{machine: machine, bindings: []ipam.Binding{boundBy(theMove().From)}}
	j := journey{Move: theMove(), places: true, old: oldSide()}
	for _, change := range changes {
		change(&o, &j)
	}
	o.journeys = []journey{j}
	return o
}

func boundBy(ref ipam.ClaimReference) ipam.Binding {
	return ipam.Binding{Pool: ref.Pool, Claim: ref.Claim, Address: netip.MustParsePrefix("10.0.0.1/24")}
}

func oldSide() side {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0", UID: "claim"}}
	claim.Spec.Pool.Name = "a"
	claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp", UID: "uid"}}
	claim.Status.Address = &corev1.ObjectReference{Name: "a-10-0-0-1"}
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Name: "a-10-0-0-1", Finalizers: []string{ipam.InUseFinalizer}, OwnerReferences: []metav1.OwnerReference{{UID: "claim"}},
		Annotations: map[string]string{ipam.MachineNameAnnotation: "cp"},
	}}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = "10.0.0.1", "cp-0", "a"
	c, a := metal3.Provider{}.ReadClaim(claim), metal3.Provider{}.ReadAddress(address)
	return side{claim: &c, address: &a}
}

// newSide is the other end; parts of it are left out by what changes it.
func newSide(bound bool, owner types.UID) side {
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0", UID: "new"}}
	claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp", UID: "uid"}}
	claim.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "b"}
	if bound {
		claim.Status.AddressRef.Name = "cp-0"
	}
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Name: "cp-0", Finalizers: []string{ipam.InUseFinalizer}, Annotations: map[string]string{ipam.MachineUIDAnnotation: "uid", ipam.MachineNameAnnotation: "cp"},
		OwnerReferences: []metav1.OwnerReference{{UID: owner}},
	}}
	address.Spec.Address, address.Spec.ClaimRef.Name, address.Spec.PoolRef = "10.0.0.1", "cp-0", claim.Spec.PoolRef
	c, a := contract.Provider{}.ReadClaim(claim), contract.Provider{}.ReadAddress(address)
	return side{claim: &c, address: &a}
}

func announced(o *observed, _ *journey) { o.announced = true }
func undone(o *observed, _ *journey)    { o.announced, o.back = true, true }
func switched(o *observed, _ *journey)  { o.bindings = []ipam.Binding{boundBy(theMove().To)} }
func unbound(o *observed, _ *journey)   { o.bindings = nil }
func deleting(o *observed, _ *journey)  { o.machine.DeletionTimestamp = &gone }
func placed(_ *observed, j *journey)    { j.new.address = newSide(false, "").address }
func claimed(_ *observed, j *journey)   { j.new = newSide(false, "new") }
func bound(_ *observed, j *journey)     { j.new = newSide(true, "new") }
func misled(_ *observed, j *journey)    { j.new = newSide(true, "another") }
func elsewhere(_ *observed, j *journey) { j.new.address.IP = "10.0.0.9" }
func unguarded(_ *observed, j *journey) { j.new.address.SetFinalizers(nil) }
func metal3s(_ *observed, j *journey)   { j.places = false }
func resting(_ *observed, j *journey)   { j.rests = true }
func newGoing(_ *observed, j *journey)  { j.new.claim.SetDeletionTimestamp(&gone) }
func newGone(_ *observed, j *journey)   { j.new = side{} }
func claimGone(_ *observed, j *journey) { j.new.claim = nil }
func failed(_ *observed, j *journey)    { j.new.claim.Failure = "no" }
func oldBare(_ *observed, j *journey)   { j.old.address.SetFinalizers(nil) }
func oldGoing(_ *observed, j *journey)  { j.old.claim.SetDeletionTimestamp(&gone) }
func oldGone(_ *observed, j *journey)   { j.old = side{} }
func oldOthers(_ *observed, j *journey) {
	j.old.claim.SetOwnerReferences([]metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp-1", UID: "another"}})
}
func newOthers(_ *observed, j *journey) {
	kube.SetAnnotation(j.new.address, ipam.MachineNameAnnotation, "cp-1")
}
func oldLost(_ *observed, j *journey) { j.old.claim = nil }

func TestNextStepOfAMachine(t *testing.T) {
	for name, test := range map[string]struct {
		state observed
		want  task
	}{
		"nothing is begun":                           {beginning(), announce},
		"nothing is begun, the old claim is missing": {beginning(oldLost), blocked},
		"nothing is begun, the old address is bare":  {beginning(oldBare), blocked},
		"it is gone":                                    {observed{}, done},
		"it is being deleted":                           {beginning(announced, bound, deleting), done},
		"it is announced":                               {beginning(announced), place},
		"it is announced, the claim itself asks":        {beginning(announced, metal3s), claim},
		"the address is there":                          {beginning(announced, placed), claim},
		"another address is in its place":               {beginning(announced, placed, elsewhere), blocked},
		"the claim is made":                             {beginning(announced, claimed), await},
		"the claim answers another address":             {beginning(announced, misled), await},
		"the claim failed":                              {beginning(announced, claimed, failed), discard},
		"the claim of an earlier try is being deleted":  {beginning(announced, claimed, newGoing), await},
		"it is bound":                                   {beginning(announced, bound), switchTo},
		"it is bound, and unprotected":                  {beginning(announced, bound, unguarded), protect},
		"it is bound, and the old claim was taken away": {beginning(announced, bound, oldLost), switchTo},
		"it is switched":                                {beginning(announced, bound, switched), unprotect},
		"the old address is bare":                       {beginning(announced, bound, switched, oldBare), release},
		"the old claim is being deleted":                {beginning(announced, bound, switched, oldBare, oldGoing), finish},
		"its provider rests":                            {beginning(announced, bound, switched, oldBare, oldGoing, resting), drop},
		"its provider rests, and all is gone":           {beginning(announced, bound, switched, oldGone, resting), finish},
		"the old claim is gone, its address protected":  {beginning(announced, bound, switched, oldLost), unprotect},
		"all is done":                                   {beginning(bound, switched, oldGone), done},
		"somebody took the binding away":                {beginning(announced, bound, unbound), blocked},
		"it says that another's claim is its old one":   {beginning(announced, bound, switched, oldOthers), blocked},
		"it says that another's address is its new one": {beginning(undone, placed, newOthers), blocked},
		"undone, nothing is made":                       {beginning(undone), finish},
		"undone, the address is there":                  {beginning(undone, placed), giveUp},
		"undone, the address is bare":                   {beginning(undone, placed, unguarded), displace},
		"undone, it is bound":                           {beginning(undone, bound), giveUp},
		"undone, it is bound and bare":                  {beginning(undone, bound, unguarded), withdraw},
		"undone, the new claim is being deleted":        {beginning(undone, bound, unguarded, newGoing), await},
		"undone, the new claim is gone":                 {beginning(undone, bound, unguarded, claimGone), displace},
		"undone, all of it is gone":                     {beginning(undone, newGone), finish},
		"undone, it is switched":                        {beginning(undone, bound, switched), unprotect},
		"undone, the old address is bare":               {beginning(undone, bound, switched, oldBare), release},
		"undone, the old claim is being deleted":        {beginning(undone, bound, switched, oldBare, oldGoing), finish},
		"undone, the old claim is gone":                 {beginning(undone, bound, switched, oldLost), unprotect},
		"undone without a beginning":                    {beginning(func(o *observed, _ *journey) { o.back = true }), done},
	} {
		t.Run(name, func(t *testing.T) {
			if got := next(test.state); got.task != test.want {
				t.Errorf("got %q (%s), want %q", got.task, got.why, test.want)
			}
		})
	}
}

// The second address of a machine is begun when the first is at its end.
func TestAddressesOfAMachineAreMovedOneAfterTheOther(t *testing.T) {
	o := beginning(announced, bound, switched, oldGone)
	second := theMove()
	second.Address, second.From.Claim, second.To.Claim = netip.MustParseAddr("10.0.0.2"), "cp-1", "cp-1"
	b := boundBy(second.From)
	b.Address = netip.MustParsePrefix("10.0.0.2/24")
	o.bindings = append(o.bindings, b)
	o.journeys = append(o.journeys, journey{Move: second, places: true})

	if got := next(o); got.task != place || got.journey != 1 {
		t.Errorf("got %q of move %d, want the address of the second", got.task, got.journey)
	}
}

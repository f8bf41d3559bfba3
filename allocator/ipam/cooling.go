package ipam

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
)

const (
	// ReuseAfterAnnotation on a pool is for how long its addresses are kept from being
	// handed out again after their machines went, as a duration.
	ReuseAfterAnnotation = "capv-static-ip.dev/reuse-after"
	// ReleasedAtAnnotation is on a claim and an address that cool down: since when
	// (RFC 3339) neither their machine nor a VM of it exists. The claim can be lost
	// meanwhile, and the address that only our finalizer keeps then says it alone.
	ReleasedAtAnnotation = "capv-static-ip.dev/released-at"
)

// ReuseAfter is what a pool says in ReuseAfterAnnotation. It is false if that says
// nothing, and an error if it cannot be read.
func ReuseAfter(pool client.Object) (after time.Duration, says bool, err error) {
	text, says := pool.GetAnnotations()[ReuseAfterAnnotation]
	if !says {
		return 0, false, nil
	}
	after, err = time.ParseDuration(strings.TrimSpace(text))
	if err == nil && after < 0 {
		err = fmt.Errorf("%s is less than nothing", after)
	}
	if err != nil {
		return 0, true, fmt.Errorf("reading annotation %s: %w", ReuseAfterAnnotation, err)
	}
	return after, true, nil
}

// checkReuseAfter refuses a pool that does not say legibly when its addresses may be
// used again.
func checkReuseAfter(pool Pool) error {
	if _, _, err := ReuseAfter(pool); err != nil {
		return Refuse(PoolInvalid, "%s has an invalid annotation %s: write a duration as 5m; correct it",
			pool.Reference.In(pool.GetNamespace()), ReuseAfterAnnotation)
	}
	return nil
}

// CoolsFor is for how long the addresses of a pool cool down, in the pool's own words
// or by the default; empty if they do not, or if the pool was not read.
func CoolsFor(pool Pool, byDefault time.Duration) string {
	if pool.Object == nil {
		return inWords(byDefault)
	}
	after, says, err := ReuseAfter(pool)
	switch {
	case !says || err != nil:
		return inWords(byDefault)
	case after == 0:
		return ""
	}
	return strings.TrimSpace(pool.GetAnnotations()[ReuseAfterAnnotation])
}

// inWords is a duration as a user would write it.
func inWords(d time.Duration) string {
	text := d.String()
	if shorter, ok := strings.CutSuffix(text, "m0s"); ok {
		text = shorter + "m"
	}
	if shorter, ok := strings.CutSuffix(text, "h0m"); ok {
		text = shorter + "h"
	}
	if d == 0 {
		return ""
	}
	return text
}

// IsReleased tells whether a claim, or an address, cools down: its machine is gone, and
// it is kept from being handed out for a while.
func IsReleased(obj client.Object) bool {
	_, released := obj.GetAnnotations()[ReleasedAtAnnotation]
	return released
}

// ReleasedAt is since when a claim, or an address, cools down, false if it does not say.
func ReleasedAt(obj client.Object) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, obj.GetAnnotations()[ReleasedAtAnnotation])
	return at, err == nil
}

// CoolAddress makes an address one that cools down: it is protected for no machine any
// more, but by the holder's name it is found again.
func CoolAddress(address client.Object, holder Holder, at time.Time) {
	ProtectFor(address, holder)
	annotations := address.GetAnnotations()
	delete(annotations, MachineUIDAnnotation)
	address.SetAnnotations(annotations)
	kube.SetAnnotation(address, ReleasedAtAnnotation, at.UTC().Format(time.RFC3339Nano))
}

// CoolClaim makes a claim one that cools down: no machine owns it, so that it is not
// collected as garbage, and nothing says that a request may be answered with it.
//
// It is always of a Cluster, be it one that does not exist: providers leave its claims alone
// until they are deleted, as those of a Cluster that is paused. Without one, the provider
// would bind the claim anew while clusterctl moves it: to any address in the target, where
// its own comes after it, and in the source, where its own goes before it.
func CoolClaim(claim client.Object, machine Machine, at time.Time) {
	machine.Cluster = cmp.Or(machine.Cluster, claim.GetLabels()[clusterv1.ClusterNameLabel], machine.Holder().namesake())
	Mark(claim, machine)
	claim.SetOwnerReferences(slices.DeleteFunc(claim.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.Kind == capi.VSphereMachineKind.Kind && owner.Name == machine.Name
	}))
	annotations := claim.GetAnnotations()
	delete(annotations, RequestedByAnnotation)
	delete(annotations, KeptAnnotation)
	claim.SetAnnotations(annotations)
	kube.SetAnnotation(claim, ReleasedAtAnnotation, at.UTC().Format(time.RFC3339Nano))
}

// Readopt takes off a claim that it cools down, or is given up: its machine is there again,
// or has been bound to it in that moment.
func Readopt(claim client.Object) {
	annotations := claim.GetAnnotations()
	delete(annotations, ReleasedAtAnnotation)
	delete(annotations, GivenUpAnnotation)
	claim.SetAnnotations(annotations)
}

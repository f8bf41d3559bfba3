package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/tests/harness"
)

const (
	// rangeGroup is the group of the kind Range, which this program has never
	// heard of.
	rangeGroup = "ipam.example.com"
	rangeRef   = "Range." + rangeGroup + "/lab"
)

// A provider that is made later than this program, with a kind of pool of its
// own, honours the Cluster API IPAM contract. It is played here.
func TestPoolOfAKindNeverHeardOf(t *testing.T) {
	t.Parallel()
	pids := shared.pids()
	first := newScene(t, shared)
	first.denyMachines(`Range "lab" in namespace "NAMESPACE", asked for by `+byAnnotation+`, cannot exist: `+
		`no kind Range.ipam.example.com is served; install its IPAM provider or correct the kind`, withRange)
	first.installRanges(rangeGroup)
	first.rangePool()

	first.denyMachines(`Range "lab" in namespace "NAMESPACE" cannot be read: grant get on ranges.ipam.example.com to capv-static-ip, `+
		`in a ClusterRole with label capv-static-ip.dev/aggregate-to-manager: "true"`, withRange)
	first.expectNoClaims()

	first.grantRanges(rangeGroup)
	stop := first.playContract(first.answersWith("10.16.59.88"))
	first.eventually("the kind to be served", func(ctx context.Context) error {
		return first.env.Client.Create(ctx, first.rangeMachine("cp-0"))
	})
	stop()
	want := harness.StaticDevice()
	want.IPAddrs, want.Gateway4 = []string{"10.16.59.88/24"}, "10.16.59.1"
	first.expectDevices("cp-0", want)
	first.expectHeld("cp-0")
	first.settled("cp-0")
	for i, pid := range shared.pids() {
		if pid != pids[i] {
			t.Errorf("a manager was started again: %v, before %v", shared.pids(), pids)
		}
	}

	for name, test := range map[string]func(*scene){
		"is released with its machine":               rangeIsReleased,
		"cools down":                                 addressOfARangeCools,
		"cannot be asked for a lost address":         lostRangeAddressIsTold,
		"that does not exist is denied":              missingRangeIsDenied,
		"says that it is exhausted":                  func(s *scene) { failureOfARangeIsDenied(s, "PoolExhausted", rangeName+exhaustedRange) },
		"says that it cannot allocate":               func(s *scene) { failureOfARangeIsDenied(s, "AllocationFailed", rangeName+failedRange) },
		"says that it will take its time, and binds": slowRangeIsWaitedFor,
		"answers with garbage":                       garbageOfARangeIsDenied,
		"is answered for by another":                 answerOfAnotherPoolIsDenied,
		"counts its addresses as others do not":      strangeStatusIsIgnored,
		"leaves those that come too late waiting":    silentRangeIsDenied,
		"registers host names":                       hostNamesOfARange,
		"gets claims without a finalizer":            claimsOnARangeHaveNoFinalizer,
	} {
		t.Run(name, func(t *testing.T) { test(newScene(t, shared)) })
	}
}

const (
	rangeName      = `Range "lab" in namespace "NAMESPACE"`
	exhaustedRange = ` is exhausted: add addresses to the pool or delete a machine that holds one`
	failedRange    = ` refused a claim: AllocationFailed; correct the pool`
)

func rangeIsReleased(s *scene) {
	s.rangePool()
	stop := s.playContract(s.answersWith("10.16.59.88"))
	defer stop()
	machine := s.rangeMachine("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")

	s.delete(machine)
	s.gone(machine)

	s.noClaims()
	// The provider is one that leaves the rest to the garbage collector, which
	// pauses when a new kind has come.
	s.within(4*harness.Soon, "the address to be gone", func(context.Context) error {
		if address, err := s.address(ip); err == nil {
			return fmt.Errorf("%s exists, with finalizers %v", address.GetName(), address.GetFinalizers())
		}
		return nil
	})
}

// Of other providers than the two nothing is known but the contract, which has no
// way to ask for a given address.
func lostRangeAddressIsTold(s *scene) {
	s.rangePool()
	lost := s.metric("capv_static_ip_addresses_lost_total", nil)
	s.toleratesLostAddresses()
	machine := s.restored("cp-0", ipam.PoolReference{APIGroup: rangeGroup, Kind: "Range", Name: "lab"}, "10.16.59.88")

	if note := s.told("cp-0", "AddressLost"); !strings.Contains(note, "10.16.59.88") {
		s.Errorf("event AddressLost says %q, want it to name the address", note)
	}
	if got := s.metric("capv_static_ip_addresses_lost_total", nil); got <= lost {
		s.Errorf("%v losses are counted, want more than the %v before", got, lost)
	}
	s.consistently("nothing is claimed, and the machine stays as it is", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("claim %s was made", claims[0].GetName())
		}
		now := s.machine("cp-0")
		if got := harness.Addresses(now); len(got) != 1 || got[0] != "10.16.59.88/24" ||
			now.Annotations[ipam.BindingsAnnotation] != machine.Annotations[ipam.BindingsAnnotation] {
			return fmt.Errorf("it has %v, and the bindings %s", got, now.Annotations[ipam.BindingsAnnotation])
		}
		return nil
	})
	// What the message advises helps.
	stop := s.playContract(s.answersWith("10.16.59.88"))
	defer stop()
	claim := harness.AddressClaim(s.ns, "cp-0-0", "Range", "lab", harness.WithAnnotation(ipam.ForAnnotation, "cp-0"))
	claim.Spec.PoolRef.APIGroup = rangeGroup
	s.create(claim)
	s.eventually("the claim made by hand to be adopted", func(context.Context) error { return s.isAdopted("cp-0", "10.16.59.88") })
}

func missingRangeIsDenied(s *scene) {
	s.denyMachines(rangeName+` not found, asked for by `+byAnnotation+`: create the pool or correct its name there`, withRange)
	s.expectNoClaims()
}

func failureOfARangeIsDenied(s *scene, reason, denial string) {
	s.rangePool()
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		return s.says(ctx, claim, reason, "10.16.59.88 on try "+time.Now().String())
	})
	defer stop()

	start := time.Now()
	s.denyMachines(denial, withRange)
	if took := time.Since(start) / tries; took > quick {
		s.Errorf("a denial took %s, want less than %s", took, quick)
	}
	s.noClaims()
}

// A condition may be False for a while because the provider has not come to it.
func slowRangeIsWaitedFor(s *scene) {
	s.rangePool()
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		if err := s.says(ctx, claim, "WaitingForUpstream", ""); err != nil {
			return err
		}
		return s.answersWith("10.16.59.88")(ctx, claim)
	})
	defer stop()

	s.create(s.rangeMachine("cp-0"))

	if got := s.ip("cp-0"); got != "10.16.59.88" {
		s.Errorf("got %s, want 10.16.59.88", got)
	}
}

// answerOfAnotherPoolIsDenied: metal3 answers claims on any pool that has the name of one of its own.
func answerOfAnotherPoolIsDenied(s *scene) {
	s.rangePool()
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		mistaken := claim.DeepCopy()
		mistaken.Spec.PoolRef.Kind, mistaken.Spec.PoolRef.APIGroup = "IPPool", "ipam.metal3.io"
		return s.answersWith("10.16.56.88")(ctx, mistaken)
	})
	defer stop()

	s.denyMachines(rangeName+` was answered for by the provider of another pool of that name, IPPool.ipam.metal3.io/lab`+
		`: give one of the two another name`, withRange)
	s.noClaims()
}

func garbageOfARangeIsDenied(s *scene) {
	s.rangePool()
	stop := s.playContract(s.answersWith("lab-7"))
	defer stop()

	s.denyMachines(rangeName+` answered with an unusable address: it is not an IP address; correct the pool`, withRange)

	s.noClaims()
}

// It counts as the in-cluster provider does, and says no more than that.
func silentRangeIsDenied(s *scene) {
	s.countRange(s.rangePool(), int64(1), int64(1))
	var waiting []*capiipamv1.IPAddressClaim
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		if waiting = append(waiting, claim); len(waiting) != 2 {
			return nil
		}
		return s.answersWith("10.16.59.88")(ctx, waiting[0])
	})
	defer stop()

	start := time.Now()
	answers := []<-chan error{s.createLater(s.rangeMachine("cp-0")), s.createLater(s.rangeMachine("cp-1"))}
	first, second := <-answers[0], <-answers[1]
	took := time.Since(start)

	if first != nil {
		first, second = second, first
	}
	if first != nil {
		s.Fatal(first)
	}
	s.expectDenial(second, rangeName+` is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`)
	if took > quick {
		s.Errorf("the answers took %s, want less than %s", took, quick)
	}
}

func (s *scene) countRange(pool *unstructured.Unstructured, total, free any) {
	s.Helper()
	pool.Object["status"] = map[string]any{"ipAddresses": map[string]any{"total": total, "free": free}}
	if err := s.env.Client.Status().Update(s.Context(), pool); err != nil {
		s.Fatal(err)
	}
}

func strangeStatusIsIgnored(s *scene) {
	s.countRange(s.rangePool(), "many", int64(0))
	stop := s.playContract(s.answersWith("10.16.59.88"))
	defer stop()

	s.create(s.rangeMachine("cp-0"))
}

// Such a provider takes claims of one host name for one host, and registers the
// name in the zone of its pool.
func hostNamesOfARange(s *scene) {
	pool := newRange(rangeGroup, s.ns)
	pool.Object["spec"] = map[string]any{"dnsZone": "nodes.example.org"}
	s.create(pool)
	names := map[string]string{}
	given := 87
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		names[claim.Name] = claim.Annotations["ipam.cluster.x-k8s.io/hostname"]
		given++
		return s.answersWith(fmt.Sprintf("10.16.59.%d", given))(ctx, claim)
	})

	s.create(harness.Machine(s.ns, "cp-0", withRange, withPoolOf("1", rangeRef),
		harness.WithDevices(harness.StaticDevice(), harness.StaticDevice())))

	stop()
	expectSame(s, "the host names of the claims", names, map[string]string{
		"cp-0-0": "cp-0.nodes.example.org", "cp-0-1": "cp-0-1.nodes.example.org",
	})
}

// installRanges serves the kind Range of a group.
func (s *scene) installRanges(group string) {
	s.Helper()
	preserve := true
	anything := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "ranges." + group}}
	crd.Spec.Group, crd.Spec.Scope = group, apiextensionsv1.NamespaceScoped
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "ranges", Singular: "range", Kind: "Range", ListKind: "RangeList"}
	crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
		Name: "v1alpha7", Served: true, Storage: true,
		Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
			Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": anything, "status": anything},
		}},
		Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
	}}
	s.create(crd)
	s.eventually("the kind to be served", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, newRange(group, s.ns), client.DryRunAll)
	})
}

func newRange(group, namespace string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1alpha7", "kind": "Range",
		"metadata": map[string]any{"namespace": namespace, "name": "lab"},
	}}
}

// withRange makes a machine of no Cluster ask for an address of the pool. When a
// Cluster is made, in any namespace, the in-cluster provider puts its finalizer
// on the claims of all Clusters of that name, of whatever kind their pools are,
// and takes it off those of its own kinds only (pkg/ipamutil/reconciler.go,
// clusterToIPClaims).
func withRange(machine client.Object) {
	harness.WithCluster("")(machine)
	withPoolOf("0", rangeRef)(machine)
}

func (s *scene) rangePool() *unstructured.Unstructured {
	s.Helper()
	pool := newRange(rangeGroup, s.ns)
	s.create(pool)
	return pool
}

func (s *scene) rangeMachine(name string) client.Object {
	return harness.Machine(s.ns, name, withRange)
}

// grantRanges does what docs/guide.md tells an administrator to do.
func (s *scene) grantRanges(group string) {
	s.Helper()
	s.createGlobal(&rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "capv-static-ip-ranges." + group, Labels: map[string]string{contract.AggregationLabel: "true"}},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{"ranges"}, Verbs: []string{"get"}}},
	})
}

// playContract answers each claim on a Range in the scene. One that was taken back
// meanwhile needs no answer.
func (s *scene) playContract(answer func(context.Context, *capiipamv1.IPAddressClaim) error) (stop func()) {
	s.Helper()
	return play(s, &capiipamv1.IPAddressClaimList{}, func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		if !strings.HasSuffix(claim.Spec.PoolRef.APIGroup, rangeGroup) {
			return nil
		}
		return client.IgnoreNotFound(answer(ctx, claim))
	})
}

// answersWith is the provider that gives every claim this address.
func (s *scene) answersWith(ip string) func(context.Context, *capiipamv1.IPAddressClaim) error {
	return func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: claim.Name}}
		address.Spec.Address, address.Spec.PoolRef, address.Spec.ClaimRef.Name = ip, claim.Spec.PoolRef, claim.Name
		address.Spec.Prefix, address.Spec.Gateway = new(int32(24)), "10.16.59.1"
		harness.WithOwner(claim)(address)
		if err := s.env.Client.Create(ctx, address); err != nil {
			return err
		}
		before := claim.DeepCopy()
		claim.Status.AddressRef.Name = address.Name
		return s.env.Client.Status().Patch(ctx, claim, client.MergeFrom(before))
	}
}

// says sets the condition Ready of a claim to False.
func (s *scene) says(ctx context.Context, claim *capiipamv1.IPAddressClaim, reason, message string) error {
	before := claim.DeepCopy()
	claim.Status.Conditions = []metav1.Condition{{
		Type: capiipamv1.IPAddressClaimReadyCondition, Status: metav1.ConditionFalse,
		Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
	}}
	if err := s.env.Client.Status().Patch(ctx, claim, client.MergeFrom(before)); err != nil {
		return errors.Join(fmt.Errorf("setting the condition of claim %s", claim.Name), err)
	}
	return nil
}

package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// poolOf is a metal3 pool with this many addresses.
func poolOf(name, last string) *ipamv1.IPPool {
	start, end := ipamv1.IPAddressStr("10.0.0.10"), ipamv1.IPAddressStr(last)
	return &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{{Start: &start, End: &end}}},
	}
}

// askOf asks for an address of one pool.
func askOf(pool ipam.PoolReference) ipam.Ask { return ipam.Ask{Choices: []ipam.Choice{{Pool: pool}}} }

// wanting is a request of cp-0 for an address of each of these pools.
func wanting(pools ...string) Request {
	req := Request{Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}}
	for i, pool := range pools {
		ask := askOf(metal3.PoolNamed(pool))
		ask.Device.Index = i
		req.Asks = append(req.Asks, ask)
	}
	return req
}

func claimNamed(name, pool string) *ipamv1.IPClaim {
	return &ipamv1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{Namespace: "ns", Name: pool}},
	}
}

func TestPoolsMustHaveRoomForAllDevicesTogether(t *testing.T) {
	for name, test := range map[string]struct {
		req     Request
		objects []client.Object
		refusal string
	}{
		"one of one":                      {wanting("one"), nil, ""},
		"two of one":                      {wanting("one", "one"), nil, "the machine needs 2"},
		"two of one, of which one exists": {wanting("one", "one"), []client.Object{claimNamed("cp-0-0", "one")}, ""},
		"one of each":                     {wanting("one", "two"), nil, ""},
		"the second pool has too few":     {wanting("two", "one", "one"), nil, `"one"`},
		"a pool that does not exist":      {wanting("one", "none"), nil, `"none"`},
	} {
		t.Run(name, func(t *testing.T) {
			a := played(t, append(test.objects, poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.11"))...)
			_, err := a.Check(t.Context(), test.req)
			if test.refusal == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if refusal, ok := ipam.AsRefusal(err); !ok || !strings.Contains(refusal.Message, test.refusal) {
				t.Errorf("got %v, want a refusal that says %q", err, test.refusal)
			}
		})
	}
}

// The claim that keeps an address aside has a name of the machine's, and is not its own.
func TestClaimThatIsSetAsideIsNotTheRequests(t *testing.T) {
	aside := claimNamed("cp-0-0", "one")
	aside.Labels = map[string]string{ipam.SetAsideLabel: ""}
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one-10-0-0-10"}}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = "10.0.0.10", "cp-0-0", "one"
	a := played(t, poolOf("one", "10.0.0.10"), aside, address)
	_, err := a.Check(t.Context(), wanting("one"))
	if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != ipam.PoolExhausted {
		t.Errorf("got %v, want a refusal %s", err, ipam.PoolExhausted)
	}
}

// A pool that was made, or that got an address back, a moment ago is not in the cache.
func TestPoolThatTheCacheRefusesIsAskedAgainOfTheAPIServer(t *testing.T) {
	a := played(t)
	a.live = played(t, poolOf("one", "10.0.0.10")).client
	attempt := a.attempt(wanting("one"))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatalf("refused: %v", err)
	}
	if pool := attempt.allocations[0].pool; pool.Object == nil || pool.GetName() != "one" {
		t.Errorf("planned with pool %v", pool.Object)
	}
}

func TestKeptClaimIsUsedForItsPoolAndDevice(t *testing.T) {
	for name, test := range map[string]struct {
		pool, device string
		used         []bool
	}{
		"of the first device":        {"one", "0", []bool{true, false}},
		"of the second device":       {"two", "1", []bool{false, true}},
		"of a device with its pool":  {"two", "0", []bool{false, false}},
		"of a device that is not":    {"one", "7", []bool{false, false}},
		"of a further address":       {"one", "0.1", []bool{false, false}},
		"of a pool that nobody asks": {"other", "0", []bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			claim := claimNamed("cp-9-0", test.pool)
			claim.Annotations = map[string]string{ipam.DeviceAnnotation: test.device}
			a := played(t, poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.10"))
			attempt := a.attempt(wanting("one", "two"))
			attempt.noteKept(metal3.Provider{}.ReadClaim(claim))

			if err := a.plan(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}

			for i, al := range attempt.allocations {
				want := ipam.ClaimName("cp-0", ipam.Slot{Device: i})
				if test.used[i] {
					want = "cp-9-0"
				}
				if al.used != test.used[i] || al.claim != want {
					t.Errorf("device %d uses %q (%t), want %q (%t)", i, al.claim, al.used, want, test.used[i])
				}
			}
		})
	}
}

// While nothing is claimed, another pool may be chosen by the time that it is a request's
// turn.
func TestKeptClaimOfAPoolThatIsNotChosenAnyMoreIsNotUsed(t *testing.T) {
	kept := claimNamed("cp-9-0", "one")
	kept.Annotations = map[string]string{ipam.DeviceAnnotation: "0"}
	a := played(t, poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.10"))
	attempt := a.attempt(choosingFrom("one|two"))
	attempt.noteKept(metal3.Provider{}.ReadClaim(kept))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	al := attempt.allocations[0]
	if !al.used || al.want.Pool.Name != "one" {
		t.Fatalf("uses claim %q (%t) of %v, want the one that was kept", al.claim, al.used, al.want.Pool)
	}

	al.kept = nil
	if err := a.client.Delete(t.Context(), poolOf("one", "10.0.0.10")); err != nil {
		t.Fatal(err)
	}
	if err := a.plan(t.Context(), attempt); err != nil || al.used || al.claim != "cp-0-0" || al.want.Pool.Name != "two" {
		t.Errorf("uses claim %q (%t) of %v, error %v, want a new one of the second pool", al.claim, al.used, al.want.Pool, err)
	}
}

// A claim that was kept, and whose address had to be set aside, is no way to another one.
func TestKeptClaimIsNotUsedAgainWhenItIsSetAside(t *testing.T) {
	kept := claimNamed("cp-9-0", "one")
	kept.Annotations = map[string]string{ipam.DeviceAnnotation: "0"}
	a := played(t, poolOf("one", "10.0.0.11"), kept)
	attempt := a.attempt(wanting("one"))
	attempt.noteKept(metal3.Provider{}.ReadClaim(kept))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	attempt.claiming = true
	al := attempt.allocations[0]

	al.startAnew()

	if err := a.plan(t.Context(), attempt); err != nil || al.used || al.claim != "cp-0-0" {
		t.Errorf("uses claim %q (%t), error %v, want a new one", al.claim, al.used, err)
	}
}

// What an allocation used before its address was set aside is not the request's.
func TestClaimThatWasSetAsideIsNotTakenBack(t *testing.T) {
	claim := claimNamed("cp-0-0", "one")
	req := wanting("one")
	ipam.Use(claim, req.Stamp)
	a := played(t, claim)
	attempt := a.attempt(req)
	attempt.allocations[0].use("cp-0-0")
	attempt.allocations[0].startAnew()
	if err := a.TakeBack(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Errorf("reading the claim: %v", err)
	}
}

// Others wait while the API server is asked, so that it is asked for nothing twice.
func TestClaimIsReadOnceForAllPoolsThatItMayBeOn(t *testing.T) {
	req := wanting()
	for device := range 4 {
		ask := ipam.Ask{Device: ipam.Device{Index: device}}
		for i := range 16 {
			ask.Choices = append(ask.Choices, ipam.Choice{Pool: metal3.PoolNamed(fmt.Sprintf("full-%d", i))})
		}
		req.Asks = append(req.Asks, ask)
	}
	var objects []client.Object
	for i := range 16 {
		pool := fmt.Sprintf("full-%d", i)
		objects = append(objects, poolOf(pool, "10.0.0.10"), &ipamv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pool}, Spec: ipamv1.IPAddressSpec{Pool: corev1.ObjectReference{Name: pool}, Address: "10.0.0.10"},
		})
	}
	a := played(t, objects...)
	reads := 0
	a.live = interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if _, isClaim := obj.(*ipamv1.IPClaim); isClaim {
				reads++
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})

	_, err := a.Check(t.Context(), req)

	if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != ipam.PoolExhausted || reads != len(req.Asks) {
		t.Errorf("got error %v and %d reads of claims, want %d", err, reads, len(req.Asks))
	}
}

func TestAddressThatIsWantedIsClaimedBeforeOthersOfItsPool(t *testing.T) {
	given := netip.MustParseAddr("10.0.0.12")
	for name, test := range map[string]struct {
		pools []string
		given int
		want  [][]int
	}{
		"of one pool":       {[]string{"one", "two", "one"}, 2, [][]int{{2}, {0, 1}}},
		"of other pools":    {[]string{"one", "two", "three"}, 1, [][]int{{0, 1, 2}}},
		"without any other": {[]string{"one"}, 0, [][]int{{0}}},
	} {
		t.Run(name, func(t *testing.T) {
			a := played(t, poolOf("one", "10.0.0.20"), poolOf("two", "10.0.0.20"), poolOf("three", "10.0.0.20"))
			req := wanting(test.pools...)
			req.Asks[test.given].Choices[0].IP = given
			attempt := a.attempt(req)
			if err := a.plan(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}

			if got := attempt.rounds(); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got the rounds %v, want %v", got, test.want)
			}
		})
	}
}

func TestCheckSaysWhatWouldBeClaimed(t *testing.T) {
	reserved := poolOf("reserved", "10.0.0.10")
	reserved.Spec.Pools[0].End = new(ipamv1.IPAddressStr("10.0.0.13"))
	reserved.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"gone": "10.0.0.99", "other": "10.0.0.13"}
	a := played(t, poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.11"), reserved, claimNamed("cp-0-1", "two"))
	for name, test := range map[string]struct {
		req  Request
		want []string
	}{
		"an address of a pool":              {wanting("one"), []string{`would claim 1 address of IPPool "one" (1 free)`}},
		"one that is claimed already":       {wanting("one", "two"), []string{`would claim 1 address of IPPool "one" (1 free)`, `would use 1 address of IPPool "two" for which there is a claim`}},
		"of a pool that reserves addresses": {wanting("reserved", "two", "reserved"), []string{`would claim 2 addresses of IPPool "reserved" (3 free)`, `would use 1 address of IPPool "two" for which there is a claim`}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := a.Check(t.Context(), test.req); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

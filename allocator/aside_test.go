package allocator

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// Beyond the bound an address is refused, and its claim is not set aside.
func TestAddressesThatAPoolSetsAsideAreBounded(t *testing.T) {
	claimOn := func(namespace, pool, name string) *ipamv1.IPClaim {
		return &ipamv1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{Namespace: namespace, Name: pool}},
		}
	}
	stamp := ipam.Stamp{Time: time.Now(), Request: "request"}
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		for name, test := range map[string]struct {
			namespace, pool string
			aside           int
			refused         bool
		}{
			"room for one":                     {"ns", "pool", maxSetAside - 1, false},
			"full":                             {"ns", "pool", maxSetAside, true},
			"another pool is full":             {"ns", "other", maxSetAside, false},
			"one of another namespace is full": {"other", "pool", maxSetAside, false},
		} {
			t.Run(name, func(t *testing.T) {
				scheme := runtime.NewScheme()
				if err := ipamv1.AddToScheme(scheme); err != nil {
					t.Fatal(err)
				}
				mine := claimOn("ns", "pool", "cp-0-0")
				mine.UID = "mine"
				ipam.Use(mine, stamp)
				builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(mine).
					WithIndex(&ipamv1.IPAddress{}, byClaim, func(client.Object) []string { return nil })
				for i := range test.aside {
					claim := claimOn(test.namespace, test.pool, fmt.Sprintf("aside-%d", i))
					claim.Labels = map[string]string{ipam.SetAsideLabel: ""}
					builder.WithObjects(claim)
				}
				c := builder.Build()
				a := New(ipam.Providers{metal3.Provider{}}, c, c)
				prepare(t, a)
				al := a.attempt(Request{
					Stamp: stamp, Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}},
					Asks: []ipam.Ask{askOf(metal3.PoolNamed("pool"))},
				}).allocations[0]
				pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
				al.follow(&offer{
					candidate: candidate{want: ipam.Want{Ask: al.want.Ask, Pool: metal3.PoolNamed("pool")}},
					provider:  metal3.Provider{}, pool: ipam.Pool{Object: pool, Reference: metal3.PoolNamed("pool")},
				})
				unfit := &ipam.Unfit{Cause: ipam.IsGateway, IP: netip.MustParseAddr("10.0.0.1"), Refusal: ipam.Refuse(ipam.InvalidAddress, "it is the gateway")}

				err := a.setAside(t.Context(), al, metal3.Provider{}.ReadClaim(mine), unfitAddress{Unfit: unfit})

				if refused := errors.Is(err, unfit); refused != test.refused || !refused && err != nil {
					t.Errorf("got error %v, want it refused: %v", err, test.refused)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(mine), mine); err != nil {
					t.Fatal(err)
				}
				if ipam.IsSetAside(mine) == test.refused {
					t.Errorf("the claim is set aside: %v", ipam.IsSetAside(mine))
				}
			})
		}
	})
}

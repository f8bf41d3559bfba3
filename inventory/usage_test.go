package inventory

import (
	"fmt"
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

func inClusterPool(spec map[string]any) client.Object {
	pool := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	pool.SetAPIVersion("ipam.cluster.x-k8s.io/v1alpha2")
	pool.SetKind("InClusterIPPool")
	return pool
}

func metal3Pool(start, end string, change func(*ipamv1.IPPool)) client.Object {
	first, last, gateway := ipamv1.IPAddressStr(start), ipamv1.IPAddressStr(end), ipamv1.IPAddressStr("10.0.0.1")
	pool := &ipamv1.IPPool{Spec: ipamv1.IPPoolSpec{Prefix: 24, Gateway: &gateway, Pools: []ipamv1.Pool{{Start: &first, End: &last}}}}
	if change != nil {
		change(pool)
	}
	return pool
}

// holding are address objects; those that begin with ~ cool down.
func holding(addresses ...string) []Address {
	var all []Address
	for _, text := range addresses {
		object := &capiipamv1.IPAddress{}
		if text[0] == '~' {
			text = text[1:]
			object.Annotations = map[string]string{ipam.ReleasedAtAnnotation: metav1.Now().UTC().Format("2006-01-02T15:04:05Z")}
			object.Finalizers = []string{ipam.InUseFinalizer}
		}
		all = append(all, Address{Address: ipam.Address{Object: object, IP: text}, IP: parse(text)})
	}
	return all
}

func TestUsageAddsUpToThePool(t *testing.T) {
	inCluster := contract.Provider{}
	for name, test := range map[string]struct {
		pool Pool
		want string
	}{
		"of metal3": {
			Pool{Provider: metal3.Provider{}, Object: metal3Pool("10.0.0.88", "10.0.0.93", nil), Addresses: holding("10.0.0.88", "~10.0.0.89")},
			"6 = 1 used, 1 cooling, 0 reserved, 4 free",
		},
		"of metal3, with its gateway and an address for one claim": {
			Pool{Provider: metal3.Provider{}, Object: metal3Pool("10.0.0.0", "10.0.0.5", func(pool *ipamv1.IPPool) {
				pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.4"}
			})},
			"6 = 0 used, 0 cooling, 3 reserved, 3 free",
		},
		"of metal3, of which the address for one claim is held": {
			Pool{Provider: metal3.Provider{}, Object: metal3Pool("10.0.0.2", "10.0.0.5", func(pool *ipamv1.IPPool) {
				pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.4"}
			}), Addresses: holding("10.0.0.4")},
			"4 = 1 used, 0 cooling, 0 reserved, 3 free",
		},
		"of metal3, with two objects of one address": {
			Pool{Provider: metal3.Provider{}, Object: metal3Pool("10.0.0.2", "10.0.0.5", nil), Addresses: holding("10.0.0.2", "~10.0.0.2")},
			"4 = 1 used, 0 cooling, 0 reserved, 3 free",
		},
		"in-cluster": {
			Pool{Provider: inCluster, Object: inClusterPool(map[string]any{
				"addresses": []any{"10.0.0.0/28"}, "prefix": int64(28), "gateway": "10.0.0.1", "excludedAddresses": []any{"10.0.0.7-10.0.0.8"},
			}), Addresses: holding("10.0.0.3")},
			"16 = 1 used, 0 cooling, 5 reserved, 10 free",
		},
		"in-cluster, with an address outside its ranges": {
			Pool{Provider: inCluster, Object: inClusterPool(map[string]any{
				"addresses": []any{"10.0.0.3"}, "prefix": int64(24),
			}), Addresses: holding("10.0.0.4")},
			"2 = 1 used, 0 cooling, 0 reserved, 1 free",
		},
		"of IPv6": {
			Pool{Provider: inCluster, Object: inClusterPool(map[string]any{
				"addresses": []any{"2001:db8::/64"}, "prefix": int64(64),
			}), Addresses: holding("2001:db8::5")},
			"18446744073709551616 = 1 used, 0 cooling, 1 reserved, 18446744073709551614 free",
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := test.pool.Usage()
			got := fmt.Sprintf("%s = %d used, %d cooling, %s reserved, %s free", u.Total, u.Used, u.Cooling, u.Reserved, u.Free)
			if !u.Known || got != test.want {
				t.Errorf("got %s (known: %t), want %s", got, u.Known, test.want)
			}
		})
	}
}

func TestSizeOfAPoolOfAnotherKindIsNotKnown(t *testing.T) {
	pool := inClusterPool(map[string]any{"addresses": []any{"10.0.0.3"}})
	pool.(*unstructured.Unstructured).SetKind("Range")
	u := (&Pool{Provider: contract.Provider{}, Object: pool, Addresses: holding("10.0.0.3")}).Usage()
	if u.Known || u.Used != 1 {
		t.Errorf("got %+v, want one used of a size that is not known", u)
	}
}

func parse(text string) netip.Addr { return netip.MustParseAddr(text) }

package metal3

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
)

// withheld is a pool of six that gives two of them to nobody.
func withheld(t *testing.T) *ipamv1.IPPool {
	t.Helper()
	pool := servedPool(func(p *ipamv1.IPPool) {
		p.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.6"}
	}, entry("10.0.0.1", "10.0.0.6", ""))
	for _, ip := range ips("10.0.0.2", "10.0.0.3", "10.0.0.2") {
		if err := (Provider{}).Withhold(pool, ip); err != nil {
			t.Fatal(err)
		}
	}
	return pool
}

func TestWithheldAddressesAreTakenAndCountedByNobody(t *testing.T) {
	pool := withheld(t)
	taking := takingOf(pool, counts{})
	if taking == nil {
		t.Fatal("nothing of the pool can be taken")
	}
	for _, claim := range []string{"cp-0", "reserved-10.0.0.2"} {
		for ip := range taking.Addresses(claimNamed(claim)) {
			if slices.Contains(ips("10.0.0.2", "10.0.0.3", "10.0.0.6"), ip) {
				t.Errorf("claim %s may take %s", claim, ip)
			}
		}
	}
	if free, _ := freeOf(pool, counts{})([]string{"a", "b", "c", "d", "e", "f"}); free != 3 {
		t.Errorf("%d are free, want 3", free)
	}
	_, reserved, _ := Provider{}.Ranges(pool)
	for _, ip := range ips("10.0.0.2", "10.0.0.3") {
		if !reserved.Contains(ip) {
			t.Errorf("%s is not reserved", ip)
		}
	}
	if in, taken := offers(pool, counts{}, netip.MustParseAddr("10.0.0.2"), "cp-0"); !in || !taken {
		t.Errorf("a claim may ask for it: in %t, taken %t", in, taken)
	}
}

func TestReturnedAddressesAreAsBefore(t *testing.T) {
	pool := withheld(t)
	for _, ip := range ips("10.0.0.2", "10.0.0.3", "10.0.0.4") {
		if err := (Provider{}).Return(pool, ip); err != nil {
			t.Fatal(err)
		}
	}
	if want := map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.6"}; !reflect.DeepEqual(pool.Spec.PreAllocations, want) {
		t.Errorf("got %v, want what others have written: %v", pool.Spec.PreAllocations, want)
	}
}

// A migration takes off what it has reserved itself, and nothing else.
func TestWithheldAddressesStayThroughAMigrationToThePool(t *testing.T) {
	pool := withheld(t)
	before := pool.DeepCopy()
	for _, kept := range []map[string]netip.Addr{{"cp-0": netip.MustParseAddr("10.0.0.4"), nobodys + "10.0.0.2": netip.MustParseAddr("10.0.0.2")}, nil} {
		if err := (Provider{}).Reserve(pool, kept); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(pool.Spec, before.Spec) {
		t.Errorf("got %+v, want it as before: %+v", pool.Spec, before.Spec)
	}
}

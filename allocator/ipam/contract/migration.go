package contract

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

var _ ipam.Migratable = Provider{}

// migrated is a pool of the in-cluster provider that addresses are moved from, or to.
type migrated struct {
	*unstructured.Unstructured
	// Excluded is what spec.excludedAddresses is without what a migration has added, and added
	// what there still is of that.
	Excluded, added []string
}

// record is the content of ipam.PoolMigrationAnnotation.
type record struct {
	// Excluded is what spec.excludedAddresses was before, and Added what was added to it. What
	// is neither of them was written by others meanwhile, and is theirs.
	Excluded []string `json:"excluded"`
	Added    []string `json:"added"`
}

// inCluster is a pool of the in-cluster provider.
func (c Provider) inCluster(object client.Object) (*unstructured.Unstructured, error) {
	pool, ok := object.(*unstructured.Unstructured)
	if !ok || !c.isInCluster(referenceOf(object.GetObjectKind().GroupVersionKind(), object)) {
		return nil, fmt.Errorf("%s %s is no pool of the in-cluster provider", object.GetObjectKind().GroupVersionKind().Kind, object.GetName())
	}
	return pool, nil
}

// setExcluded has a pool exclude these addresses, and no others.
func setExcluded(pool *unstructured.Unstructured, excluded []string) error {
	if len(excluded) == 0 {
		unstructured.RemoveNestedField(pool.Object, "spec", "excludedAddresses")
		return nil
	}
	return unstructured.SetNestedStringSlice(pool.Object, excluded, "spec", "excludedAddresses")
}

func (c Provider) migrated(object client.Object) (migrated, error) {
	pool, err := c.inCluster(object)
	if err != nil {
		return migrated{}, err
	}
	m := migrated{Unstructured: pool}
	m.Excluded, _, _ = unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses")
	text, known := pool.GetAnnotations()[ipam.PoolMigrationAnnotation]
	if !known {
		return m, nil
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return migrated{}, fmt.Errorf("reading annotation %s: %w", ipam.PoolMigrationAnnotation, err)
	}
	if r.Added == nil {
		// It does not say what was added.
		m.Excluded = r.Excluded
		return m, nil
	}
	m.Excluded, m.added = without(m.Excluded, r.Added)
	return m, nil
}

// without are these texts but for one of each that was added behind them, and those.
func without(texts, added []string) (left, removed []string) {
	left = slices.Clone(texts)
	slices.Reverse(left)
	for _, text := range added {
		if i := slices.Index(left, text); i >= 0 {
			left, removed = slices.Delete(left, i, i+1), append(removed, text)
		}
	}
	slices.Reverse(left)
	return left, removed
}

// set excludes what was excluded before, and these. It remembers what that was, if asked to.
func (m migrated) set(added []string, remember bool) error {
	if err := setExcluded(m.Unstructured, slices.Concat(m.Excluded, added)); err != nil {
		return err
	}
	all := m.GetAnnotations()
	delete(all, ipam.PoolMigrationAnnotation)
	delete(all, clusterv1.PausedAnnotation)
	m.SetAnnotations(all)
	if !remember {
		return nil
	}
	text, err := json.Marshal(record{Excluded: m.Excluded, Added: append([]string{}, added...)})
	if err != nil {
		return err
	}
	kube.SetAnnotation(m, ipam.PoolMigrationAnnotation, string(text))
	return nil
}

// Freeze implements ipam.Migratable. The provider's webhook does not let an address in use
// be excluded, so that it would be handed out when it is freed: the pool is paused.
func (c Provider) Freeze(object client.Object, _ []netip.Addr) error {
	m, err := c.migrated(object)
	if err != nil {
		return err
	}
	if err := m.set(nil, true); err != nil {
		return err
	}
	kube.SetAnnotation(m, clusterv1.PausedAnnotation, "true")
	return nil
}

// IsFrozen implements ipam.Migratable.
func (Provider) IsFrozen(object client.Object) bool {
	_, known := object.GetAnnotations()[ipam.PoolMigrationAnnotation]
	return known && annotations.HasPaused(object)
}

// Close implements ipam.Migratable: all that is not in use is excluded, and the provider may
// go on with the rest.
func (c Provider) Close(object client.Object, used []netip.Addr) error {
	m, err := c.migrated(object)
	if err != nil {
		return err
	}
	texts, _, _ := unstructured.NestedStringSlice(m.Object, "spec", "addresses")
	all, err := addressSet(texts)
	if err != nil {
		return fmt.Errorf("reading the addresses of %s: %w", m.GetName(), err)
	}
	var free netipx.IPSetBuilder
	free.AddSet(all)
	for _, ip := range used {
		free.Remove(ip)
	}
	set, err := free.IPSet()
	if err != nil {
		return err
	}
	added := make([]string, 0, len(set.Ranges()))
	for _, r := range set.Ranges() {
		if r.From() == r.To() {
			added = append(added, r.From().String())
			continue
		}
		added = append(added, r.String())
	}
	return m.set(added, true)
}

// Thaw implements ipam.Migratable.
func (c Provider) Thaw(object client.Object, kept []netip.Addr) error {
	m, err := c.migrated(object)
	if err != nil {
		return err
	}
	return m.set(textsOf(kept), len(kept) > 0)
}

// Reserve implements ipam.Migratable. The address of a claim is there before it, so that
// whose it is need not be told.
func (c Provider) Reserve(object client.Object, kept map[string]netip.Addr) error {
	m, err := c.migrated(object)
	if err != nil {
		return err
	}
	ips := make([]netip.Addr, 0, len(kept))
	for _, ip := range kept {
		ips = append(ips, ip)
	}
	return m.set(textsOf(ips), len(kept) > 0)
}

// Withholds implements ipam.Migratable: the pool is paused, or the address is not in what it
// hands out.
func (c Provider) Withholds(pool client.Object, ip netip.Addr) bool {
	if annotations.HasPaused(pool) {
		return true
	}
	all, reserved, ok := c.Ranges(pool)
	return ok && (!all.Contains(ip) || reserved.Contains(ip))
}

func textsOf(ips []netip.Addr) []string {
	sorted := slices.SortedFunc(slices.Values(ips), netip.Addr.Compare)
	texts := make([]string, 0, len(sorted))
	for _, ip := range slices.Compact(sorted) {
		texts = append(texts, ip.String())
	}
	return texts
}

// HasNoted implements ipam.Migratable: the provider has counted what the pool consists of
// now.
func (c Provider) HasNoted(object client.Object) bool {
	pool, ok := object.(*unstructured.Unstructured)
	if !ok || annotations.HasPaused(object) {
		return true
	}
	all, reserved, ok := c.Ranges(pool)
	total, found, err := unstructured.NestedInt64(pool.Object, "status", "ipAddresses", "total")
	if !ok || !found || err != nil {
		return true
	}
	size := func(set *netipx.IPSet) *big.Int {
		sum := new(big.Int)
		for _, r := range set.Ranges() {
			from, to := new(big.Int).SetBytes(r.From().AsSlice()), new(big.Int).SetBytes(r.To().AsSlice())
			sum.Add(sum, to.Sub(to, from)).Add(sum, big.NewInt(1))
		}
		return sum
	}
	usable := size(all)
	return usable.Sub(usable, size(reserved)).Cmp(big.NewInt(total)) == 0
}

// RestsWhenFrozen implements ipam.Migratable: it does nothing for claims on a paused pool.
func (Provider) RestsWhenFrozen() bool { return true }

// Clash implements ipam.Migratable: claims and addresses name the kind of their pool.
func (Provider) Clash(_, _ client.Object) string { return "" }

package ipam

import (
	"encoding/json"
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// MigratingAnnotation is on a machine whose bindings are on the way from one pool to
// another, see Migration. While it is there, the controllers leave what they say alone.
const MigratingAnnotation = "capv-static-ip.dev/migrating"

// PoolMigrationAnnotation is on a pool that addresses are moved from, or to: what it was
// before, as its provider needs it. See Migratable.
const PoolMigrationAnnotation = "capv-static-ip.dev/migration"

// ClaimReference is a claim with the pool that it is on.
type ClaimReference struct {
	Pool  PoolReference `json:"pool"`
	Claim string        `json:"claim"`
}

// ClaimReference is the claim of the binding.
func (b Binding) ClaimReference() ClaimReference {
	return ClaimReference{Pool: b.Pool, Claim: b.Claim}
}

// Move is the way of one address of a machine from a claim to another. Which of the two is the
// current one stands in the bindings of the machine alone.
type Move struct {
	Address netip.Addr     `json:"address"`
	From    ClaimReference `json:"from"`
	To      ClaimReference `json:"to"`
}

// Current is the claim that the machine's bindings have, false if it is neither.
func (m Move) Current(bindings []Binding) (ClaimReference, bool) {
	for _, b := range bindings {
		if ref := b.ClaimReference(); b.Address.Addr() == m.Address && (ref == m.From || ref == m.To) {
			return ref, true
		}
	}
	return ClaimReference{}, false
}

// Migration is the content of MigratingAnnotation.
type Migration struct {
	// Machine is the machine it was written for: a copied manifest says nothing.
	Machine string `json:"machine"`
	// Back says that it is being undone.
	Back  bool   `json:"back,omitempty"`
	Moves []Move `json:"moves"`
}

// MigrationOf is what the annotation of a machine says, false if it has none, or none that
// can be read.
func MigrationOf(machine client.Object) (Migration, bool) {
	text, ok := machine.GetAnnotations()[MigratingAnnotation]
	if !ok || len(text) > MaxBindingsSize {
		return Migration{}, false
	}
	var m Migration
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Machine != machine.GetName() || len(m.Moves) > MaxDevices {
		return Migration{}, false
	}
	return m, true
}

// Encode is the form in which the annotation holds it.
func (m Migration) Encode() (string, error) {
	text, err := json.Marshal(m)
	return string(text), err
}

// Has tells whether a claim is one of those that are being moved, or moved to.
func (m Migration) Has(claim ClaimReference) bool {
	return slices.ContainsFunc(m.Moves, func(move Move) bool { return move.From == claim || move.To == claim })
}

// WithoutMigration is a pool as its users have it: without what a migration has made of it.
func WithoutMigration(provider Provider, pool client.Object) (client.Object, error) {
	migratable, ok := provider.(Migratable)
	if _, noted := pool.GetAnnotations()[PoolMigrationAnnotation]; !ok || !noted {
		return pool, nil
	}
	plain := pool.DeepCopyObject().(client.Object)
	return plain, migratable.Thaw(plain, nil)
}

// Migratable is a provider whose pools addresses can be moved from, and to. Its methods
// change a pool as it was read, and can be repeated. What a pool was before is in its
// PoolMigrationAnnotation.
type Migratable interface {
	// Freeze has a pool hand out nothing any more, whatever becomes free meanwhile. Used are
	// its addresses that exist.
	Freeze(pool client.Object, used []netip.Addr) error
	// IsFrozen tells whether Freeze was the last of what these have made of a pool.
	IsFrozen(pool client.Object) bool
	// Close is Freeze for good: nothing of the pool is to be moved any more.
	Close(pool client.Object, used []netip.Addr) error
	// Thaw undoes Freeze, and keeps these addresses from being handed out.
	Thaw(pool client.Object, kept []netip.Addr) error
	// Reserve keeps addresses from being handed out to other claims than those of these
	// names, and no others that it has kept before. It undoes Freeze, too.
	Reserve(pool client.Object, kept map[string]netip.Addr) error
	// Withholds tells whether a pool hands an address to nobody when that is given back to it.
	Withholds(pool client.Object, ip netip.Addr) bool
	// HasNoted tells whether the provider is seen to know the pool as it is now.
	HasNoted(pool client.Object) bool
	// Clash says why addresses cannot be moved between a pool of this provider and another
	// one, empty if they can.
	Clash(pool, other client.Object) string
	// RestsWhenFrozen tells whether the provider frees nothing of a frozen pool: then its
	// part has to be done for it.
	RestsWhenFrozen() bool
}

// Package reservation keeps addresses from being handed out of a pool, whoever claims, until a
// person decides what becomes of them: virtual machines that nobody here knows may use them.
package reservation

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

// defaultReason is why an address is reserved of which nobody says why.
const defaultReason = "by kubectl static-ip reserve"

// Wanted is an address of a pool that is to be reserved, and why, empty if nobody says.
type Wanted struct {
	Pool    inventory.PoolKey
	Address netip.Addr
	Reason  string
}

// Item is one that is wanted, with what there is to do about it.
type Item struct {
	Wanted
	// State is what becomes of the address now.
	State inventory.State
	// Writes is what is written to the pool, empty if that is nothing.
	Writes string
	// Obstacle is why it cannot be done, empty if it can.
	Obstacle string
}

// Plan is what there is to do to reserve addresses.
func Plan(graph *inventory.Graph, wanted []Wanted) []Item {
	return plan(graph, wanted, func(pool *inventory.Pool, item *Item, reserved ipam.Reservations) {
		had, isOurs := reserved[item.Address]
		switch {
		case item.State == inventory.Outside:
			item.Obstacle = "is in none of its ranges"
		case keptFor(pool, item.Address) != "":
			item.Obstacle = fmt.Sprintf("is pre-allocated for claim %q: take that out of its spec.preAllocations", keptFor(pool, item.Address))
		case item.State == inventory.Free:
			item.Writes = pool.Provider.(ipam.Reserver).Withholding(item.Address)
			item.Reason = cmp.Or(item.Reason, had, defaultReason)
		case item.State == inventory.Reserved && isOurs && item.Reason != "" && item.Reason != had:
			item.Writes = "annotation " + ipam.ReservedAnnotation
		case item.State == inventory.Reserved && isOurs:
			item.Reason = had
		case item.State == inventory.Reserved:
			item.Reason = "the pool gives it to nobody, by its spec"
		default:
			item.Obstacle = whyHeld(graph, pool, item.Address)
		}
	})
}

// PlanUndo is what there is to do to have a pool hand out addresses again that were reserved.
func PlanUndo(graph *inventory.Graph, wanted []Wanted) []Item {
	return plan(graph, wanted, func(pool *inventory.Pool, item *Item, reserved ipam.Reservations) {
		had, isOurs := reserved[item.Address]
		item.Reason = had
		switch {
		case isOurs:
			item.Writes = "without " + pool.Provider.(ipam.Reserver).Withholding(item.Address)
		case item.State == inventory.Reserved:
			item.Obstacle = "was not reserved by this command: edit the spec of the pool"
		case item.State == inventory.Outside:
			item.Obstacle = "is in none of its ranges"
		}
	})
}

// plan decides about each address of a pool that can be told.
func plan(graph *inventory.Graph, wanted []Wanted, decide func(*inventory.Pool, *Item, ipam.Reservations)) []Item {
	items := make([]Item, 0, len(wanted))
	for _, one := range wanted {
		item := Item{Wanted: one, State: inventory.Outside}
		if slices.ContainsFunc(items, func(other Item) bool { return other.Pool == one.Pool && other.Address == one.Address }) {
			continue
		}
		if item.Obstacle = unfit(graph.Pool(one.Pool)); item.Obstacle == "" {
			if err := item.decide(graph, decide); err != nil {
				item.Obstacle = err.Error()
			}
		}
		items = append(items, item)
	}
	return items
}

// decide goes by the pool as its users have it: what a migration withholds for a while, it hands
// out afterwards.
func (item *Item) decide(graph *inventory.Graph, decide func(*inventory.Pool, *Item, ipam.Reservations)) error {
	pool := *graph.Pool(item.Pool)
	var err error
	if pool.Object, err = ipam.WithoutMigration(pool.Provider, pool.Object); err != nil {
		return err
	}
	item.State = stateOf(graph, &pool, item.Address)
	reserved, err := ipam.ReservationsOf(pool.Object)
	if err != nil {
		return err
	}
	if item.State == inventory.Free {
		if other := movingFrom(graph, item.Wanted); other != nil {
			item.State, item.Obstacle = inventory.Reserved, fmt.Sprintf("is held in %s, and moved from or to there: run this again when that is over", other)
			return nil
		}
	}
	decide(&pool, item, reserved)
	return nil
}

// movingFrom is another pool in a migration in which a machine has an address that the pool, in a
// migration too, keeps for it, nil if there is none. What others have there stays there.
func movingFrom(graph *inventory.Graph, wanted Wanted) *inventory.Pool {
	isMoving := func(p *inventory.Pool) bool {
		return p.Object != nil && p.Object.GetAnnotations()[ipam.PoolMigrationAnnotation] != ""
	}
	pool := graph.Pool(wanted.Pool)
	if _, kept, ok := ipam.Ranges(pool.Provider, pool.Object); !ok || !isMoving(pool) || !kept.Contains(wanted.Address) {
		return nil
	}
	for _, other := range graph.Pools {
		if other == pool || !isMoving(other) {
			continue
		}
		if h := holdingOf(graph, other, wanted.Address); h != nil && h.Kind == capi.VSphereMachineKind.Kind {
			return other
		}
	}
	return nil
}

// unfit says why nothing can be reserved in a pool, empty if it can.
func unfit(pool *inventory.Pool) string {
	if pool == nil || pool.Object == nil {
		return "the pool does not exist"
	}
	_, can := pool.Provider.(ipam.Reserver)
	_, _, ranged := ipam.Ranges(pool.Provider, pool.Object)
	switch {
	case !can || !ranged:
		return "the pool is of a kind that this program cannot reserve addresses of: have its provider keep it"
	case !pool.Object.GetDeletionTimestamp().IsZero():
		return "the pool is being deleted"
	}
	return ""
}

// stateOf is what becomes of an address of a pool. That somebody has it comes first.
func stateOf(graph *inventory.Graph, pool *inventory.Pool, ip netip.Addr) inventory.State {
	if h := holdingOf(graph, pool, ip); h != nil {
		return h.State
	}
	all, reserved, _ := ipam.Ranges(pool.Provider, pool.Object)
	switch {
	case !all.Contains(ip):
		return inventory.Outside
	case reserved.Contains(ip):
		return inventory.Reserved
	}
	return inventory.Free
}

func holdingOf(graph *inventory.Graph, pool *inventory.Pool, ip netip.Addr) *inventory.Holding {
	holdings := graph.Holdings(pool)
	if i := slices.IndexFunc(holdings, func(h inventory.Holding) bool { return h.IP == ip }); i >= 0 {
		return &holdings[i]
	}
	return nil
}

// whyHeld says who has an address, as far as its objects tell.
func whyHeld(graph *inventory.Graph, pool *inventory.Pool, ip netip.Addr) string {
	h := holdingOf(graph, pool, ip)
	switch h.State {
	case inventory.Cooling:
		return "cools down, and its object keeps it until then: run this again when it is free"
	case inventory.Releasing:
		return "is being given back: run this again when its object is gone"
	}
	return fmt.Sprintf("is held by %s %s", h.Kind, h.NamespacedName)
}

// keptFor is the claim that alone is given an address, empty if there is none. No claim has a
// name with a slash.
func keptFor(pool *inventory.Pool, ip netip.Addr) string {
	for claim, kept := range ipam.DetailsOf(pool.Provider, pool.Object).KeptFor {
		if kept == ip && !strings.Contains(claim, "/") {
			return claim
		}
	}
	return ""
}

// holderOf names whom an address object was made for.
func holderOf(address ipam.Address) string {
	claim := types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim}
	if holder := ipam.HolderOf(address.Object); holder.Name != "" {
		return fmt.Sprintf("%s, by claim %s", holder.Name, claim)
	}
	return fmt.Sprintf("claim %s", claim)
}

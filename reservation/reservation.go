package reservation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

// Reservation reserves addresses, or undoes that.
type Reservation struct {
	Client    client.Client
	Providers ipam.Providers
	// Timeout bounds each wait for a provider.
	Timeout time.Duration
	// Settle is for how long a pool has to hand out nothing before it is believed that its
	// provider does not give what it knew to be free before.
	Settle time.Duration
	// Report tells of what is done.
	Report procedure.Report
}

// Run does what was planned. It looks anew at who has the addresses, before and after: what its
// provider has given away meanwhile is not reserved, and is an error.
func (r *Reservation) Run(ctx context.Context, items []Item) error {
	var errs []error
	for _, key := range poolsOf(items) {
		errs = append(errs, r.reserve(ctx, r.pool(key), of(items, key)))
	}
	return errors.Join(errs...)
}

// Undo has pools hand out addresses again.
func (r *Reservation) Undo(ctx context.Context, items []Item) error {
	for _, key := range poolsOf(items) {
		own := of(items, key)
		if err := r.change(ctx, r.pool(key), own, giveBack); err != nil {
			return err
		}
		r.Report("%s may hand out %s", key, listOf(own))
	}
	return nil
}

func (r *Reservation) pool(key inventory.PoolKey) procedure.Pool {
	return procedure.Pool{Client: r.Client, Provider: r.Providers.For(key.PoolReference), Namespace: key.Namespace, PoolReference: key.PoolReference}
}

// reserve reserves addresses of one pool.
func (r *Reservation) reserve(ctx context.Context, pool procedure.Pool, items []Item) error {
	taken, err := r.withhold(ctx, pool, &items)
	if err != nil || len(items) == 0 {
		return errors.Join(err, lost(taken))
	}
	addresses, err := r.settled(ctx, pool)
	if err != nil {
		return fmt.Errorf("looking whether somebody was given them meanwhile: %w", err)
	}
	late := heldAmong(addresses, items)
	if err := r.change(ctx, pool, late, giveBack); err != nil {
		return errors.Join(lost(append(taken, late...)), err)
	}
	if kept := without(items, late); len(kept) > 0 {
		r.Report("%s gives %s to nobody", pool.In(pool.Namespace), listOf(kept))
	}
	return lost(append(taken, late...))
}

// withhold writes those to the pool that nobody has, which stay among the items, and returns the
// others. What the provider's webhook refuses may be in use by then.
func (r *Reservation) withhold(ctx context.Context, pool procedure.Pool, items *[]Item) (taken []Item, err error) {
	all := *items
	err = procedure.Insist(ctx, r.Timeout, "reserving addresses of "+pool.In(pool.Namespace), func() (bool, error) {
		addresses, err := pool.Addresses(ctx)
		if err != nil {
			return false, err
		}
		taken = heldAmong(addresses, all)
		*items = without(all, taken)
		return true, pool.Reshape(ctx, func(object client.Object) error { return keep(pool.Provider.(ipam.Reserver), object, *items) })
	})
	return taken, err
}

// change does something with addresses of a pool, as far as there are any.
func (r *Reservation) change(ctx context.Context, pool procedure.Pool, items []Item, do func(ipam.Reserver, client.Object, []Item) error) error {
	return procedure.Insist(ctx, r.Timeout, "changing "+pool.In(pool.Namespace), func() (bool, error) {
		return true, pool.Reshape(ctx, func(object client.Object) error { return do(pool.Provider.(ipam.Reserver), object, items) })
	})
}

// keep has a pool as it was read give these to nobody.
func keep(reserver ipam.Reserver, pool client.Object, items []Item) error {
	reserved, err := ipam.ReservationsOf(pool)
	if err != nil {
		return err
	}
	for _, item := range items {
		if item.State == inventory.Free {
			if err := reserver.Withhold(pool, item.Address); err != nil {
				return err
			}
		}
		reserved[item.Address] = item.Reason
	}
	return reserved.Keep(pool)
}

// giveBack undoes keep.
func giveBack(reserver ipam.Reserver, pool client.Object, items []Item) error {
	reserved, err := ipam.ReservationsOf(pool)
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := reserver.Return(pool, item.Address); err != nil {
			return err
		}
		delete(reserved, item.Address)
	}
	return reserved.Keep(pool)
}

// settled are the addresses of a pool once it has handed out nothing for a while: a provider may
// be at work with what it had read before.
func (r *Reservation) settled(ctx context.Context, pool procedure.Pool) ([]ipam.Address, error) {
	if err := pool.AwaitNoted(ctx, pool.Provider.(ipam.Reserver).HasNoted); err != nil {
		return nil, err
	}
	before, err := pool.Addresses(ctx)
	for began := time.Now(); err == nil; {
		if err = procedure.Pause(ctx, r.Settle); err != nil {
			break
		}
		var now []ipam.Address
		if now, err = pool.Addresses(ctx); err != nil {
			break
		}
		if slices.Equal(namesOf(before), namesOf(now)) || time.Since(began) > r.Timeout {
			return now, nil
		}
		before = now
	}
	return nil, err
}

func namesOf(addresses []ipam.Address) []string {
	names := make([]string, 0, len(addresses))
	for _, address := range addresses {
		names = append(names, address.GetNamespace()+"/"+address.GetName())
	}
	slices.Sort(names)
	return names
}

// heldAmong are those of which there are address objects, with who has them.
func heldAmong(addresses []ipam.Address, items []Item) []Item {
	var held []Item
	for _, item := range items {
		i := slices.IndexFunc(addresses, func(a ipam.Address) bool { return capi.ParseAddress(a.IP) == item.Address })
		if i >= 0 {
			item.Obstacle = "was given to " + holderOf(addresses[i])
			held = append(held, item)
		}
	}
	return held
}

// lost is the error for what somebody was given meanwhile, nil if that is nothing.
func lost(items []Item) error {
	var texts []string
	for _, item := range items {
		texts = append(texts, fmt.Sprintf("%s %s meanwhile", item.Address, item.Obstacle))
	}
	if len(texts) == 0 {
		return nil
	}
	return fmt.Errorf("%s: not reserved; see who uses it, and run this again when it is free", strings.Join(texts, ", "))
}

func poolsOf(items []Item) []inventory.PoolKey {
	var keys []inventory.PoolKey
	for _, item := range items {
		if !slices.Contains(keys, item.Pool) {
			keys = append(keys, item.Pool)
		}
	}
	return keys
}

// of are those of a pool.
func of(items []Item, key inventory.PoolKey) []Item {
	return slices.DeleteFunc(slices.Clone(items), func(item Item) bool { return item.Pool != key })
}

func without(items, others []Item) []Item {
	isOther := func(item Item) bool {
		return slices.ContainsFunc(others, func(other Item) bool { return other.Address == item.Address })
	}
	return slices.DeleteFunc(slices.Clone(items), isOther)
}

func listOf(items []Item) string {
	ips := make([]netip.Addr, 0, len(items))
	for _, item := range items {
		ips = append(ips, item.Address)
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	texts := make([]string, 0, len(ips))
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ", ")
}

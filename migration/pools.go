package migration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

// WithAnnotation is on a pool that addresses are moved from, or to: the other pool.
const WithAnnotation = "capv-static-ip.dev/migration-with"

// nobodys begins what an address is kept for that no claim of a machine is to get.
const nobodys = "capv-static-ip.dev/"

// freeze has the old pool hand out nothing any more. Its provider's webhook may know less than
// there is, so that it is looked at again until nothing has come in between.
func (m *Migration) freeze(ctx context.Context) error {
	provider := m.migratable(m.From)
	return m.until(ctx, "freezing "+m.From.String(), func() (bool, error) {
		used, err := m.used(ctx, m.From)
		if err != nil {
			return false, err
		}
		if err := m.reshape(ctx, m.From, m.To, func(pool client.Object) error { return provider.Freeze(pool, used) }); err != nil {
			return false, err
		}
		after, err := m.used(ctx, m.From)
		return err == nil && !slices.ContainsFunc(after, func(ip netip.Addr) bool { return !slices.Contains(used, ip) }), err
	})
}

// close has the old pool hand out nothing for good. What was given back while its provider rested
// is freed before: afterwards, nobody could tell it from what is free.
func (m *Migration) close(ctx context.Context) error {
	provider := m.migratable(m.From)
	if provider.RestsWhenFrozen() {
		if err := m.dropAll(ctx); err != nil {
			return err
		}
	}
	return m.until(ctx, "closing "+m.From.String(), func() (bool, error) {
		used, err := m.used(ctx, m.From)
		if err != nil {
			return false, err
		}
		return true, m.reshape(ctx, m.From, m.To, func(pool client.Object) error { return provider.Close(pool, used) })
	})
}

// dropAll finishes what machines have given back to the old pool while it rested. What its
// provider keeps for a while longer stays in use until that is over.
func (m *Migration) dropAll(ctx context.Context) error {
	provider := m.Source.Providers.For(m.From.PoolReference)
	pool, err := m.pool(m.From).Read(ctx)
	if err != nil {
		return err
	}
	lingers := ipam.Lingers(provider, pool)
	objects, err := kube.List(ctx, m.Client, ipam.EmptyClaim(provider), client.InNamespace(m.From.Namespace))
	if err != nil {
		return fmt.Errorf("listing the claims on %s: %w", m.From, err)
	}
	for _, object := range objects {
		read, gone := provider.ReadClaim(object), object.GetDeletionTimestamp()
		if read.Pool != m.From.PoolReference || gone.IsZero() || time.Since(gone.Time) < lingers || !provider.HasOnlyOwnFinalizers(object) {
			continue
		}
		ref := ipam.ClaimReference{Pool: read.Pool, Claim: object.GetName()}
		for range 2 {
			s, err := m.side(ctx, object.GetNamespace(), ipam.Move{From: ref, Address: netip.IPv4Unspecified()}, ref)
			if err != nil {
				return err
			}
			if s.claim == nil && s.address == nil || s.isProtected() {
				break
			}
			if err := m.drop(ctx, m.From.PoolReference, s); err != nil && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	return nil
}

// thaw has the old pool hand out addresses again.
func (m *Migration) thaw(ctx context.Context) error {
	provider := m.migratable(m.From)
	return m.until(ctx, "resuming "+m.From.String(), func() (bool, error) {
		taken, err := m.used(ctx, m.To)
		if err != nil {
			return false, err
		}
		// What it has itself it does not hand out, and the in-cluster provider lets nobody exclude it.
		own, err := m.used(ctx, m.From)
		if err != nil {
			return false, err
		}
		return true, m.reshape(ctx, m.From, m.To, func(pool client.Object) error {
			all, _, err := m.plainly(m.From, pool)
			if err != nil {
				return err
			}
			return provider.Thaw(pool, slices.DeleteFunc(taken, func(ip netip.Addr) bool { return !all.Contains(ip) || slices.Contains(own, ip) }))
		})
	})
}

// reserve has the new pool hand out nothing that the old one still has.
func (m *Migration) reserve(ctx context.Context, p *Plan) error {
	provider := m.migratable(m.To)
	if err := m.until(ctx, "reserving addresses of "+m.To.String(), func() (bool, error) {
		kept, err := m.kept(ctx, p)
		if err != nil {
			return false, err
		}
		return true, m.reshape(ctx, m.To, m.From, func(pool client.Object) error {
			inside, err := m.inside(pool, kept)
			if err != nil {
				return err
			}
			return provider.Reserve(pool, inside)
		})
	}); err != nil {
		return err
	}
	return m.pool(m.To).AwaitNoted(ctx, provider.HasNoted)
}

// kept are the addresses that the old pool has and the new one has not, by the claims that are
// to get them.
func (m *Migration) kept(ctx context.Context, p *Plan) (map[string]netip.Addr, error) {
	used, err := m.used(ctx, m.From)
	if err != nil {
		return nil, err
	}
	taken, err := m.used(ctx, m.To)
	if err != nil {
		return nil, err
	}
	kept := map[string]netip.Addr{}
	isFree := func(ip netip.Addr) bool { return slices.Contains(used, ip) && !slices.Contains(taken, ip) }
	var claimed []netip.Addr
	for _, machine := range slices.Concat(p.ready(), p.halfWay()) {
		for _, move := range machine.Moves {
			if isFree(move.Address) {
				claim := move.To.Claim
				if m.To.Namespace == "" {
					claim = machine.Key.Namespace + "/" + claim
				}
				kept[claim] = move.Address
				claimed = append(claimed, move.Address)
			}
		}
	}
	for _, ip := range used {
		if isFree(ip) && !slices.Contains(claimed, ip) {
			kept[nobodys+ip.String()] = ip
		}
	}
	return kept, nil
}

// inside are those of the addresses to keep that the new pool would hand out without a migration.
func (m *Migration) inside(pool client.Object, kept map[string]netip.Addr) (map[string]netip.Addr, error) {
	all, reserved, err := m.plainly(m.To, pool)
	if err != nil {
		return nil, err
	}
	inside := map[string]netip.Addr{}
	for claim, ip := range kept {
		if all.Contains(ip) && !reserved.Contains(ip) {
			inside[claim] = ip
		}
	}
	return inside, nil
}

// plainly are the ranges that a pool has without a migration, and what of them it hands out to
// nobody.
func (m *Migration) plainly(key inventory.PoolKey, pool client.Object) (all, reserved *netipx.IPSet, err error) {
	provider := m.Source.Providers.For(key.PoolReference)
	plain, err := ipam.WithoutMigration(provider, pool)
	if err != nil {
		return nil, nil, err
	}
	all, reserved, ok := ipam.Ranges(provider, plain)
	if !ok {
		return nil, nil, fmt.Errorf("the ranges of %s cannot be read", key)
	}
	return all, reserved, nil
}

// reshape changes a pool, and notes the other one on it for as long as it is not what it was
// before.
func (m *Migration) reshape(ctx context.Context, key, other inventory.PoolKey, change func(client.Object) error) error {
	return m.pool(key).Reshape(ctx, func(pool client.Object) error {
		if err := m.checkPartner(ctx, pool, key, other); err != nil {
			return err
		}
		if err := change(pool); err != nil {
			return err
		}
		annotations := pool.GetAnnotations()
		delete(annotations, WithAnnotation)
		pool.SetAnnotations(annotations)
		if annotations[ipam.PoolMigrationAnnotation] != "" {
			kube.SetAnnotation(pool, WithAnnotation, other.String())
		}
		return nil
	})
}

// checkPartner returns an error if a pool takes part in a migration with another pool than this.
func (m *Migration) checkPartner(ctx context.Context, pool client.Object, key, other inventory.PoolKey) error {
	with := pool.GetAnnotations()[WithAnnotation]
	if with == "" || with == other.String() {
		return nil
	}
	graph, err := m.Source.ReadWhole(ctx)
	if err == nil && !m.isOver(graph, with) {
		err = fmt.Errorf("%s takes part in a migration with %s by now: finish or undo that first", key, with)
	}
	return err
}

// until tries something until it is done, see procedure.Insist.
func (m *Migration) until(ctx context.Context, what string, try func() (bool, error)) error {
	return procedure.Insist(ctx, m.Timeout, what, try)
}

// pool is a pool as it is changed here.
func (m *Migration) pool(key inventory.PoolKey) procedure.Pool {
	return procedure.Pool{
		Client: m.Client, Provider: m.Source.Providers.For(key.PoolReference), Namespace: key.Namespace, PoolReference: key.PoolReference,
	}
}

// used are the addresses of a pool that exist.
func (m *Migration) used(ctx context.Context, key inventory.PoolKey) ([]netip.Addr, error) {
	addresses, err := m.pool(key).Addresses(ctx)
	var used []netip.Addr
	for _, address := range addresses {
		if ip := capi.ParseAddress(address.IP); ip.IsValid() {
			used = append(used, ip)
		}
	}
	slices.SortFunc(used, netip.Addr.Compare)
	return slices.Compact(used), err
}

func (m *Migration) migratable(key inventory.PoolKey) ipam.Migratable {
	provider, _ := m.Source.Providers.For(key.PoolReference).(ipam.Migratable)
	return provider
}

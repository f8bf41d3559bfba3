package migration

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

// guard returns an error if a task must not be done by what the pools say now. Others write them
// as well: who undoes the migration at the same time, a tool that applies what it has of them, or
// who freezes them because he brings back a backup.
func (m *Migration) guard(ctx context.Context, o *observed, d decision) error {
	switch d.task {
	case announce:
		if _, err := m.thawed(ctx, o, m.To); err != nil {
			return err
		}
		pool, err := m.thawed(ctx, o, m.From)
		if err != nil || o.back {
			return err
		}
		return m.checkWithheld(pool, o.journeys...)
	case release:
		pool, err := m.thawed(ctx, o, m.From)
		if err != nil {
			return err
		}
		return m.checkWithheld(pool, o.journeys[d.journey])
	case giveUp:
		_, err := m.thawed(ctx, o, m.To)
		return err
	}
	return nil
}

// checkWithheld returns an error if the old pool would hand out an address that is given back to
// it, which the machine has by the new one.
func (m *Migration) checkWithheld(pool client.Object, journeys ...journey) error {
	for _, j := range journeys {
		if !m.migratable(m.From).Withholds(pool, j.Address) {
			return fmt.Errorf("%s is open for %s by now: somebody has undone the migration, or writes the pool; see to that, and run this again", m.From, j.Address)
		}
	}
	return nil
}

// thawed is a pool as it is now, and an error if claims of the machine on it are frozen.
func (m *Migration) thawed(ctx context.Context, o *observed, key inventory.PoolKey) (client.Object, error) {
	pool, err := m.pool(key).Read(ctx)
	if err != nil {
		return nil, err
	}
	freeze, err := m.frozenNamespace(ctx, o.machine.Namespace)
	if err != nil {
		return nil, err
	}
	if freeze == nil {
		freeze = ipam.FrozenBy(ipam.Pool{Object: pool, Reference: key.PoolReference}, nil, "")
	}
	if freeze != nil {
		return nil, fmt.Errorf("%s: wait until that is over, and run this again", freeze)
	}
	return pool, nil
}

// frozenNamespace is what freezes a namespace, nil if nothing does.
func (m *Migration) frozenNamespace(ctx context.Context, namespace string) (*ipam.Freeze, error) {
	if namespace == "" {
		return nil, nil
	}
	return allocator.Freezer{Live: m.Client}.Namespace(ctx, m.Client, namespace)
}

package main

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/torture/history"
)

// freezable is a namespace, or a pool of it.
type freezable struct {
	ns, pool string
	object   client.Object
}

// freezables are the namespace of an arena, and its pools.
func (a *arena) freezables() []freezable {
	all := []freezable{{a.ns, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.ns}}}}
	for _, s := range a.offered() {
		all = append(all, freezable{a.ns, s.ref(), s.object(a.ns)})
	}
	return all
}

// freeze has a namespace, or a pool, be frozen for a while.
func freeze(ctx context.Context, n *nemesis) (string, func() error) {
	all, d := n.anyArena().freezables(), n.some(5*time.Second, 25*time.Second)
	chosen := all[0]
	if n.rand.IntN(2) == 0 {
		chosen = all[1+n.rand.IntN(len(all)-1)]
	}
	return during(chosen.ns+" "+chosen.pool, d), func() error {
		if err := n.setFrozen(ctx, history.Freeze, chosen); err != nil {
			return err
		}
		wait(ctx, d)
		return n.setFrozen(ctx, history.Thaw, chosen)
	}
}

// setFrozen freezes something, or ends that. It is frozen at the latest from the end of the
// one operation, and at least to the begin of the other.
func (t *trial) setFrozen(ctx context.Context, kind string, what freezable) error {
	text := `"tortured"`
	if kind == history.Thaw {
		text = "null"
	}
	mark := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+ipam.FrozenAnnotation+`":`+text+`}}}`))
	op := history.Op{Worker: -1, Kind: kind, Namespace: what.ns, Name: what.pool}
	return t.record(ctx, mendTimeout, op, func(ctx context.Context) error {
		return t.mend(ctx, "the freeze to begin or to end", func(ctx context.Context) error {
			return t.stack.Plane.Client.Patch(ctx, what.object.DeepCopyObject().(client.Object), mark)
		})
	})
}

// thaw ends every freeze that whoever began it could not end.
func (t *trial) thaw(ctx context.Context) error {
	for _, a := range t.arenas {
		for _, what := range a.freezables() {
			if err := t.setFrozen(ctx, history.Thaw, what); err != nil {
				return err
			}
		}
	}
	return nil
}

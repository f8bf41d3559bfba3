package migration

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

// stops are what keeps addresses from being moved between two pools at all.
func (m *Migration) stops(graph *inventory.Graph, from, to *inventory.Pool) []string {
	var stops []string
	for key, pool := range map[inventory.PoolKey]*inventory.Pool{m.From: from, m.To: to} {
		if why := m.unfit(graph, key, pool); why != "" {
			stops = append(stops, why)
		}
	}
	if len(stops) > 0 {
		return stops
	}
	if m.From == m.To {
		stops = append(stops, "the pools are one and the same")
	}
	if m.From.Namespace != m.To.Namespace && m.To.Namespace != "" {
		stops = append(stops, fmt.Sprintf("%s is not for the machines of %s: name pools of one namespace", m.To, m.From))
	}
	if why := cmp.Or(m.migratable(m.From).Clash(from.Object, to.Object), m.migratable(m.To).Clash(to.Object, from.Object)); why != "" {
		stops = append(stops, why)
	}
	_, isFrozen := from.Object.GetAnnotations()[ipam.PoolMigrationAnnotation]
	if annotations.HasPaused(from.Object) && !isFrozen {
		stops = append(stops, fmt.Sprintf("%s is paused: resume it", m.From))
	}
	if with := to.Object.GetAnnotations()[WithAnnotation]; annotations.HasPaused(to.Object) && with != m.From.String() {
		stops = append(stops, fmt.Sprintf("%s is paused: resume it", m.To))
	}
	return stops
}

// unreserved are the addresses that the old pool was told to give to nobody, and that the new one
// would hand out afterwards: somebody uses them who has no claim. Nothing is brought back less
// for that.
func (m *Migration) unreserved(from, to *inventory.Pool) []string {
	reserved, err := ipam.ReservationsOf(from.Object)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", m.From, err)}
	}
	all, kept, err := m.plainly(m.To, to.Object)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", m.To, err)}
	}
	var stops []string
	for _, ip := range slices.SortedFunc(maps.Keys(reserved), netip.Addr.Compare) {
		if all.Contains(ip) && !kept.Contains(ip) {
			inNamespace := ""
			if m.To.Namespace != "" {
				inNamespace = " -n " + m.To.Namespace
			}
			stops = append(stops, fmt.Sprintf("%s is reserved in %s (%s), and %s would hand it out: kubectl static-ip reserve %s/%s %s%s --yes",
				ip, m.From, reserved[ip], m.To, m.To.KindName(), m.To.Name, ip, inNamespace))
		}
	}
	return stops
}

// unfit says why a pool has no part in any migration, empty if it may.
func (m *Migration) unfit(graph *inventory.Graph, key inventory.PoolKey, pool *inventory.Pool) string {
	other := m.From
	if key == m.From {
		other = m.To
	}
	switch {
	case pool == nil || pool.Object == nil:
		return fmt.Sprintf("%s does not exist: make it, with all the addresses that are to be moved to it in its ranges", key)
	case !pool.Object.GetDeletionTimestamp().IsZero():
		return fmt.Sprintf("%s is being deleted", key)
	case m.migratable(key) == nil || !isKnown(pool):
		return fmt.Sprintf("%s is of a kind that this program cannot move addresses from or to", key)
	}
	if why, frozen := ipam.IsFrozen(pool.Object); frozen {
		return fmt.Sprintf("%s is frozen (%s): nothing is claimed there and nothing given back; wait until that is over", key, why)
	}
	if with := pool.Object.GetAnnotations()[WithAnnotation]; with != "" && with != other.String() && !m.isOver(graph, with) {
		return fmt.Sprintf("%s takes part in a migration with %s: finish or undo that first, and reserve in it what is to stay in the other pool (annotation %s)",
			key, with, WithAnnotation)
	}
	return ""
}

// isOver tells whether a migration with the pool of this name is over, since that is gone. Of a
// namespace that was not read, nobody knows.
func (m *Migration) isOver(graph *inventory.Graph, with string) bool {
	return isGone(graph, m.Source.Namespace, with)
}

// isGone tells whether the graph, which is of this namespace or of all, would have a pool of this
// name, and has not.
func isGone(graph *inventory.Graph, read, with string) bool {
	namespace, _, _ := strings.Cut(with, "/")
	wasRead := read == "" || namespace == read || isOfAllNamespaces(with)
	return wasRead && poolOf(graph, with) == nil
}

// isOfAllNamespaces tells whether a pool that is noted as the other one of a migration has no
// namespace.
func isOfAllNamespaces(with string) bool { return strings.Count(with, "/") == 1 }

// poolOf is the pool that a pool names as the other one of a migration, nil if there is none.
func poolOf(graph *inventory.Graph, with string) *inventory.Pool {
	i := slices.IndexFunc(graph.Pools, func(pool *inventory.Pool) bool { return pool.String() == with })
	if i < 0 {
		return nil
	}
	return graph.Pools[i]
}

// GoneBefore is the old pool of a migration that is not finished, as KIND/NAME names it, if that
// was deleted meanwhile: what the new one keeps for it, it keeps for ever, see Finish. Read is the
// namespace that the graph is of, empty for all.
func GoneBefore(graph *inventory.Graph, read, name string, to *inventory.Pool) (inventory.PoolKey, bool) {
	with := to.Object.GetAnnotations()[WithAnnotation]
	var key inventory.PoolKey
	own := with
	if !isOfAllNamespaces(with) {
		key.Namespace, own, _ = strings.Cut(with, "/")
	}
	key.Kind, key.Name, _ = strings.Cut(own, "/")
	return key, key.Name != "" && strings.EqualFold(own, name) && isGone(graph, read, with)
}

// isKnown tells whether a given address of the pool can be had, and its ranges are known.
func isKnown(pool *inventory.Pool) bool {
	requester, ok := pool.Provider.(ipam.Requester)
	_, _, ranged := ipam.Ranges(pool.Provider, pool.Object)
	return ok && ranged && requester.CanRequest(pool.PoolReference)
}

// mayWrite asks the API server, in dry runs, whether what is to be written to a machine would be
// denied. A policy that protects bindings does not show in what one may do.
func (m *Migration) mayWrite(ctx context.Context, machine Machine) string {
	stored := &capi.VSphereMachine{}
	if err := m.Client.Get(ctx, machine.Key, stored); err != nil {
		return ""
	}
	before := stored.DeepCopy()
	text := stored.Annotations[ipam.BindingsAnnotation] + " "
	metav1.SetMetaDataAnnotation(&stored.ObjectMeta, ipam.BindingsAnnotation, text)
	err := m.Client.Patch(ctx, stored, client.MergeFrom(before), client.DryRunAll)
	if err == nil || !isDenied(err) {
		return ""
	}
	return fmt.Sprintf("you may not change who holds an address: %v; this needs the right to patch VSphereMachines, and where deploy/protection is installed, "+
		"have yourself named in exempt-users of ConfigMap capv-static-ip-protection for as long as it takes", err)
}

func isDenied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) }

func placeOf(ip netip.Addr) func(capi.Place) bool {
	return func(place capi.Place) bool { return place.IP == ip }
}

func compareKeys(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// reversed names a machine that is half way in the other direction. What that has frozen, and
// reserved, would be undone here.
func (m *Migration) reversed(graph *inventory.Graph) string {
	for _, machine := range graph.Machines {
		migration, ok := ipam.MigrationOf(machine)
		isReversed := ok && machine.DeletionTimestamp.IsZero() && slices.ContainsFunc(migration.Moves, func(move ipam.Move) bool {
			return m.isOf(m.To, machine.Namespace, move.From.Pool) && m.isOf(m.From, machine.Namespace, move.To.Pool)
		})
		if isReversed {
			return fmt.Sprintf("VSphereMachine %s is half way from %s to %s: finish that, or undo it with --abort", client.ObjectKeyFromObject(machine), m.To, m.From)
		}
	}
	return ""
}

package inventory

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// perMachine is how long a roll-out takes for one machine, at the least: so many addresses
// are in the middle of their cool-down at a time.
const perMachine = 2 * time.Minute

// Demand is what a workload needs of a pool beyond what its machines hold.
type Demand struct {
	*Workload
	// Pool is that which is asked first, and Else those that will do as well.
	Pool *Pool
	Else []*Pool
	// Has are the addresses of the pools that its machines hold, or that are kept for the
	// next of them.
	Has int
	// RollOut is what a roll-out needs at most at one time, Scale what is missing for the
	// machines that are wanted, and Max for those that an autoscaler may want.
	RollOut, Scale, Max int
	// Cools are the addresses that a roll-out keeps cooling down, at most, while it goes on.
	// They are not in RollOut.
	Cools int
	// Whole is what all its machines use.
	Whole int
	// Note says what is special.
	Note string
}

// Needs is what has to be free for the next step: the machines that are wanted and not
// there, and a roll-out of those that are. It is never more than all machines use anew:
// those that are replaced go while the new ones come.
func (d Demand) Needs() int { return min(d.Scale+d.RollOut, d.Whole) }

// Demands are what all workloads need of the pools that they name, sorted by pool.
func (g *Graph) Demands() []Demand {
	var demands []Demand
	for _, w := range g.Workloads {
		demands = append(demands, g.DemandsOf(w)...)
	}
	slices.SortStableFunc(demands, func(a, b Demand) int {
		return cmp.Or(cmp.Compare(a.Pool.Namespace, b.Pool.Namespace), cmp.Compare(a.Pool.Name, b.Pool.Name),
			cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return demands
}

// want is what machines of a workload ask of the same pools.
type want struct {
	pools []*Pool
	// devices are the addresses of one machine, and places the failure domains in which
	// machines ask so.
	devices, places int
}

// DemandsOf are what one workload needs of each pool, or of the pools of which any will do.
func (g *Graph) DemandsOf(w *Workload) []Demand {
	var wants []*want
	byPools := map[string]*want{}
	for _, place := range w.Places {
		devices := map[*want]int{}
		for _, ask := range place.Asks {
			pools := g.poolsFor(w, ask)
			if len(pools) == 0 {
				continue
			}
			key := keyOf(pools)
			if byPools[key] == nil {
				byPools[key] = &want{pools: pools}
				wants = append(wants, byPools[key])
			}
			devices[byPools[key]]++
		}
		for of, count := range devices {
			of.devices = max(of.devices, count)
			of.places++
		}
	}
	demands := make([]Demand, 0, len(wants))
	for _, of := range wants {
		demands = append(demands, w.demand(*of, g.heldOf(w, of.pools), g.reuseAfter))
	}
	return demands
}

func keyOf(pools []*Pool) string {
	names := make([]string, len(pools))
	for i, pool := range pools {
		names[i] = pool.String()
	}
	return strings.Join(names, "|")
}

// demand is the arithmetic. Of a workload whose machines are spread over failure domains
// with pools of their own, each pool serves a share of them.
func (w *Workload) demand(of want, has int, reuseAfter time.Duration) Demand {
	d := Demand{Workload: w, Pool: of.pools[0], Else: of.pools[1:], Has: has}
	machines, surge := w.Replicas, w.surge()
	if of.places > 0 && of.places < len(w.Places) {
		machines = roundedUp(w.Replicas*of.places, len(w.Places))
	}
	d.Whole = of.devices * machines
	// In the middle of a roll-out some of that is held already.
	d.RollOut = max(0, min(of.devices*surge, d.Whole)-max(0, has-d.Whole))
	d.Scale = max(0, d.Whole-has)
	if w.Max > 0 {
		d.Max = max(0, of.devices*(w.Max-w.Replicas))
	}
	cooling := roundedUp(int(d.Pool.coolDown(reuseAfter)/time.Second), int(perMachine/time.Second))
	d.Cools = of.devices * min(machines, cooling)
	if surge == 0 && w.Replicas > 0 {
		d.Note = "no surge: a replacement waits until the old machine's VM is gone"
	}
	return d
}

func roundedUp(n, by int) int { return (n + by - 1) / by }

// coolDown is for how long addresses of the pool cool down.
func (p *Pool) coolDown(byDefault time.Duration) time.Duration {
	if p.Object == nil {
		return byDefault
	}
	after, says, err := ipam.ReuseAfter(p.Object)
	if err != nil || !says {
		return byDefault
	}
	return after
}

// surge is how many machines more a roll-out makes: 1 if nothing is said. Of a
// percentage, Cluster API makes the next whole number
// (internal/controllers/machinedeployment/mdutil, MaxSurge).
func (w *Workload) surge() int {
	switch {
	case w.OnDelete:
		return 0
	case w.Surge == nil:
		return 1
	}
	surge, err := intstr.GetScaledValueFromIntOrPercent(w.Surge, w.Replicas, true)
	if err != nil {
		return 1
	}
	return max(0, surge)
}

// poolsFor are the pools from which the address of an ask may be, in the order of the
// choices. A pool that says it is for others is not among them.
func (g *Graph) poolsFor(w *Workload, ask ipam.Ask) []*Pool {
	var pools []*Pool
	holder := ipam.Machine{NamespacedName: client.ObjectKeyFromObject(w), Cluster: w.Cluster}
	for _, choice := range ask.Choices {
		for _, pool := range g.Pools {
			if !pool.isMeant(w.GetNamespace(), choice) || slices.Contains(pools, pool) || !pool.isFor(holder, ask) {
				continue
			}
			pools = append(pools, pool)
			if choice.Pool.Name != "" {
				// A name means one pool.
				break
			}
		}
	}
	return pools
}

// isFor tells whether a pool is, by what it says itself, for a device of this machine.
func (p *Pool) isFor(holder ipam.Machine, ask ipam.Ask) bool {
	if p.Object == nil {
		return true
	}
	err := ipam.CheckStatement(ipam.Pool{Object: p.Object, Reference: p.PoolReference}, holder, ipam.Want{Ask: ask, Pool: p.PoolReference})
	_, refused := ipam.AsRefusal(err)
	return !refused
}

// isMeant tells whether a choice means this pool. A bare name is that of an IPPool, or
// else of an InClusterIPPool: pools are in this order here, too, see Source.Read.
func (p *Pool) isMeant(namespace string, choice ipam.Choice) bool {
	if p.Namespace != "" && p.Namespace != namespace {
		return false
	}
	if choice.Pool.Name == "" {
		if p.Object == nil || choice.Labels.IsEmpty() {
			return false
		}
		for key, value := range choice.Labels.Set() {
			if p.Object.GetLabels()[key] != value {
				return false
			}
		}
		return true
	}
	if p.Namespace == "" && choice.Pool.Kind == "" {
		return false
	}
	return p.Name == choice.Pool.Name && (choice.Pool.Kind == "" || choice.Pool.Kind == p.Kind) &&
		(choice.Pool.APIGroup == "" || choice.Pool.APIGroup == p.APIGroup)
}

// heldOf is how many addresses of these pools the machines of a workload hold, or the next
// of them finds kept for it.
func (g *Graph) heldOf(w *Workload, pools []*Pool) int {
	held := 0
	for _, m := range g.machinesOf(w) {
		if !m.DeletionTimestamp.IsZero() {
			continue
		}
		for _, b := range m.Bindings {
			if slices.ContainsFunc(pools, func(pool *Pool) bool { return b.Pool == pool.PoolReference }) {
				held++
			}
		}
	}
	for _, claim := range g.makers.kept {
		if slices.Contains(pools, claim.pool) && g.isKeptFor(w, claim.Claim) {
			held++
		}
	}
	return held
}

// isKeptFor tells whether a claim without a machine serves the next machine of a workload:
// one of its machines was refused after its address was claimed.
func (g *Graph) isKeptFor(w *Workload, claim ipam.Claim) bool {
	if claim.GetNamespace() != w.GetNamespace() || !claim.GetDeletionTimestamp().IsZero() {
		return false
	}
	owner := ipam.RequesterOf(claim)
	if w.isControlPlane() {
		return owner == w.GetUID()
	}
	return g.makers.deployments[owner] == w.GetName()
}

// machinesOf are the machines of a workload, by the labels that Cluster API writes on them.
func (g *Graph) machinesOf(w *Workload) []*Machine {
	machines := g.makers.machines[maker{w.GetKind(), w.GetNamespace(), w.GetName()}]
	if !w.isControlPlane() {
		return machines
	}
	return slices.Concat(machines, g.makers.machines[maker{capi.ClusterKind.Kind, w.GetNamespace(), w.Cluster}])
}

func hasLabel(m *Machine, label string) bool {
	_, has := m.Labels[label]
	return has
}

// Free is what the pools have, false if one does not say its size.
func (d Demand) Free() (free *big.Int, known bool) { return freeIn(d.all()) }

func freeIn(pools []*Pool) (free *big.Int, known bool) {
	free = new(big.Int)
	for _, pool := range pools {
		usage := pool.Usage()
		if !usage.Known {
			return nil, false
		}
		free.Add(free, usage.Free)
	}
	return free, true
}

// PoolNames are the pools, as in an expression that asks for any of them.
func (d Demand) PoolNames() string { return keyOf(d.all()) }

// Cooling are the addresses of the pools that cool down.
func (d Demand) Cooling() int {
	cooling := 0
	for _, pool := range d.all() {
		cooling += pool.Usage().Cooling
	}
	return cooling
}

func (d Demand) all() []*Pool { return append([]*Pool{d.Pool}, d.Else...) }

// Short is how many addresses the pools lack for one workload, 0 if they have enough, or
// if their size is not known.
func (d Demand) Short() int { return d.Lacks(d.Needs()) }

// Lacks is how many of so many addresses the pools do not have.
func (d Demand) Lacks(needed int) int {
	free, known := d.Free()
	if !known || free.Cmp(big.NewInt(int64(needed))) >= 0 {
		return 0
	}
	return needed - int(free.Int64())
}

package inventory

import (
	"cmp"
	"math/big"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Demand is what a workload needs of a pool beyond what its machines hold.
type Demand struct {
	*Workload
	Pool *Pool
	// Has are the addresses of the pool that its machines hold.
	Has int
	// RollOut is what a roll-out needs at most at one time, Scale what is missing for the
	// machines that are wanted, and Max for those that an autoscaler may want.
	RollOut, Scale, Max int
	// Note says what is special.
	Note string
}

// Needs is what has to be free for the next step: the machines that are wanted and not
// there, and a roll-out of those that are.
func (d Demand) Needs() int { return d.Scale + d.RollOut }

// Demands are what all workloads need of the pools that they name, sorted by pool. A
// workload with several choices for an address counts where it asks first.
func (g *Graph) Demands() []Demand {
	var demands []Demand
	for _, w := range g.Workloads {
		devices := map[*Pool]int{}
		for _, ask := range w.Asks {
			if pool := g.firstChoice(w.GetNamespace(), ask); pool != nil {
				devices[pool]++
			}
		}
		for pool, d := range devices {
			demands = append(demands, w.demand(pool, d, g.held(w, pool)))
		}
	}
	slices.SortFunc(demands, func(a, b Demand) int {
		return cmp.Or(cmp.Compare(a.Pool.Namespace, b.Pool.Namespace), cmp.Compare(a.Pool.Name, b.Pool.Name),
			cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return demands
}

// demand is the arithmetic, for a pool of which each machine needs so many addresses.
func (w *Workload) demand(pool *Pool, perMachine, has int) Demand {
	d := Demand{Workload: w, Pool: pool, Has: has}
	surge := w.surge()
	d.RollOut = perMachine * surge
	d.Scale = max(0, perMachine*w.Replicas-has)
	if w.Max > 0 {
		d.Max = max(0, perMachine*(w.Max-w.Replicas))
	}
	if surge == 0 && w.Replicas > 0 {
		d.Note = "no surge: a replacement waits until the old machine's VM is gone"
	}
	return d
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

// firstChoice is the pool that an ask means first, nil if there is none.
func (g *Graph) firstChoice(namespace string, ask ipam.Ask) *Pool {
	for _, choice := range ask.Choices {
		for _, pool := range g.Pools {
			if pool.isMeant(namespace, choice) {
				return pool
			}
		}
	}
	return nil
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

// held is how many addresses of a pool the machines of a workload hold. Machines are
// known by the labels that Cluster API writes on them.
func (g *Graph) held(w *Workload, pool *Pool) int {
	held := 0
	for _, m := range g.Machines {
		if m.Namespace != w.GetNamespace() || !w.made(m) || !m.DeletionTimestamp.IsZero() {
			continue
		}
		for _, b := range m.Bindings {
			if b.Pool == pool.PoolReference {
				held++
			}
		}
	}
	return held
}

// made tells whether a machine is one of the workload's.
func (w *Workload) made(m *Machine) bool {
	if w.GetKind() == capi.KubeadmControlPlaneKind.Kind {
		return m.Labels[clusterv1.MachineControlPlaneNameLabel] == w.GetName() ||
			(hasLabel(m, clusterv1.MachineControlPlaneLabel) && m.Labels[clusterv1.ClusterNameLabel] == w.Cluster)
	}
	return m.Labels[clusterv1.MachineDeploymentNameLabel] == w.GetName()
}

func hasLabel(m *Machine, label string) bool {
	_, has := m.Labels[label]
	return has
}

// SurgeOf is the most that one roll-out needs of a pool: roll-outs begin one after
// another.
func SurgeOf(pool *Pool, demands []Demand) int {
	surge := 0
	for _, d := range demands {
		if d.Pool == pool {
			surge = max(surge, d.RollOut)
		}
	}
	return surge
}

// Short is how many addresses a pool lacks for one workload, 0 if it has enough, or if
// its size is not known.
func (d Demand) Short() int {
	usage := d.Pool.Usage()
	if !usage.Known || usage.Free.Cmp(big.NewInt(int64(d.Needs()))) >= 0 {
		return 0
	}
	return d.Needs() - int(usage.Free.Int64())
}

package inventory

import (
	"math/big"
	"slices"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// SurgeOf is the most that one roll-out needs of a pool: roll-outs begin one after
// another, but for as many MachineDeployments of a Cluster as it is upgraded at a time.
func SurgeOf(pool *Pool, demands []Demand) int {
	surge := 0
	together := map[client.ObjectKey][]int{}
	concurrency := map[client.ObjectKey]int{}
	for _, d := range demands {
		need := d.rollOutIn(pool)
		surge = max(surge, need)
		if d.Concurrency > 1 && !d.isControlPlane() && d.isOfTopology() {
			cluster := client.ObjectKey{Namespace: d.GetNamespace(), Name: d.Cluster}
			together[cluster], concurrency[cluster] = append(together[cluster], need), d.Concurrency
		}
	}
	for cluster, needs := range together {
		slices.SortFunc(needs, func(a, b int) int { return b - a })
		sum := 0
		for _, need := range needs[:min(len(needs), concurrency[cluster])] {
			sum += need
		}
		surge = max(surge, sum)
	}
	return surge
}

// SurgeOfAll is what a pool needs if all its owners roll out at once.
func SurgeOfAll(pool *Pool, demands []Demand) int {
	sum := 0
	for _, d := range demands {
		sum += d.rollOutIn(pool)
	}
	return sum
}

// isOfTopology tells whether a Cluster's topology rolls it out.
func (w *Workload) isOfTopology() bool {
	_, owned := w.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]
	return owned
}

// rollOutIn is what a roll-out needs of one pool: all of it, or what the others do not have
// that will do as well.
func (d Demand) rollOutIn(pool *Pool) int {
	all := d.all()
	at := slices.Index(all, pool)
	if at < 0 {
		return 0
	}
	free, known := freeIn(slices.Delete(all, at, at+1))
	switch {
	case !known, free.Cmp(big.NewInt(int64(d.RollOut))) >= 0:
		return 0
	case free.Sign() < 0:
		return d.RollOut
	}
	return d.RollOut - int(free.Int64())
}

package adoption

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

// fate is what becomes of a machine without an address.
type fate int

const (
	// settled: it has what it needs, or goes.
	settled fate = iota
	// served: it is given its address.
	served
	// resumed: it is given its address when it, or its Cluster, is resumed.
	resumed
	// unnamed: nobody names a pool for it.
	unnamed
	// tooLate: its VM exists without the address.
	tooLate
	// unowned: no Machine owns it.
	unowned
)

// fateOf is what becomes of a machine.
func (s *state) fateOf(m *inventory.Machine) fate {
	waitsFor := s.graph.WaitsFor(m)
	switch {
	case waitsFor == "" || len(m.Bindings) > 0:
		return settled
	case waitsFor == inventory.WaitsInVain:
		return tooLate
	case waitsFor == inventory.WaitsForName:
		return unnamed
	case !isOwned(m):
		return unowned
	case isPaused(m, s.graph.ClusterOf(m)):
		return resumed
	}
	return served
}

// waiting are the machines and VSphereClusters that the manager has yet to serve.
func (s *state) waiting() []string {
	claimed := map[types.UID][]string{}
	for _, c := range s.judged(serving) {
		if c.address.IsValid() {
			claimed[c.owner.UID] = append(claimed[c.owner.UID], c.address.String())
		}
	}
	var waiting []string
	for _, m := range s.graph.Machines {
		if s.fateOf(m) != served {
			continue
		}
		text := fmt.Sprintf("VSphereMachine %s/%s waits for an address of %s", m.Namespace, m.Name, s.graph.WaitsFor(m))
		if addresses := claimed[m.UID]; len(addresses) > 0 {
			text += ", and the adapter has claimed " + strings.Join(addresses, ", ")
		}
		waiting = append(waiting, text)
	}
	for _, c := range s.graph.Clusters {
		if s.waitsForEndpoint(c) && machine.AsksForEndpoint(c) {
			waiting = append(waiting, fmt.Sprintf("VSphereCluster %s/%s waits for its endpoint", c.Namespace, c.Name))
		}
	}
	return waiting
}

// waitsForEndpoint tells whether a VSphereCluster would be given an endpoint if it asked.
func (s *state) waitsForEndpoint(c *inventory.Cluster) bool {
	cluster := s.clusterOn(c)
	return c.Spec.ControlPlaneEndpoint.Host == "" && c.DeletionTimestamp.IsZero() &&
		cluster != nil && cluster.Spec.ControlPlaneEndpoint.Host == "" && !isPaused(c, cluster)
}

// machineNotes tell of machines that wait, and are not waited for.
func (s *state) machineNotes() []string {
	var notes []string
	for _, m := range s.graph.Machines {
		name := fmt.Sprintf("VSphereMachine %s/%s", m.Namespace, m.Name)
		switch s.fateOf(m) {
		case resumed:
			notes = append(notes, name+" waits for an address, and gets it when it, or its Cluster, is resumed")
		case tooLate:
			notes = append(notes, name+" has a VM without its address: replace the machine")
		case unowned:
			notes = append(notes, name+" waits for an address, and no Machine owns it: delete it if it is left over")
		}
	}
	return notes
}

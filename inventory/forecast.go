package inventory

import (
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
)

// Change is an update of a MachineDeployment, a KubeadmControlPlane or a Cluster, or the
// creation of one if there is nothing before.
type Change struct {
	Before, After *unstructured.Unstructured
}

// step is what a change has a workload do.
type step struct {
	*Workload
	// rolls: its machines are replaced. grows: it is to have more of them.
	rolls, grows bool
	// name is how a sentence names the workload.
	name string
}

// Forecast says what a change will want for: a sentence for each pool that does not have
// the addresses which the change needs.
func (g *Graph) Forecast(change Change) []string {
	if change.After.GetDeletionTimestamp() != nil {
		return nil
	}
	if change.After.GetKind() == capi.ClusterKind.Kind {
		return g.forecastTopology(change)
	}
	s := step{Workload: g.Workload(change.After), name: "this " + change.After.GetKind()}
	if change.Before == nil {
		s.grows = true
	} else {
		s.rolls = !same(change, rollingFields(change.After.GetKind())...)
		s.grows = s.Replicas > newWorkload(change.Before).Replicas
	}
	return g.warnings(s)
}

// rollingFields are those whose change has Cluster API replace machines. What else a
// template of machines says is changed in place. Of each field there is one name for
// each version of the API.
func rollingFields(kind string) []string {
	if kind == capi.KubeadmControlPlaneKind.Kind {
		return []string{"spec.version", "spec.machineTemplate.infrastructureRef", "spec.machineTemplate.spec.infrastructureRef"}
	}
	const machine = "spec.template.spec."
	return []string{machine + "version", machine + "bootstrap", machine + "infrastructureRef", machine + "failureDomain"}
}

// same tells whether these fields are the same before and after.
func same(change Change, fields ...string) bool {
	return !slices.ContainsFunc(fields, func(field string) bool {
		path := strings.Split(field, ".")
		before, _, _ := unstructured.NestedFieldNoCopy(change.Before.Object, path...)
		after, _, _ := unstructured.NestedFieldNoCopy(change.After.Object, path...)
		return !reflect.DeepEqual(before, after)
	})
}

// warnings are those about one workload.
func (g *Graph) warnings(s step) []string {
	var warnings []string
	for _, d := range g.DemandsOf(s.Workload) {
		if text := s.warning(d); text != "" {
			warnings = append(warnings, text)
		}
	}
	return warnings
}

// warning is the sentence about one demand, empty if there is enough.
func (s step) warning(d Demand) string {
	needed := 0
	switch {
	case s.rolls:
		needed = d.Needs()
	case s.grows:
		needed = d.Scale
	}
	short := d.Lacks(needed)
	switch {
	case short > 0 && s.rolls:
		return fmt.Sprintf("%s; a roll-out of %s needs %d more than it holds: it will stall; add addresses", d.supply(), s.name, needed)
	case short > 0:
		return fmt.Sprintf("%s; the machines that %s is to have need %d more than it holds: %s will be refused; add addresses",
			d.supply(), s.name, needed, isOrAre(short, "one", fmt.Sprint(short)))
	case s.rolls && d.Note != "" && d.Lacks(1) > 0:
		return fmt.Sprintf("%s; a roll-out of %s goes on as VMs go: its machines have no surge, and a replacement is refused until then", d.supply(), s.name)
	}
	return ""
}

// supply is what the pools have, as a sentence begins.
func (d Demand) supply() string {
	free, _ := d.Free()
	names := make([]string, 0, 1+len(d.Else))
	for _, pool := range d.all() {
		names = append(names, pool.In(pool.Namespace))
	}
	verb := "has"
	if len(names) > 1 {
		verb = "have"
	}
	if free.Sign() <= 0 {
		return fmt.Sprintf("%s %s no free address", strings.Join(names, " and "), verb)
	}
	addresses := "addresses"
	if free.Cmp(big.NewInt(1)) == 0 {
		addresses = "address"
	}
	return fmt.Sprintf("%s %s %s free %s", strings.Join(names, " and "), verb, InWords(free), addresses)
}

func isOrAre(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// forecastTopology is Forecast for a Cluster: for what its topology makes already. What a
// topology adds is not known before it is made.
func (g *Graph) forecastTopology(change Change) []string {
	if change.Before == nil {
		return nil
	}
	all := !same(change, "spec.topology.version", "spec.topology.class", "spec.topology.classRef",
		"spec.topology.classNamespace", "spec.topology.variables")
	var warnings []string
	var rolling []Demand
	for _, w := range g.Workloads {
		if w.GetNamespace() != change.After.GetNamespace() || w.Cluster != change.After.GetName() || !w.isOfTopology() {
			continue
		}
		before, after := w.topologyIn(change.Before), w.topologyIn(change.After)
		if after == nil {
			continue
		}
		then := w.as(after)
		s := step{
			Workload: then, name: fmt.Sprintf("%s %q", w.GetKind(), w.GetName()),
			rolls: all || !reflect.DeepEqual(rollingPart(before), rollingPart(after)), grows: then.Replicas > w.Replicas,
		}
		warnings = append(warnings, g.warnings(s)...)
		if s.rolls {
			rolling = append(rolling, g.DemandsOf(then)...)
		}
	}
	if len(warnings) > 0 {
		return warnings
	}
	return together(rolling)
}

// Topology are the workloads that a Cluster's topology makes already, as it says now.
func (g *Graph) Topology(cluster *unstructured.Unstructured) []*Workload {
	var workloads []*Workload
	for _, w := range g.Workloads {
		if w.GetNamespace() != cluster.GetNamespace() || w.Cluster != cluster.GetName() || !w.isOfTopology() {
			continue
		}
		if part := w.topologyIn(cluster); part != nil {
			workloads = append(workloads, w.as(part))
		}
	}
	return workloads
}

// as is the workload with as many machines as a part of a topology says.
func (w *Workload) as(part map[string]any) *Workload {
	then := *w
	if replicas, found, _ := unstructured.NestedInt64(part, "replicas"); found {
		then.Replicas = int(replicas)
	}
	return &then
}

// topologyIn is what a Cluster's topology says of a workload, nil if nothing.
func (w *Workload) topologyIn(cluster *unstructured.Unstructured) map[string]any {
	if w.isControlPlane() {
		part, _, _ := unstructured.NestedMap(cluster.Object, "spec", "topology", "controlPlane")
		if part == nil {
			part = map[string]any{}
		}
		return part
	}
	parts, _, _ := unstructured.NestedSlice(cluster.Object, "spec", "topology", "workers", "machineDeployments")
	for _, part := range parts {
		if fields, ok := part.(map[string]any); ok && fields["name"] == w.GetLabels()[clusterv1.ClusterTopologyMachineDeploymentNameLabel] {
			return fields
		}
	}
	return nil
}

// rollingPart leaves out of it what is changed without new machines.
func rollingPart(part map[string]any) map[string]any {
	rest := map[string]any{}
	for field, value := range part {
		switch field {
		case "replicas", "metadata", "strategy", "rollout", "nodeDrainTimeout", "nodeVolumeDetachTimeout", "nodeDeletionTimeout",
			"deletion", "minReadySeconds", "readinessGates", "machineHealthCheck", "healthCheck":
		default:
			rest[field] = value
		}
	}
	return rest
}

// together warns of pools that have enough for each roll-out, and not for all that a
// Cluster begins at once.
func together(rolling []Demand) []string {
	var warnings []string
	var seen []*Pool
	for _, d := range rolling {
		if slices.Contains(seen, d.Pool) {
			continue
		}
		seen = append(seen, d.Pool)
		alone := Demand{Workload: d.Workload, Pool: d.Pool}
		if needed := SurgeOf(d.Pool, rolling); alone.Lacks(needed) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s; the roll-outs that the Cluster begins at a time (%d) need %d: they will stall; add addresses",
				alone.supply(), d.Concurrency, needed))
		}
	}
	return warnings
}

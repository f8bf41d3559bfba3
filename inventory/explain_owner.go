package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/retry"
)

// ExplainOwner tells why a MachineSet or a control plane does not get its machines.
func (g *Graph) ExplainOwner(kind string, key types.NamespacedName) Story {
	object := g.ownerObject(kind, key)
	s := Story{Title: fmt.Sprintf("%s %s", kind, key)}
	if object != nil {
		s.Title = title(kind, object)
	}
	g.explainRefusal(&s, kind, key, object)
	if !s.Wrong {
		s.say(0, "No machine of it waits for an address.")
	}
	if set := g.machineSet(key.Namespace, key.Name); set != nil && kind == capi.MachineSetKind.Kind {
		for _, miss := range writtenOn(set, "its spec.template.metadata").misses(nil) {
			s.say(0, "%s", miss)
		}
	}
	return s
}

func (g *Graph) ownerObject(kind string, key types.NamespacedName) *unstructured.Unstructured {
	if kind == capi.MachineSetKind.Kind {
		return g.machineSet(key.Namespace, key.Name)
	}
	for _, w := range g.Workloads {
		if w.GetKind() == kind && w.GetNamespace() == key.Namespace && w.GetName() == key.Name {
			return w.Unstructured
		}
	}
	return nil
}

// explainRefusal tells what an owner was refused, and what it waits for. The object is nil
// if nothing but that was read.
func (g *Graph) explainRefusal(s *Story, kind string, key types.NamespacedName, object *unstructured.Unstructured) {
	condition := conditionOf(object, ipam.AddressesAvailableCondition)
	var shortages retry.Shortages
	for _, owner := range g.Owners {
		if owner.Kind == kind && owner.Namespace == key.Namespace && owner.Name == key.Name {
			shortages = owner.Shortages
		}
	}
	if shortages == nil {
		g.explainAfterwards(s, kind, key, object, condition)
		return
	}
	s.warn(0, "machines of it were refused%s:", g.howOften(kind, key))
	said := false
	if condition["reason"] != nil {
		s.say(1, "%v: %v", condition["reason"], condition["message"])
		s.see(ipam.Reason(fmt.Sprint(condition["reason"])))
		said = true
	}
	for _, t := range g.toldOf(kind, key.Namespace, key.Name) {
		if !said && slices.Contains(reasonsOf(shortages), t.Reason) {
			s.say(1, "%s", t)
			s.see(ipam.Reason(t.Reason))
			said = true
		}
	}
	s.say(0, "It waits for:")
	for _, obstacle := range slices.SortedFunc(maps.Keys(shortages), func(a, b retry.Obstacle) int { return cmp.Compare(a.String(), b.String()) }) {
		g.explainObstacle(s, key.Namespace, obstacle, shortages[obstacle])
	}
	if shortages.HasReason() {
		s.say(0, "It is made to try again every minute. Any change of it (an annotation) makes it try at once.")
	} else {
		s.say(0, "It is made to try again within seconds when that is there.")
	}
	s.next("kubectl describe %s %s -n %s", strings.ToLower(kind), key.Name, key.Namespace)
}

// reasonsOf are the reasons of Events that may be of what an owner waits for.
func reasonsOf(shortages retry.Shortages) []string {
	reasons := []string{string(ipam.PoolExhausted), string(ipam.PoolNotFound), string(ipam.CoolingDown), string(ipam.NoPoolMatches)}
	for obstacle := range shortages {
		if obstacle.Reason != "" {
			reasons = append(reasons, string(obstacle.Reason))
		}
	}
	return reasons
}

// explainAfterwards tells of an owner on which a refusal has left something.
func (g *Graph) explainAfterwards(s *Story, kind string, key types.NamespacedName, object *unstructured.Unstructured, condition map[string]any) {
	if object == nil {
		return
	}
	if at, tried := object.GetAnnotations()[ipam.TriedAgainAnnotation]; tried {
		s.say(0, "Machines of it were refused. It was made to try again (%s): within seconds it shows whether that has helped.", at)
		return
	}
	if condition["status"] == "False" {
		s.warn(0, "it has the condition %s (%v), and waits for nothing: somebody took off the annotation %s by hand, "+
			"or restored the status alone", ipam.AddressesAvailableCondition, condition["reason"], ipam.RefusedByAnnotation)
		s.next("kubectl edit %s %s -n %s --subresource=status   (it goes with the next refusal that is cured, too)", strings.ToLower(kind), key.Name, key.Namespace)
	}
}

func (g *Graph) explainObstacle(s *Story, namespace string, obstacle retry.Obstacle, needed uint64) {
	if obstacle.Reason != "" {
		s.say(1, "%s to be mended", obstacle.Reason)
		return
	}
	pool := g.PoolOf(namespace, obstacle.Pool)
	if pool == nil || pool.Object == nil {
		s.say(1, "%s, which does not exist", obstacle.Pool)
		if found := g.elsewhere(namespace, obstacle.Pool); found != "" {
			s.say(1, "There is %s: that is not meant by it.", found)
		}
		return
	}
	s.next("kubectl static-ip pool %s/%s -n %s   (who has them)", pool.Kind, pool.Name, cmp.Or(pool.Namespace, namespace))
	usage := pool.Usage()
	if !usage.Known {
		s.say(1, "%s of %s", addresses(int(needed)), pool) //nolint:gosec // it is 255 at most
		return
	}
	s.say(1, "%s of %s: %s of %s free, %d used, %d cooling", addresses(int(needed)), pool, //nolint:gosec // it is 255 at most
		InWords(usage.Free), InWords(usage.Total), usage.Used, usage.Cooling)
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

// howOften is how often an owner was refused, and when last, as far as its Events say.
func (g *Graph) howOften(kind string, key types.NamespacedName) string {
	count, last := int32(0), time.Time{}
	for _, t := range g.toldOf(kind, key.Namespace, key.Name) {
		count += t.count
		if t.last.After(last) {
			last = t.last
		}
	}
	if count == 0 {
		return ""
	}
	return fmt.Sprintf(" %s, last %s ago", times(count), duration.HumanDuration(g.At.Sub(last)))
}

func (g *Graph) often(t told) string {
	return fmt.Sprintf("%s, last %s ago", times(t.count), duration.HumanDuration(g.At.Sub(t.last)))
}

func times(n int32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// ExplainWorkload tells what a MachineDeployment or KubeadmControlPlane asks for, and
// whether its next roll-out has what it needs.
func (g *Graph) ExplainWorkload(w *Workload) Story {
	s := Story{Title: fmt.Sprintf("%s %s/%s%s", w.GetKind(), w.GetNamespace(), w.GetName(), ofCluster(w.Cluster))}
	rolling := ""
	if surge := w.surge(); surge > 0 {
		rolling = fmt.Sprintf(" (+%d while rolling)", surge)
	}
	s.say(0, "It wants %d machines%s.", w.Replicas, rolling)
	if w.AsksError != nil {
		s.warn(0, "%v", w.AsksError)
	}
	for _, ask := range w.Asks {
		s.say(0, "device %d %q", ask.Device.Index, ask.Device.NetworkName)
		s.field(1, "asked by", "%s", ask.AskedBy)
		if pool := g.meant(w.GetNamespace(), ask.Choices...); pool != nil {
			s.field(1, "pool", "%s", inUse(pool))
		} else {
			s.warn(1, "no such pool exists in this namespace")
			g.explainElsewhere(&s, w.GetNamespace(), []ipam.Ask{ask})
		}
	}
	if len(w.Asks) == 0 && w.AsksError == nil {
		g.explainSilence(&s, w)
	}
	g.explainDemand(&s, w)
	if w.GetKind() == capi.KubeadmControlPlaneKind.Kind {
		g.explainRefusal(&s, w.GetKind(), types.NamespacedName{Namespace: w.GetNamespace(), Name: w.GetName()}, w.Unstructured)
	}
	for _, set := range g.setsOf(w) {
		if refused := g.ExplainOwner(capi.MachineSetKind.Kind, set); refused.Wrong {
			s.add(refused)
		}
	}
	if !s.Wrong && len(w.Asks) > 0 {
		s.say(0, "As it should be.")
	}
	return s
}

// explainSilence tells of what a workload that asks for nothing may have meant.
func (g *Graph) explainSilence(s *Story, w *Workload) {
	s.say(0, "Its machines ask for no address of a pool.")
	places := []written{w.written()}
	if cluster := g.cluster(w.GetNamespace(), w.Cluster); cluster != nil {
		places = append(places, writtenOnCluster(cluster))
	}
	for _, p := range places {
		for _, miss := range p.misses(nil) {
			s.warn(1, "%s", miss)
			s.next("%s", labelTemplate(w.GetNamespace(), w.Template, places))
		}
	}
}

func (g *Graph) explainDemand(s *Story, w *Workload) {
	for _, d := range g.Demands() {
		if d.Workload != w {
			continue
		}
		s.say(0, "Its machines hold %d of %s (%d missing); a roll-out needs %d more.", d.Has, d.Pool, d.Scale, d.RollOut)
		if d.Note != "" {
			s.say(0, "%s.", d.Note)
		}
		if short := d.Short(); short > 0 {
			s.warn(0, "%s is %d short", d.Pool, short)
			s.next("kubectl static-ip pool %s/%s -n %s   (who has them)", d.Pool.Kind, d.Pool.Name, cmp.Or(d.Pool.Namespace, w.GetNamespace()))
		}
	}
}

// setsOf are the MachineSets of a MachineDeployment.
func (g *Graph) setsOf(w *Workload) []types.NamespacedName {
	var sets []types.NamespacedName
	if g.closer == nil {
		return nil
	}
	for _, set := range g.closer.sets {
		if owner, owned := capi.DeploymentOf(set); owned && owner.UID == w.GetUID() {
			sets = append(sets, types.NamespacedName{Namespace: set.GetNamespace(), Name: set.GetName()})
		}
	}
	return sets
}

// conditionOf is a condition of an object, empty if it has none of this type. In v1beta1
// those of this form are in a place of their own.
func conditionOf(object *unstructured.Unstructured, kind string) map[string]any {
	if object == nil {
		return nil
	}
	for _, path := range [][]string{{"status", "conditions"}, {"status", "v1beta2", "conditions"}} {
		conditions, _, _ := unstructured.NestedSlice(object.Object, path...)
		for _, condition := range conditions {
			if fields, ok := condition.(map[string]any); ok && fields["type"] == kind {
				return fields
			}
		}
	}
	return nil
}

func ofCluster(name string) string {
	if name == "" {
		return ""
	}
	return ", of Cluster " + name
}

package removal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

// stops are what keeps the removal from beginning, or from going on.
func (r *Removal) stops(ctx context.Context, s *state) ([]*Stop, error) {
	var stops []*Stop
	if len(s.deployments) > 1 {
		stop := &Stop{What: "there is more than one Deployment of a manager", Next: "delete those that are left over, after a look at what they serve"}
		for i := range s.deployments {
			stop.Because = append(stop.Because, fmt.Sprintf("Deployment %s/%s", s.deployments[i].Namespace, s.deployments[i].Name))
		}
		stops = append(stops, stop)
	}
	owned, err := r.owned(ctx, s)
	if err != nil {
		return nil, err
	}
	stops = append(stops, owned...)
	if relying := s.relying(); len(relying) > 0 {
		stops = append(stops, &Stop{
			What: "these still rely on capv-static-ip: what they make without it waits in CAPV for ever", Because: relying,
			Next: "give them another source of addresses (dhcp4, addressesFromPools, or skipIPAllocation), or delete what nobody uses; then run this again",
		})
	}
	if paused := s.paused(); len(paused) > 0 {
		stops = append(stops, &Stop{What: "these are paused, so nothing of theirs can be finished", Because: paused, Next: "resume them, then run this again"})
	}
	missing, err := r.missingRights(ctx, s)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		stops = append(stops, missing)
	}
	return stops, nil
}

// owned is a stop for each who installed us.
func (r *Removal) owned(ctx context.Context, s *state) ([]*Stop, error) {
	owners, err := installation.OwnersOf(ctx, r.Client, s.installed())
	if err != nil || r.OwnerStopped {
		return nil, err
	}
	stops := make([]*Stop, 0, len(owners))
	for _, owner := range owners {
		stop := &Stop{What: "capv-static-ip was installed by " + owner.Name, Next: "run this again with --owner-stopped"}
		if owner.Stop != "" {
			stop.What += ", which would bring back what is deleted"
			stop.Next = owner.Stop + ", then run this again with --owner-stopped"
		}
		if owner.After != "" {
			stop.Next += "; at the end: " + owner.After
		}
		stops = append(stops, stop)
	}
	return stops, nil
}

// relying are the makers of machines, and endpoints, that would wait without us.
func (s *state) relying() []string {
	var relying []string
	used := map[client.ObjectKey]bool{}
	for _, w := range s.graph.Workloads {
		key := client.ObjectKey{Namespace: w.GetNamespace(), Name: w.Template}
		template := s.graph.Templates[key]
		switch {
		case len(w.Asks) > 0:
			used[key] = true
			relying = append(relying, fmt.Sprintf("%s %s/%s: VSphereMachineTemplate %s needs an address for device %d, asked for by %s",
				w.GetKind(), w.GetNamespace(), w.GetName(), w.Template, w.Asks[0].Device.Index, w.Asks[0].AskedBy))
		case w.AsksError != nil && template != nil && machine.TemplateWaits(template):
			used[key] = true
			relying = append(relying, fmt.Sprintf("%s %s/%s: %v", w.GetKind(), w.GetNamespace(), w.GetName(), w.AsksError))
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.graph.Templates), func(a, b client.ObjectKey) int { return strings.Compare(a.String(), b.String()) }) {
		if template := s.graph.Templates[key]; !used[key] && asks(template) && machine.TemplateWaits(template) {
			relying = append(relying, fmt.Sprintf("VSphereMachineTemplate %s: it asks for a pool, and a device has no other source of addresses", key))
		}
	}
	for _, zone := range s.zones {
		if key := poolsAnnotation(zone); key != "" {
			relying = append(relying, fmt.Sprintf("%s: annotation %s names pools for its machines", zone, key))
		}
	}
	for _, c := range s.graph.Clusters {
		if c.Spec.ControlPlaneEndpoint.Host == "" && asks(c) {
			relying = append(relying, fmt.Sprintf("VSphereCluster %s/%s: it waits for its endpoint", c.Namespace, c.Name))
		}
	}
	return relying
}

// asks tells whether somebody asked for a pool on an object.
func asks(o client.Object) bool {
	return o.GetLabels()[machine.PoolNameLabel] != "" || !ipam.LabelsOf(o).IsEmpty() || poolsAnnotation(o) != ""
}

func poolsAnnotation(o client.Object) string {
	for _, key := range slices.Sorted(maps.Keys(o.GetAnnotations())) {
		if strings.HasPrefix(key, ipam.PoolsAnnotationPrefix) {
			return key
		}
	}
	return ""
}

// paused are the Clusters and machines of ours that are paused.
func (s *state) paused() []string {
	ofCluster := map[client.ObjectKey]bool{}
	note := func(o client.Object) {
		if name := o.GetLabels()[clusterv1.ClusterNameLabel]; name != "" {
			ofCluster[client.ObjectKey{Namespace: o.GetNamespace(), Name: name}] = true
		}
	}
	var paused []string
	for _, holder := range s.holders() {
		note(holder)
		if _, is := holder.GetAnnotations()[clusterv1.PausedAnnotation]; is {
			paused = append(paused, fmt.Sprintf("%s, by annotation %s", holder, clusterv1.PausedAnnotation))
		}
	}
	for _, claim := range s.claims {
		if isOurs(claim) {
			note(claim)
		}
	}
	for _, cluster := range s.clusters {
		owns := ofCluster[client.ObjectKeyFromObject(cluster)] || slices.ContainsFunc(s.graph.Clusters, func(c *inventory.Cluster) bool {
			return c.Namespace == cluster.Namespace && cluster.IsOn(c.Name) && controllerutil.ContainsFinalizer(c, ipam.ReleaseFinalizer)
		})
		_, annotated := cluster.Annotations[clusterv1.PausedAnnotation]
		if owns && (cluster.IsPaused() || annotated) {
			paused = append(paused, fmt.Sprintf("Cluster %s/%s", cluster.Namespace, cluster.Name))
		}
	}
	return paused
}

// waiting are the machines that the manager has yet to serve.
func (s *state) waiting() []string {
	var waiting []string
	for _, m := range s.graph.Machines {
		if len(m.Bindings) > 0 || m.Spec.ProviderID != "" || !m.DeletionTimestamp.IsZero() {
			continue
		}
		template := s.graph.Templates[client.ObjectKey{Namespace: m.Namespace, Name: m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]}]
		asked := asks(m) || (template != nil && asks(template))
		if asked && slices.ContainsFunc(m.Spec.Network.Devices, hasNoSource) {
			waiting = append(waiting, fmt.Sprintf("VSphereMachine %s/%s waits for an address", m.Namespace, m.Name))
		}
	}
	return waiting
}

func hasNoSource(d capi.Device) bool {
	isTrue := func(b *bool) bool { return b != nil && *b }
	return !isTrue(d.DHCP4) && !isTrue(d.DHCP6) && !isTrue(d.SkipIPAllocation) && len(d.IPAddrs) == 0 && len(d.AddressesFromPools) == 0
}

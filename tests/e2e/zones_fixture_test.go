package e2e

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// sceneLabel tells the failure domains of a scene from those of others: they have no
// namespace.
const sceneLabel = "test.capv-static-ip.dev/scene"

// domainIn is a failure domain of the scene in a zone of the vCenter. It asks for a pool
// of its own, if one is given.
type domainIn struct {
	stack.Zone
	name string
}

// zone makes a failure domain in a zone of the vCenter, which CAPV then finds to be ready.
func (s *scene) zone(index int, ask harness.Option, change ...func(*capvv1.Topology)) domainIn {
	s.Helper()
	zone := stack.Zones()[index]
	in := domainIn{Zone: zone, name: s.ns + "-" + zone.Tag}
	overlay := stack.FailureDomain(zone, in.name)
	for _, c := range change {
		c(&overlay.Spec.Topology)
	}
	options := []harness.Option{harness.WithLabel(sceneLabel, s.ns)}
	if ask != nil {
		options = append(options, ask)
	}
	deployment := s.stack.DeploymentZone(zone, in.name, options...)
	s.create(overlay, deployment)
	s.Cleanup(func() { s.dropZone(in) })
	s.eventually(provisioned, "failure domain "+in.name+" to be ready", func(ctx context.Context) error {
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return err
		}
		if ready := deployment.Status.Ready; ready == nil || !*ready {
			return fmt.Errorf("its conditions are %v", deployment.Status.Conditions)
		}
		return nil
	})
	return in
}

// dropZone deletes a failure domain. CAPV keeps it while a Machine is in it, and then deletes
// what it laid over that.
func (s *scene) dropZone(in domainIn) {
	deployment := &capvv1.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: in.name}}
	if err := s.stack.Plane.Client.Delete(context.Background(), deployment); client.IgnoreNotFound(err) != nil {
		s.Logf("deleting %s: %v", in.name, err)
	}
}

// labelToMove has clusterctl take a failure domain along, with what CAPV makes its own: with
// each Cluster that is moved, until the test ends, so that no other is.
func (s *scene) labelToMove(in domainIn) {
	s.Helper()
	moving.Lock()
	s.movesAlone = true
	deployment := &capvv1.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: in.name}}
	s.get(deployment)
	patch(s, deployment, func(zone *capvv1.VSphereDeploymentZone) {
		metav1.SetMetaDataLabel(&zone.ObjectMeta, clusterctlv1.ClusterctlMoveHierarchyLabel, "")
	})
	s.Cleanup(func() {
		defer moving.Unlock()
		unlabel := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"`+clusterctlv1.ClusterctlMoveHierarchyLabel+`":null}}}`))
		if err := s.stack.Plane.Client.Patch(context.Background(), deployment, unlabel); client.IgnoreNotFound(err) != nil {
			s.Errorf("what was moved along stays so: %v", err)
		}
	})
}

// spread has the control plane of the scene's Cluster spread over its failure domains.
func (s *scene) spread(domains ...domainIn) {
	s.Helper()
	infrastructure := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: harness.DefaultCluster}}
	s.get(infrastructure)
	patch(s, infrastructure, func(cluster *capvv1.VSphereCluster) {
		cluster.Spec.FailureDomainSelector = &metav1.LabelSelector{MatchLabels: map[string]string{sceneLabel: s.ns}}
	})
	s.eventually(provisioned, "the Cluster to have failure domains", func(ctx context.Context) error {
		cluster := &clusterv1.Cluster{}
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: harness.DefaultCluster}, cluster); err != nil {
			return err
		}
		if got := len(cluster.Status.FailureDomains); got != len(domains) {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
}

// configured replaces the networks of a failure domain by what it says of its only device.
func configured(change func(*capvv1.NetworkConfiguration)) func(*capvv1.Topology) {
	return func(topology *capvv1.Topology) {
		configuration := capvv1.NetworkConfiguration{NetworkName: topology.Networks[0]}
		change(&configuration)
		topology.Networks, topology.NetworkConfigurations = nil, []capvv1.NetworkConfiguration{configuration}
	}
}

// workersIn is workers in a failure domain.
func (s *scene) workersIn(domain domainIn, template *capvv1.VSphereMachineTemplate, name string, replicas int32) *clusterv1.MachineDeployment {
	workers := s.workers(template, name, replicas)
	workers.Spec.Template.Spec.FailureDomain = domain.name
	return workers
}

// expectPlaced checks that a node is in a failure domain with all that it has: the network
// of its virtual machine, what that has been told, and the pool of its address, of which
// these are all.
func (s *scene) expectPlaced(node stack.Node, domain domainIn, addresses []string) {
	s.Helper()
	if err := s.agree(node); err != nil {
		s.Error(err)
	}
	if !slices.Equal(node.VM.Networks, []string{domain.Network}) {
		s.Errorf("the virtual machine of %s is on %v, want it on %s", node.Machine.Name, node.VM.Networks, domain.Network)
	}
	if held := harness.Addresses(node.Machine); len(held) != 1 || !slices.Contains(addresses, held[0]) {
		s.Errorf("machine %s has %v, want one of %v", node.Machine.Name, held, addresses)
	}
	s.step("%s is in %s with %v", node.Machine.Name, domain.name, node.VM.Addresses)
}

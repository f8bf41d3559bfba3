package stack

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Zone is a zone of the vCenter: a cluster with a tag, and a network. The template of
// machines is in the datacenter of all zones.
type Zone struct {
	// Tag is that of the cluster.
	Tag string
	// Cluster and Network are what machines of the zone run on and are connected to.
	Cluster, Network string
}

// Zones are those of each vCenter here.
func Zones() []Zone {
	return []Zone{
		{Tag: "zone-a", Cluster: "DC0_C0", Network: "DC0_DVPG0"},
		{Tag: "zone-b", Cluster: "DC0_C1", Network: "DC0_DVPG1"},
		{Tag: "zone-c", Cluster: "DC0_C2", Network: "DC0_DVPG2"},
	}
}

// FailureDomain is what CAPV lays over the machines of a zone: the place, and the
// network of the first device. Its name is that of DeploymentZone.
func FailureDomain(zone Zone, name string) *capvv1.VSphereFailureDomain {
	domain := &capvv1.VSphereFailureDomain{ObjectMeta: metav1.ObjectMeta{Name: name}}
	domain.Spec.Region = capvv1.FailureDomain{Name: "region-0", Type: capvv1.DatacenterFailureDomain, TagCategory: "k8s-region"}
	domain.Spec.Zone = capvv1.FailureDomain{Name: zone.Tag, Type: capvv1.ComputeClusterFailureDomain, TagCategory: "k8s-zone"}
	domain.Spec.Topology = capvv1.Topology{Datacenter: "DC0", ComputeCluster: zone.Cluster, Networks: []string{zone.Network}}
	return domain
}

// DeploymentZone is what a Machine names as its failure domain, with the
// FailureDomain of the same name. Control planes may use it.
func (s *Stack) DeploymentZone(zone Zone, name string, options ...harness.Option) *capvv1.VSphereDeploymentZone {
	yes := true
	deployment := &capvv1.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: name}}
	deployment.Spec = capvv1.VSphereDeploymentZoneSpec{
		Server: s.VCenter.Server, FailureDomain: name, ControlPlane: &yes,
		PlacementConstraint: capvv1.PlacementConstraint{ResourcePool: "/DC0/host/" + zone.Cluster + "/Resources"},
	}
	for _, option := range options {
		option(client.Object(deployment))
	}
	return deployment
}

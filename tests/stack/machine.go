package stack

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Machine is a Machine of a Cluster as a MachineSet makes it, after it made the
// VSphereMachine of the same name. Its bootstrap data is there already.
func Machine(namespace, cluster, name string) *clusterv1.Machine {
	machine := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{clusterv1.ClusterNameLabel: cluster},
	}}
	bootstrap := bootstrapName(cluster)
	machine.Spec.ClusterName = cluster
	machine.Spec.Version = kubernetesVersion
	machine.Spec.Bootstrap.DataSecretName = &bootstrap
	machine.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: capvv1.GroupName, Kind: "VSphereMachine", Name: name,
	}
	return machine
}

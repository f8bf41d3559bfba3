package capi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VSphereMachine is for whom addresses are claimed.
//
// +kubebuilder:object:root=true
type VSphereMachine struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VSphereMachineSpec `json:"spec,omitempty"`
}

// VSphereMachineSpec is what is read of a VSphereMachine's spec.
type VSphereMachineSpec struct {
	// ProviderID is set when the machine's VM exists.
	ProviderID string  `json:"providerID,omitempty"`
	Network    Network `json:"network,omitempty"`
}

// VSphereMachineList is a list of VSphereMachines.
//
// +kubebuilder:object:root=true
type VSphereMachineList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VSphereMachine `json:"items"`
}

// VSphereVM stands for a VM in the vCenter, as a rule that of a VSphereMachine.
//
// +kubebuilder:object:root=true
type VSphereVM struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VSphereVMSpec   `json:"spec,omitempty"`
	Status VSphereVMStatus `json:"status,omitempty"`
}

// IsBegun tells whether CAPV has made the VM, or is about to.
func (vm *VSphereVM) IsBegun() bool {
	return vm.Spec.BiosUUID != "" || vm.Status.VMRef != "" || vm.Status.TaskRef != ""
}

// VSphereVMSpec is what is read of a VSphereVM's spec.
type VSphereVMSpec struct {
	// BiosUUID is set when the VM exists.
	BiosUUID string  `json:"biosUUID,omitempty"`
	Network  Network `json:"network,omitempty"`
}

// VSphereVMStatus is what the guest of a VM says of its addresses, and CAPV of the VM.
type VSphereVMStatus struct {
	// VMRef and TaskRef are the VM in the vCenter, and the task that is at work on it.
	VMRef     string          `json:"vmRef,omitempty"`
	TaskRef   string          `json:"taskRef,omitempty"`
	Addresses []string        `json:"addresses,omitempty"`
	Network   []NetworkStatus `json:"network,omitempty"`
}

// NetworkStatus is what the guest says of one NIC.
type NetworkStatus struct {
	NetworkName string   `json:"networkName,omitempty"`
	IPAddrs     []string `json:"ipAddrs,omitempty"`
}

// VSphereVMList is a list of VSphereVMs.
//
// +kubebuilder:object:root=true
type VSphereVMList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VSphereVM `json:"items"`
}

// Network is the network of a machine or a VM.
type Network struct {
	Devices []Device `json:"devices,omitempty"`
}

// Device is a NIC, what was injected into it, and what else may give it addresses.
type Device struct {
	NetworkName   string   `json:"networkName,omitempty"`
	DeviceName    string   `json:"deviceName,omitempty"`
	IPAddrs       []string `json:"ipAddrs,omitempty"`
	Gateway4      string   `json:"gateway4,omitempty"`
	Gateway6      string   `json:"gateway6,omitempty"`
	Nameservers   []string `json:"nameservers,omitempty"`
	SearchDomains []string `json:"searchDomains,omitempty"`

	DHCP4              *bool          `json:"dhcp4,omitempty"`
	DHCP6              *bool          `json:"dhcp6,omitempty"`
	SkipIPAllocation   *bool          `json:"skipIPAllocation,omitempty"`
	AddressesFromPools []PoolOfOthers `json:"addressesFromPools,omitempty"`
}

// PoolOfOthers is a pool from which CAPV claims by itself. That there is one is all
// that is read of it.
type PoolOfOthers struct{}

// Cluster is a workload cluster.
//
// +kubebuilder:object:root=true
type Cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterSpec   `json:"spec,omitempty"`
	Status ClusterStatus `json:"status,omitempty"`
}

// ClusterSpec is what is read of a Cluster's spec.
type ClusterSpec struct {
	Paused               *bool          `json:"paused,omitempty"`
	ControlPlaneEndpoint APIEndpoint    `json:"controlPlaneEndpoint,omitempty"`
	InfrastructureRef    Infrastructure `json:"infrastructureRef,omitempty"`
}

// Infrastructure is what a Cluster runs on, in its own namespace.
type Infrastructure struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
}

// ClusterStatus is what is read of a Cluster's status.
type ClusterStatus struct {
	FailureDomains FailureDomains `json:"failureDomains,omitempty"`
}

// FailureDomains are those that machines of a Cluster can be in.
type FailureDomains []FailureDomain

// FailureDomain is one of them, by the name of its VSphereDeploymentZone.
type FailureDomain struct {
	Name string `json:"name,omitempty"`
	// ControlPlane tells whether control plane machines may be in it.
	ControlPlane *bool `json:"controlPlane,omitempty"`
}

// UnmarshalJSON reads the list of v1beta2, and the map by name of v1beta1.
func (f *FailureDomains) UnmarshalJSON(text []byte) error {
	var list []FailureDomain
	if json.Unmarshal(text, &list) == nil {
		*f = list
		return nil
	}
	var byName map[string]FailureDomain
	if err := json.Unmarshal(text, &byName); err != nil {
		return fmt.Errorf("reading the failure domains of a Cluster: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		*f = append(*f, FailureDomain{Name: name, ControlPlane: byName[name].ControlPlane})
	}
	return nil
}

// APIEndpoint is where the API server of a workload cluster is reached.
type APIEndpoint struct {
	// Host is an address or a DNS name.
	Host string `json:"host,omitempty"`
}

// IsPaused tells whether the Cluster is paused by its spec.
func (c *Cluster) IsPaused() bool { return c.Spec.Paused != nil && *c.Spec.Paused }

// IsOn tells whether the Cluster runs on the VSphereCluster of this name.
func (c *Cluster) IsOn(vsphereCluster string) bool {
	return c.Spec.InfrastructureRef == Infrastructure{Kind: VSphereClusterKind.Kind, Name: vsphereCluster}
}

// ControlPlaneDomains are the names of the failure domains that control plane machines of
// the Cluster are put into, in their order.
func (c *Cluster) ControlPlaneDomains() []string {
	var names []string
	for _, domain := range c.Status.FailureDomains {
		if domain.ControlPlane != nil && *domain.ControlPlane {
			names = append(names, domain.Name)
		}
	}
	slices.Sort(names)
	return names
}

// ClusterList is a list of Clusters.
//
// +kubebuilder:object:root=true
type ClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Cluster `json:"items"`
}

// VSphereCluster is what a Cluster runs on, and for whose endpoint an address is claimed.
//
// +kubebuilder:object:root=true
type VSphereCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VSphereClusterSpec `json:"spec,omitempty"`
}

// VSphereClusterSpec is what is read of a VSphereCluster's spec.
type VSphereClusterSpec struct {
	ControlPlaneEndpoint APIEndpoint `json:"controlPlaneEndpoint,omitempty"`
}

// VSphereClusterList is a list of VSphereClusters.
//
// +kubebuilder:object:root=true
type VSphereClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VSphereCluster `json:"items"`
}

package capi

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// VSphereVMSpec is what is read of a VSphereVM's spec.
type VSphereVMSpec struct {
	Network Network `json:"network,omitempty"`
}

// VSphereVMStatus is what the guest of a VM says of its addresses.
type VSphereVMStatus struct {
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

// Device is a NIC, and what was injected into it.
type Device struct {
	NetworkName   string   `json:"networkName,omitempty"`
	DeviceName    string   `json:"deviceName,omitempty"`
	IPAddrs       []string `json:"ipAddrs,omitempty"`
	Gateway4      string   `json:"gateway4,omitempty"`
	Gateway6      string   `json:"gateway6,omitempty"`
	Nameservers   []string `json:"nameservers,omitempty"`
	SearchDomains []string `json:"searchDomains,omitempty"`
}

// Cluster is a workload cluster.
//
// +kubebuilder:object:root=true
type Cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ClusterSpec `json:"spec,omitempty"`
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

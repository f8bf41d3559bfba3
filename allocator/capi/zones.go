package capi

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VSphereDeploymentZone is what a Machine names as its failure domain.
//
// +kubebuilder:object:root=true
type VSphereDeploymentZone struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VSphereDeploymentZoneSpec `json:"spec,omitempty"`
}

// VSphereDeploymentZoneSpec is what is read of a VSphereDeploymentZone's spec.
type VSphereDeploymentZoneSpec struct {
	// FailureDomain is the name of a VSphereFailureDomain.
	FailureDomain string `json:"failureDomain,omitempty"`
}

// VSphereDeploymentZoneList is a list of VSphereDeploymentZones.
//
// +kubebuilder:object:root=true
type VSphereDeploymentZoneList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VSphereDeploymentZone `json:"items"`
}

// VSphereFailureDomain is what CAPV lays over the machines of a failure domain. Its
// spec never changes.
//
// +kubebuilder:object:root=true
type VSphereFailureDomain struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VSphereFailureDomainSpec `json:"spec,omitempty"`
}

// VSphereFailureDomainSpec is what is read of a VSphereFailureDomain's spec.
type VSphereFailureDomainSpec struct {
	Topology Topology `json:"topology,omitempty"`
}

// Topology is what a failure domain says of the devices of its machines, by their
// positions. Only one of its lists is set.
type Topology struct {
	Networks              []string               `json:"networks,omitempty"`
	NetworkConfigurations []NetworkConfiguration `json:"networkConfigurations,omitempty"`
}

// NetworkConfiguration is what a failure domain says of one device. DHCP overrides are
// left out: they give a device no address.
type NetworkConfiguration struct {
	NetworkName        string         `json:"networkName,omitempty"`
	DHCP4              *bool          `json:"dhcp4,omitempty"`
	DHCP6              *bool          `json:"dhcp6,omitempty"`
	Nameservers        []string       `json:"nameservers,omitempty"`
	SearchDomains      []string       `json:"searchDomains,omitempty"`
	AddressesFromPools []PoolOfDevice `json:"addressesFromPools,omitempty"`
}

// PoolOfDevice is a pool that CAPV itself claims from.
type PoolOfDevice struct {
	Name     string `json:"name,omitempty"`
	Kind     string `json:"kind,omitempty"`
	APIGroup string `json:"apiGroup,omitempty"`
}

// VSphereFailureDomainList is a list of VSphereFailureDomains.
//
// +kubebuilder:object:root=true
type VSphereFailureDomainList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VSphereFailureDomain `json:"items"`
}

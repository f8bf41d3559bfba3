package capi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	clusterGroup      = "cluster.x-k8s.io"
	controlPlaneGroup = "controlplane.cluster.x-k8s.io"
	vsphereGroup      = "infrastructure.cluster.x-k8s.io"
)

// The kinds that are read as objects of this package.
var (
	VSphereMachineKind = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereMachine"}
	VSphereVMKind      = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereVM"}
	VSphereClusterKind = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereCluster"}
	ClusterKind        = schema.GroupKind{Group: clusterGroup, Kind: "Cluster"}

	VSphereDeploymentZoneKind = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereDeploymentZone"}
	VSphereFailureDomainKind  = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereFailureDomain"}
)

// The kinds of which the metadata alone is read.
var (
	VSphereMachineTemplateKind = schema.GroupKind{Group: vsphereGroup, Kind: "VSphereMachineTemplate"}
	MachineKind                = schema.GroupKind{Group: clusterGroup, Kind: "Machine"}
	MachineSetKind             = schema.GroupKind{Group: clusterGroup, Kind: "MachineSet"}
	KubeadmControlPlaneKind    = schema.GroupKind{Group: controlPlaneGroup, Kind: "KubeadmControlPlane"}
)

// MachineDeploymentKind is read without a type of its own, and by those who forecast only.
var MachineDeploymentKind = schema.GroupKind{Group: clusterGroup, Kind: "MachineDeployment"}

// versions are those that can be read, the one that is preferred first. CAPV up
// to 1.15 and CAPI up to 1.10 serve v1beta1 only.
var versions = []string{"v1beta2", "v1beta1"}

// AddToScheme adds the kinds of this package in the version that is served, or
// in the newest where nothing is served yet.
func AddToScheme(scheme *runtime.Scheme, mapper meta.RESTMapper) error {
	types := map[schema.GroupKind][2]runtime.Object{
		VSphereMachineKind:         {&VSphereMachine{}, &VSphereMachineList{}},
		VSphereVMKind:              {&VSphereVM{}, &VSphereVMList{}},
		VSphereClusterKind:         {&VSphereCluster{}, &VSphereClusterList{}},
		ClusterKind:                {&Cluster{}, &ClusterList{}},
		VSphereDeploymentZoneKind:  {&VSphereDeploymentZone{}, &VSphereDeploymentZoneList{}},
		VSphereFailureDomainKind:   {&VSphereFailureDomain{}, &VSphereFailureDomainList{}},
		VSphereMachineTemplateKind: {},
		MachineKind:                {},
		MachineSetKind:             {},
		MachineDeploymentKind:      {},
		KubeadmControlPlaneKind:    {},
	}
	for kind, objects := range types {
		version, err := servedVersion(mapper, kind)
		if err != nil {
			return err
		}
		gvk := kind.WithVersion(version)
		object, list := objects[0], objects[1]
		if object == nil {
			object, list = &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadataList{}
		}
		scheme.AddKnownTypeWithName(gvk, object)
		scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(gvk.Kind+"List"), list)
		metav1.AddToGroupVersion(scheme, gvk.GroupVersion())
	}
	return nil
}

func servedVersion(mapper meta.RESTMapper, kind schema.GroupKind) (string, error) {
	if mapper == nil {
		return versions[0], nil
	}
	for _, version := range versions {
		_, err := mapper.RESTMapping(kind, version)
		if err == nil {
			return version, nil
		}
		if !meta.IsNoMatchError(err) {
			return "", fmt.Errorf("looking for the version of %s: %w", kind, err)
		}
	}
	return versions[0], nil
}

// InScheme is a kind in the version in which AddToScheme added it, in the newest
// if it did not.
func InScheme(scheme *runtime.Scheme, kind schema.GroupKind) schema.GroupVersionKind {
	for _, version := range scheme.VersionsForGroupKind(kind) {
		return version.WithKind(kind.Kind)
	}
	return kind.WithVersion(versions[0])
}

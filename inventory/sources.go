package inventory

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
)

// WorkloadKinds are the kinds of which a forecast reads more than what a cache has anyway.
func WorkloadKinds() []schema.GroupKind {
	return append(slices.Clone(workloadKinds), capi.VSphereMachineTemplateKind)
}

// Sources are these kinds, for a cache to hold whole.
func Sources(scheme *runtime.Scheme) []informers.Source {
	var sources []informers.Source
	for _, kind := range WorkloadKinds() {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(capi.InScheme(scheme, kind))
		sources = append(sources, informers.Source{Object: object})
	}
	return sources
}

// readFields are what is read of each of these kinds, in all versions.
func readFields(kind schema.GroupKind) []string {
	switch kind {
	case capi.VSphereMachineTemplateKind:
		return []string{"spec.template.metadata", "spec.template.spec.network"}
	case capi.KubeadmControlPlaneKind:
		return []string{
			"spec.replicas", "spec.machineTemplate.metadata", "spec.machineTemplate.infrastructureRef", "spec.machineTemplate.spec.infrastructureRef",
			"spec.rollout.strategy", "spec.rolloutStrategy",
		}
	case capi.MachineDeploymentKind:
		return []string{
			"spec.clusterName", "spec.replicas", "spec.template.metadata", "spec.template.spec.infrastructureRef", "spec.template.spec.failureDomain",
			"spec.rollout.strategy", "spec.strategy",
		}
	}
	return nil
}

// Slim leaves out of a workload, or of a template, what is not read here: a control plane
// may say as much as a machine has files. Others stay as they are.
func Slim(object *unstructured.Unstructured) {
	fields := readFields(object.GroupVersionKind().GroupKind())
	if fields == nil {
		return
	}
	slim := map[string]any{}
	for _, field := range fields {
		path := strings.Split(field, ".")
		if value, found, err := unstructured.NestedFieldNoCopy(object.Object, path...); err == nil && found {
			// There is nothing but maps on the way.
			_ = unstructured.SetNestedField(slim, value, path...)
		}
	}
	for _, field := range []string{"apiVersion", "kind", "metadata"} {
		slim[field] = object.Object[field]
	}
	object.Object = slim
}

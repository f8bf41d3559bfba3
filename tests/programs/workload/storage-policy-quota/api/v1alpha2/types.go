// Package v1alpha2 stands in for an API that is not published in the version
// that CAPV's vcsim provider requires. The provider uses it in supervisor mode
// only, which does not run here.
package v1alpha2

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// StoragePolicyUsage has no more than an object's metadata.
type StoragePolicyUsage = metav1.PartialObjectMetadata

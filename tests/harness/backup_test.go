package harness

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestBackupIsRestoredByTheNamesOfResourcesWithClustersLast(t *testing.T) {
	var saved []*unstructured.Unstructured
	for _, kind := range [][2]string{
		{"cluster.x-k8s.io/v1beta2", "Cluster"}, {"cluster.x-k8s.io/v1beta2", "MachineSet"}, {"cluster.x-k8s.io/v1beta2", "Machine"},
		{"v1", "Secret"}, {"ipam.metal3.io/v1alpha1", "IPAddress"}, {"ipam.cluster.x-k8s.io/v1beta2", "IPAddressClaim"},
	} {
		object := &unstructured.Unstructured{}
		object.SetAPIVersion(kind[0])
		object.SetKind(kind[1])
		saved = append(saved, object)
	}

	InRestoreOrder(saved)

	var got []string
	for _, object := range saved {
		got = append(got, ResourceOf(object))
	}
	want := []string{
		"secrets", "ipaddressclaims.ipam.cluster.x-k8s.io", "ipaddresses.ipam.metal3.io",
		"machines.cluster.x-k8s.io", "machinesets.cluster.x-k8s.io", "clusters.cluster.x-k8s.io",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %q, want %q", got, want)
	}
}

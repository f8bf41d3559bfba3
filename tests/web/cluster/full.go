package cluster

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Full is a cluster that has one of everything: a pool that is exhausted and waited for, one
// in use, one that is too small for a roll-out, a /16, and one of IPv6. The webhook is called.
func Full() []client.Object {
	var all []client.Object
	add := func(objects ...client.Object) { all = append(all, objects...) }

	add(append(Webhook(), clusters()...)...)
	add(Metal3Pool("default", "dkp-cluster", "10.16.56.88", "10.16.56.93"))
	for i := range 6 {
		name := nameOf("dkp-cp", i)
		if i >= 3 {
			name = nameOf("md-2", i)
		}
		add(Held("default", name, "dkp", Metal3("dkp-cluster"), Number("10.16.56.88", i))...)
	}
	owner := Workload(capi.KubeadmControlPlaneKind, types.NamespacedName{Namespace: "default", Name: "dkp-cp"}, "dkp-cluster", 3, 1)
	owner[1].SetAnnotations(map[string]string{ipam.RefusedByAnnotation: "IPPool.ipam.metal3.io/dkp-cluster"})
	add(owner...)

	add(InClusterPool("default", "workers", "10.16.57.40", "10.16.57.32-10.16.57.223", 24))
	add(Workload(capi.MachineDeploymentKind, types.NamespacedName{Namespace: "default", Name: "md-0"}, "workers", 100, 2)...)
	for i := range 101 {
		if ip := Number("10.16.57.32", i+i/11); ip != "10.16.57.40" {
			add(Held("default", nameOf("md-0", i), "dkp", InCluster("workers"), ip)...)
		}
	}
	for _, ip := range []string{"10.16.57.151", "10.16.57.152", "10.16.57.160"} {
		add(Cooling("default", InCluster("workers"), ip))
	}
	twice := Machine("default", "lb-old", "dkp")
	twice.Spec.Network.Devices[0].IPAddrs = []string{"10.16.57.77/24"}
	byHand := Machine("default", "jump-host", "dkp")
	byHand.Spec.Network.Devices[0].IPAddrs = []string{"10.16.57.200/24"}
	add(twice, byHand, Machine("default", "md-1-silent", "dkp"))

	add(InClusterPool("edge", "edge-7", "10.30.7.1", "10.30.7.2-10.30.7.17", 24))
	add(Workload(capi.MachineDeploymentKind, types.NamespacedName{Namespace: "edge", Name: "edge-7-md"}, "edge-7", 13, 3)...)
	for i := range 13 {
		add(Held("edge", nameOf("edge-7-md", i), "edge-7", InCluster("edge-7"), Number("10.30.7.2", i))...)
	}
	add(Cooling("edge", InCluster("edge-7"), "10.30.7.15"), Cooling("edge", InCluster("edge-7"), "10.30.7.16"))

	add(InClusterPool("", "shared", "10.20.0.1", "10.20.0.0/16", 16))
	for i := 1; i < 1200; i++ {
		if i%7 != 0 {
			add(Address("lab", Global("shared"), Number("10.20.0.1", i), nameOf("lab", i)))
		}
	}

	add(InClusterPool("lab", "v6", "2001:db8:7::1", "2001:db8:7::/64", 64))
	for i := range 2 {
		add(Held("lab", nameOf("six", i), "lab-6", InCluster("v6"), Number("2001:db8:7::10", 3*i))...)
	}
	long := strings.Repeat("as-long-as-names-may-be.", 10)
	add(Held("lab", long+"six", long+"cluster", InCluster("v6"), "2001:db8:7:0:abcd:abcd:abcd:abcd")...)
	return all
}

// clusters are those that its machines are of.
func clusters() []client.Object {
	var all []client.Object
	for name, namespace := range map[string]string{"dkp": "default", "edge-7": "edge", "lab-6": "lab"} {
		all = append(all, &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	}
	return all
}

package harness

import (
	"context"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
)

// EndpointAnnotation on a Cluster, with any value, says that its endpoint is an address
// that we gave to its VSphereCluster. Nothing else says so when that is gone.
const EndpointAnnotation = "test.capv-static-ip.dev/endpoint-of-pool"

// VSphereCluster is a VSphereCluster without an endpoint.
func VSphereCluster(namespace, name string, options ...Option) *capvv1.VSphereCluster {
	cluster := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	cluster.Spec.Server = "vcenter.example.com"
	return with(cluster, options)
}

// WithEndpoint sets the endpoint of a Cluster or a VSphereCluster.
func WithEndpoint(host string, port int32) Option {
	return func(object client.Object) {
		switch object := object.(type) {
		case *clusterv1.Cluster:
			object.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: host, Port: port}
		case *capvv1.VSphereCluster:
			object.Spec.ControlPlaneEndpoint = capvv1.APIEndpoint{Host: host, Port: port}
		}
	}
}

// endpoints are the control planes of a namespace, and their addresses.
type endpoints struct {
	vsphereClusters map[types.NamespacedName]*capvv1.VSphereCluster
	// clusters are those that are not being deleted.
	clusters []clusterv1.Cluster
}

func readEndpoints(ctx context.Context, c client.Reader, namespace string) (endpoints, error) {
	read := endpoints{vsphereClusters: map[types.NamespacedName]*capvv1.VSphereCluster{}}
	vsphereClusters, clusters := &capvv1.VSphereClusterList{}, &clusterv1.ClusterList{}
	for _, list := range []client.ObjectList{vsphereClusters, clusters} {
		if err := listIfServed(ctx, c, list, client.InNamespace(namespace)); err != nil {
			return read, err
		}
	}
	for n := range vsphereClusters.Items {
		read.vsphereClusters[client.ObjectKeyFromObject(&vsphereClusters.Items[n])] = &vsphereClusters.Items[n]
	}
	read.clusters = slices.DeleteFunc(clusters.Items, func(cluster clusterv1.Cluster) bool { return cluster.DeletionTimestamp != nil })
	return read, nil
}

// uses tells whether the VSphereCluster of this name, or a Cluster of the namespace, has
// an address as its endpoint.
func (e endpoints) uses(vsphereCluster types.NamespacedName, address netip.Addr) bool {
	if cluster := e.vsphereClusters[vsphereCluster]; cluster != nil && isHost(cluster.Spec.ControlPlaneEndpoint.Host, address) {
		return true
	}
	return slices.ContainsFunc(e.clusters, func(cluster clusterv1.Cluster) bool {
		return cluster.Namespace == vsphereCluster.Namespace && isHost(cluster.Spec.ControlPlaneEndpoint.Host, address)
	})
}

func isHost(host string, address netip.Addr) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip == address
}

// holderOf is the VSphereCluster that a claim or an address of ours names, false if it
// names a machine.
func holderOf(object client.Object) (types.NamespacedName, bool) {
	holder := ipam.HolderOf(object)
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: holder.Name}, holder.Kind == ipam.OfCluster
}

// isOfEndpoint tells whether the address of a claim is in use as an endpoint. metal3 leaves
// an address as it is that it binds to a claim which was made anew.
func (i *inventory) isOfEndpoint(claim *ipam.Claim) bool {
	cluster, ok := holderOf(claim)
	return ok && slices.ContainsFunc(i.addresses, func(address ipam.Address) bool {
		ip, err := netip.ParseAddr(address.IP)
		answers := ipam.Answers(address, claim.GetUID()) || claim.Address == address.GetName()
		return err == nil && answers && i.endpoints.uses(cluster, ip)
	})
}

// freeEndpoints finds endpoints of ours whose address is not kept for them any more, and
// those that a machine has on a device.
func (i *inventory) freeEndpoints() []error {
	var violations []error
	check := func(what string, namespace, host string) {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return
		}
		if !i.keepsEndpoint(namespace, ip) {
			violations = append(violations, violation(invariantEndpoints, "%s has the endpoint %s, which is kept for nobody", what, ip))
		}
		for _, machine := range i.machines {
			if _, bound := machine.pools[ip]; bound && machine.addresses[ip] && machine.Namespace == namespace {
				violations = append(violations, violation(invariantUnique, "machine %s holds %s, the endpoint of %s", client.ObjectKeyFromObject(machine), ip, what))
			}
		}
	}
	for key, cluster := range i.endpoints.vsphereClusters {
		host := cluster.Spec.ControlPlaneEndpoint.Host
		bindings, err := ipam.ParseBindings(cluster.Annotations[ipam.BindingsAnnotation])
		if err == nil && bindings.Machine == key.Name && len(bindings.Bindings) == 1 && isHost(host, bindings.Bindings[0].Address.Addr()) {
			check("VSphereCluster "+key.String(), key.Namespace, host)
		}
	}
	for n := range i.endpoints.clusters {
		cluster := &i.endpoints.clusters[n]
		if cluster.Annotations[EndpointAnnotation] != "" {
			check("Cluster "+client.ObjectKeyFromObject(cluster).String(), cluster.Namespace, cluster.Spec.ControlPlaneEndpoint.Host)
		}
	}
	return violations
}

// keepsEndpoint tells whether an address is protected, or claimed, for a VSphereCluster.
func (i *inventory) keepsEndpoint(namespace string, ip netip.Addr) bool {
	return slices.ContainsFunc(i.addresses, func(address ipam.Address) bool {
		_, ofCluster := holderOf(address)
		return ofCluster && address.GetNamespace() == namespace && isHost(address.IP, ip) && slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer)
	})
}

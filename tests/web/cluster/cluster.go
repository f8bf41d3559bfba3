// Package cluster is a cluster in memory, for what shows pools and machines: an API server
// that knows lists and watches, and what may be in it.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	contractv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

const inClusterVersion = "ipam.cluster.x-k8s.io/v1alpha2"

// now is when all of this is read.
var now = time.Date(2026, 11, 29, 14, 57, 3, 0, time.UTC)

// New is an API server with these objects.
func New(objects ...client.Object) (client.WithWatch, error) {
	scheme, mapper := runtime.NewScheme(), kinds()
	if err := errors.Join(admissionv1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme), ipamv1.AddToScheme(scheme), contract.AddToScheme(scheme, mapper), capi.AddToScheme(scheme, nil)); err != nil {
		return nil, err
	}
	// A fake client has a kind in one form: what the scheme knows by its metadata alone is
	// kept whole in a second one.
	var whole []client.Object
	for _, object := range objects {
		if content, ok := object.(*unstructured.Unstructured); ok {
			whole = append(whole, content.DeepCopy())
		}
	}
	second := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithRESTMapper(mapper).WithObjects(whole...).Build()
	first := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithObjects(objects...).Build()
	return interceptor.NewClient(first, interceptor.Funcs{
		List: func(ctx context.Context, first client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, ok := list.(*unstructured.UnstructuredList); ok {
				return second.List(ctx, list, options...)
			}
			return first.List(ctx, list, options...)
		},
	}), nil
}

// kinds are those that the API server serves, beside those of its scheme.
func kinds() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{
		clusterv1.GroupVersion, capi.KubeadmControlPlaneKind.WithVersion("v1beta2").GroupVersion(), capi.VSphereMachineKind.WithVersion("v1beta2").GroupVersion(),
	})
	mapper.Add(admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"), meta.RESTScopeRoot)
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	for _, kind := range []string{"InClusterIPPool", "GlobalInClusterIPPool"} {
		scope := meta.RESTScopeNamespace
		if strings.HasPrefix(kind, "Global") {
			scope = meta.RESTScopeRoot
		}
		mapper.Add(schema.FromAPIVersionAndKind(inClusterVersion, kind), scope)
	}
	for _, kind := range []string{"IPPool", "IPClaim", "IPAddress"} {
		mapper.Add(ipamv1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"IPAddressClaim", "IPAddress"} {
		mapper.Add(contractv1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []schema.GroupKind{
		capi.VSphereMachineKind, capi.VSphereVMKind, capi.VSphereClusterKind, capi.VSphereMachineTemplateKind,
		capi.MachineDeploymentKind, capi.MachineSetKind, capi.KubeadmControlPlaneKind,
	} {
		mapper.Add(kind.WithVersion("v1beta2"), meta.RESTScopeNamespace)
	}
	return mapper
}

// Source reads a cluster, always at the same time.
func Source(c client.WithWatch) inventory.Source {
	return inventory.Source{
		Client: c, PageSize: inventory.PageSize, WithWorkloads: true, Now: func() time.Time { return now },
		Providers: ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{}),
	}
}

// Metal3Pool is an IPPool with the addresses from first to last.
func Metal3Pool(namespace, name, first, last string) client.Object {
	start, end := ipamv1.IPAddressStr(first), ipamv1.IPAddressStr(last)
	return &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       ipamv1.IPPoolSpec{Prefix: 24, Pools: []ipamv1.Pool{{Start: &start, End: &end}}},
	}
}

// InClusterPool is an InClusterIPPool with these addresses, or a GlobalInClusterIPPool if
// the namespace is empty.
func InClusterPool(namespace, name, gateway, addresses string, prefix int) client.Object {
	pool := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"addresses": []any{addresses}, "gateway": gateway, "prefix": int64(prefix),
	}}}
	pool.SetAPIVersion(inClusterVersion)
	pool.SetKind("InClusterIPPool")
	if namespace == "" {
		pool.SetKind("GlobalInClusterIPPool")
	}
	pool.SetNamespace(namespace)
	pool.SetName(name)
	return pool
}

// Held is a machine of a Cluster with an address of a pool, its claim, its address and its
// VM.
func Held(namespace, name, of string, pool ipam.PoolReference, ip string) []client.Object {
	m := Machine(namespace, name, of)
	addr := netip.MustParseAddr(ip)
	prefix := netip.PrefixFrom(addr, addr.BitLen()*3/4)
	m.Spec.Network.Devices[0].IPAddrs = []string{prefix.String()}
	m.Finalizers = []string{ipam.ReleaseFinalizer}
	bindings, err := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{{
		Device: ipam.Device{NetworkName: "VM Network"}, Pool: pool, Claim: name + "-0", Address: prefix,
		Gateway: netip.PrefixFrom(addr, addr.BitLen()*3/4).Masked().Addr().Next(), Nameservers: []string{"10.16.56.2"},
	}}}.Encode()
	if err != nil {
		bindings = err.Error()
	}
	m.Annotations = map[string]string{ipam.BindingsAnnotation: bindings}
	vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: []metav1.OwnerReference{{
		APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: "VSphereMachine", Name: name, UID: m.UID,
	}}}}
	vm.Status.Addresses = []string{ip}
	address := Address(namespace, pool, ip, name+"-0")
	address.SetFinalizers([]string{ipam.InUseFinalizer})
	address.SetAnnotations(map[string]string{ipam.MachineNameAnnotation: name})
	return []client.Object{m, vm, address, claim(namespace, pool, name+"-0", address.GetName())}
}

// Machine is a VSphereMachine of a Cluster, with one device and without an address. What
// made it is called as it is, less what comes after the last dash.
func Machine(namespace, name, of string) *capi.VSphereMachine {
	maker := name[:max(0, strings.LastIndex(name, "-"))]
	return &capi.VSphereMachine{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), CreationTimestamp: metav1.NewTime(now.Add(-74 * time.Hour)),
			Labels: map[string]string{
				clusterv1.ClusterNameLabel: of, clusterv1.MachineDeploymentNameLabel: maker, clusterv1.MachineControlPlaneNameLabel: maker,
			},
		},
		Spec: capi.VSphereMachineSpec{Network: capi.Network{Devices: []capi.Device{{NetworkName: "VM Network"}}}},
	}
}

// Address is an address of a pool, for a claim.
func Address(namespace string, pool ipam.PoolReference, ip, claim string) client.Object {
	of := metav1.ObjectMeta{
		Namespace: namespace, Name: pool.Name + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(ip),
		CreationTimestamp: metav1.NewTime(now.Add(-74 * time.Hour)),
	}
	if pool.APIGroup == ipamv1.GroupVersion.Group {
		address := &ipamv1.IPAddress{ObjectMeta: of}
		address.Spec.Address, address.Spec.Pool.Name, address.Spec.Claim.Name = ipamv1.IPAddressStr(ip), pool.Name, claim
		return address
	}
	address := &contractv1.IPAddress{ObjectMeta: of}
	address.Spec.Address, address.Spec.ClaimRef.Name = ip, claim
	address.Spec.PoolRef = contractv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}
	return address
}

// Cooling is an address that is kept from being handed out.
func Cooling(namespace string, pool ipam.PoolReference, ip string) client.Object {
	address := Address(namespace, pool, ip, "gone-"+strings.ReplaceAll(ip, ".", "-"))
	address.SetAnnotations(map[string]string{ipam.ReleasedAtAnnotation: now.Add(-time.Hour).Format(time.RFC3339)})
	return address
}

func claim(namespace string, pool ipam.PoolReference, name, address string) client.Object {
	of := metav1.ObjectMeta{Namespace: namespace, Name: name}
	if pool.APIGroup == ipamv1.GroupVersion.Group {
		c := &ipamv1.IPClaim{ObjectMeta: of}
		c.Spec.Pool.Name, c.Status.Address = pool.Name, &corev1.ObjectReference{Name: address}
		return c
	}
	c := &contractv1.IPAddressClaim{ObjectMeta: of}
	c.Spec.PoolRef = contractv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}
	c.Status.AddressRef.Name = address
	return c
}

// Workload is a MachineDeployment or KubeadmControlPlane, with the template of its machines,
// which asks for a pool.
func Workload(kind schema.GroupKind, key types.NamespacedName, pool string, replicas, surge int64) []client.Object {
	namespace, name := key.Namespace, key.Name
	ref := map[string]any{"name": name}
	rollout := map[string]any{"strategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": surge}}}
	spec := map[string]any{"replicas": replicas, "rollout": rollout, "clusterName": "dkp"}
	if kind == capi.KubeadmControlPlaneKind {
		spec["machineTemplate"] = map[string]any{"spec": map[string]any{"infrastructureRef": ref}}
	} else {
		spec["template"] = map[string]any{"spec": map[string]any{"infrastructureRef": ref}}
	}
	template := object(capi.VSphereMachineTemplateKind, namespace, name, map[string]any{"template": map[string]any{
		"spec": map[string]any{"network": map[string]any{"devices": []any{map[string]any{"networkName": "VM Network"}}}},
	}})
	template.SetLabels(map[string]string{machine.PoolNameLabel: pool})
	of := object(kind, namespace, name, spec)
	of.SetLabels(map[string]string{clusterv1.ClusterNameLabel: "dkp"})
	return []client.Object{template, of}
}

func object(kind schema.GroupKind, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetGroupVersionKind(kind.WithVersion("v1beta2"))
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// Number is the address that comes so many after another.
func Number(first string, n int) string {
	ip := netip.MustParseAddr(first)
	for range n {
		ip = ip.Next()
	}
	return ip.String()
}

// InCluster names an InClusterIPPool.
func InCluster(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: name}
}

// Metal3 names an IPPool.
func Metal3(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: name}
}

// Global names a GlobalInClusterIPPool.
func Global(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool", Name: name}
}

func nameOf(base string, n int) string { return fmt.Sprintf("%s-%05x", base, (n+7)*40503%0xfffff) }

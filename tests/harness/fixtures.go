package harness

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Names that the fixtures have unless a test gives others.
const (
	// DefaultCluster is the Cluster that machines and templates belong to.
	DefaultCluster = "dkp"
	// DefaultPool is the pool of the founding scenario, with the six addresses
	// 10.16.56.88 to 10.16.56.93.
	DefaultPool = "dkp-cluster"
	// PoolLabel names the pool of a machine, on the machine or on its template.
	PoolLabel = "cluster.x-k8s.io/ip-pool-name"
)

// Field managers that CAPI creates machines as.
const (
	MachineSetManager   = "capi-machineset"
	ControlPlaneManager = "capi-kubeadmcontrolplane"
)

// Option changes an object that a test is about to create.
type Option func(client.Object)

func with[T client.Object](object T, options []Option) T {
	for _, option := range options {
		option(object)
	}
	return object
}

// WithLabel sets a label.
func WithLabel(key, value string) Option {
	return func(object client.Object) {
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[key] = value
		object.SetLabels(labels)
	}
}

// WithPool asks for addresses of a pool, by the label that names it.
func WithPool(name string) Option { return WithLabel(PoolLabel, name) }

// WithCluster makes the object belong to another Cluster than the default one;
// to none if the name is empty.
func WithCluster(name string) Option {
	return func(object client.Object) {
		if name != "" {
			WithLabel(clusterv1.ClusterNameLabel, name)(object)
			return
		}
		labels := object.GetLabels()
		delete(labels, clusterv1.ClusterNameLabel)
		object.SetLabels(labels)
	}
}

// WithAnnotation sets an annotation.
func WithAnnotation(key, value string) Option {
	return func(object client.Object) {
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = value
		object.SetAnnotations(annotations)
	}
}

// WithFinalizer adds a finalizer.
func WithFinalizer(name string) Option {
	return func(object client.Object) {
		if !slices.Contains(object.GetFinalizers(), name) {
			object.SetFinalizers(append(object.GetFinalizers(), name))
		}
	}
}

// WithOwner adds an owner reference to an object that exists: the garbage
// collector runs, and deletes what belongs to an owner it cannot find.
func WithOwner(owner client.Object) Option {
	return func(object client.Object) {
		gvk, err := apiutil.GVKForObject(owner, Scheme)
		if err != nil {
			panic(err)
		}
		object.SetOwnerReferences(append(object.GetOwnerReferences(), metav1.OwnerReference{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
			Name: owner.GetName(), UID: owner.GetUID(),
		}))
	}
}

// PoolOption changes a pool that a test is about to create.
type PoolOption func(*ipamv1.IPPool)

// Pool is the pool of the founding scenario: six addresses of 10.16.56.0/24,
// with a gateway and two DNS servers.
func Pool(namespace string, options ...PoolOption) *ipamv1.IPPool {
	pool := &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: DefaultPool},
		Spec: ipamv1.IPPoolSpec{
			Pools:      []ipamv1.Pool{Range("10.16.56.88", "10.16.56.93")},
			Prefix:     24,
			Gateway:    address("10.16.56.1"),
			DNSServers: []ipamv1.IPAddressStr{"10.16.56.10", "10.16.56.11"},
			NamePrefix: DefaultPool,
		},
	}
	for _, option := range options {
		option(pool)
	}
	return pool
}

// Range is a part of a pool, from the first address to the last.
func Range(first, last string) ipamv1.Pool {
	return ipamv1.Pool{Start: address(first), End: address(last)}
}

// PoolNamed gives the pool, and so its addresses, another name.
func PoolNamed(name string) PoolOption {
	return func(pool *ipamv1.IPPool) { pool.Name, pool.Spec.NamePrefix = name, name }
}

// PoolRange makes the pool consist of one range.
func PoolRange(first, last string) PoolOption {
	return func(pool *ipamv1.IPPool) { pool.Spec.Pools = []ipamv1.Pool{Range(first, last)} }
}

// PoolWith changes anything else in the pool.
func PoolWith(change func(*ipamv1.IPPool)) PoolOption { return change }

func address(text string) *ipamv1.IPAddressStr {
	value := ipamv1.IPAddressStr(text)
	return &value
}

// Claim is a request for an address of a pool as somebody other than us makes it.
func Claim(namespace, name, pool string) *ipamv1.IPClaim {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	claim.Spec.Pool.Name = pool
	return claim
}

// Cluster is a Cluster with nothing but what the API asks for.
func Cluster(namespace, name string, options ...Option) *clusterv1.Cluster {
	return with(&clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: clusterv1.ClusterSpec{
			InfrastructureRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: capvv1.GroupName, Kind: "VSphereCluster", Name: name,
			},
		},
	}, options)
}

// MachineSet is a MachineSet of the default Cluster that clones machines from a
// template. Nothing acts on it here: it is there to own machines.
func MachineSet(namespace, name, template string, options ...Option) *clusterv1.MachineSet {
	selector := map[string]string{clusterv1.MachineSetNameLabel: name}
	set := &clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	set.Spec.ClusterName = DefaultCluster
	set.Spec.Selector.MatchLabels = selector
	set.Spec.Template = clones(name, template, selector)
	WithCluster(DefaultCluster)(set)
	return with(set, options)
}

// clones are machines of the default Cluster that have a template's spec.
func clones(name, template string, labels map[string]string) clusterv1.MachineTemplateSpec {
	machines := clusterv1.MachineTemplateSpec{ObjectMeta: clusterv1.ObjectMeta{Labels: labels}}
	machines.Spec.ClusterName = DefaultCluster
	machines.Spec.Bootstrap.DataSecretName = &name
	machines.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: capvv1.GroupName, Kind: "VSphereMachineTemplate", Name: template,
	}
	return machines
}

// MachineDeployment is a MachineDeployment of the default Cluster that clones three machines
// from a template, with this maxSurge. Nothing acts on it here.
func MachineDeployment(namespace, name, template, surge string, options ...Option) *clusterv1.MachineDeployment {
	selector, replicas, maxSurge := map[string]string{clusterv1.MachineDeploymentNameLabel: name}, int32(3), intstr.Parse(surge)
	deployment := &clusterv1.MachineDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	deployment.Spec.ClusterName = DefaultCluster
	deployment.Spec.Replicas = &replicas
	deployment.Spec.Selector.MatchLabels = selector
	deployment.Spec.Rollout.Strategy.Type = clusterv1.RollingUpdateMachineDeploymentStrategyType
	deployment.Spec.Rollout.Strategy.RollingUpdate.MaxSurge = &maxSurge
	deployment.Spec.Template = clones(name, template, selector)
	WithCluster(DefaultCluster)(deployment)
	return with(deployment, options)
}

// ControlPlaneOwner is a KubeadmControlPlane of the default Cluster that clones
// machines from a template. Nothing acts on it here: it is there to own machines.
func ControlPlaneOwner(namespace, name, template string, options ...Option) *unstructured.Unstructured {
	owner := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "controlplane.cluster.x-k8s.io/v1beta2",
		"kind":       "KubeadmControlPlane",
		"metadata":   map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{
			"version":  "v1.36.3",
			"replicas": int64(3),
			"machineTemplate": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{
				"apiGroup": capvv1.GroupName, "kind": "VSphereMachineTemplate", "name": template,
			}}},
		},
	}}
	WithCluster(DefaultCluster)(owner)
	return with(owner, options)
}

// Apply applies an object the way CAPI creates machines, by server-side apply
// as the given field manager, and reads the result back into it.
func Apply(ctx context.Context, c client.Client, object client.Object, manager string, options ...client.ApplyOption) error {
	desired, err := Unstructured(object)
	if err != nil {
		return err
	}
	options = append([]client.ApplyOption{client.FieldOwner(manager), client.ForceOwnership}, options...)
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), options...); err != nil {
		return err
	}
	if into, ok := object.(*unstructured.Unstructured); ok {
		into.Object = desired.Object
		return nil
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(desired.Object, object)
}

// Unstructured returns an object as a manifest would have it: with its version
// and kind, and without what only the API server sets.
func Unstructured(object client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(object, Scheme)
	if err != nil {
		return nil, fmt.Errorf("converting %s: %w", object.GetName(), err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, fmt.Errorf("converting %s: %w", object.GetName(), err)
	}
	manifest := &unstructured.Unstructured{Object: content}
	manifest.SetGroupVersionKind(gvk)
	delete(manifest.Object, "status")
	for _, field := range []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation"} {
		unstructured.RemoveNestedField(manifest.Object, "metadata", field)
	}
	return manifest, keepEmptyDevices(object, manifest)
}

// AsVersion returns an object as a client of another version of its API sends
// it, as in AsVersion(machine, "v1beta1"). What the fixtures set has the same
// form in all versions.
func AsVersion(object client.Object, version string) (*unstructured.Unstructured, error) {
	manifest, err := Unstructured(object)
	if err != nil {
		return nil, err
	}
	gvk := manifest.GroupVersionKind()
	gvk.Version = version
	manifest.SetGroupVersionKind(gvk)
	return manifest, nil
}

package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/tests/harness"
)

// kubernetesVersion is what the machines' Nodes would run.
const kubernetesVersion = "v1.36.3"

// provisionTimeout is how long CAPV may take to log in to the vCenter.
const provisionTimeout = 2 * time.Minute

// Objects are what a Cluster on this stack consists of, before it has any
// machines: the credentials for the vCenter, the VSphereCluster, the Cluster,
// its kubeconfig, and bootstrap data that all workers share. Where the Cluster has
// a control plane, that makes its kubeconfig.
func (s *Stack) Objects(namespace, cluster string, options ...harness.Option) ([]client.Object, error) {
	kubeconfig, err := s.kubeconfigSecret(namespace, cluster)
	if err != nil {
		return nil, err
	}
	identity := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: cluster + "-vcenter"},
		StringData: map[string]string{"username": s.VCenter.Username, "password": s.VCenter.Password},
	}
	infrastructure := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: cluster}}
	infrastructure.Spec.Server = s.VCenter.Server
	infrastructure.Spec.IdentityRef = capvv1.VSphereIdentityReference{Kind: capvv1.SecretKind, Name: identity.Name}
	bootstrap := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: bootstrapName(cluster),
			// No KubeadmConfig owns it, that it would be moved with.
			Labels: map[string]string{clusterv1.ClusterNameLabel: cluster, clusterctlv1.ClusterctlMoveLabel: ""},
		},
		Type:       clusterv1.ClusterSecretType,
		StringData: map[string]string{"value": "#cloud-config\n", "format": "cloud-config"},
	}
	object := harness.Cluster(namespace, cluster, options...)
	endpoint := &object.Spec.ControlPlaneEndpoint
	if endpoint.IsZero() {
		*endpoint = clusterv1.APIEndpoint{Host: "10.16.56.87", Port: 6443}
	}
	infrastructure.Spec.ControlPlaneEndpoint = capvv1.APIEndpoint{Host: endpoint.Host, Port: endpoint.Port}
	objects := []client.Object{identity, bootstrap, infrastructure, object}
	if !object.Spec.ControlPlaneRef.IsDefined() {
		objects = append(objects, kubeconfig)
	}
	return objects, nil
}

func bootstrapName(cluster string) string { return cluster + "-bootstrap" }

// CreateCluster creates a Cluster, and waits until machines can be made in it.
func (s *Stack) CreateCluster(ctx context.Context, namespace, cluster string, options ...harness.Option) error {
	objects, err := s.Objects(namespace, cluster, options...)
	if err != nil {
		return err
	}
	if err := s.Create(ctx, objects...); err != nil {
		return err
	}
	return s.awaitProvisioned(ctx, namespace, cluster)
}

// awaitProvisioned waits until machines can be made in a Cluster.
func (s *Stack) awaitProvisioned(ctx context.Context, namespace, cluster string) error {
	return harness.Eventually(ctx, provisionTimeout, "Cluster "+cluster+" to be provisioned", func(ctx context.Context) error {
		object := &clusterv1.Cluster{}
		if err := s.Plane.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: cluster}, object); err != nil {
			return err
		}
		if done := object.Status.Initialization.InfrastructureProvisioned; done == nil || !*done {
			return fmt.Errorf("its infrastructure is not provisioned; conditions: %v", object.Status.Conditions)
		}
		if object.Spec.ControlPlaneRef.IsDefined() {
			return nil
		}
		return s.Initialize(ctx, object)
	})
}

// Template is a VSphereMachineTemplate of machines that this stack's vCenter
// can make, with one device that has no source of addresses yet.
func (s *Stack) Template(namespace, name string, options ...harness.Option) *capvv1.VSphereMachineTemplate {
	template := harness.Template(namespace, name, options...)
	template.Spec.Template.Spec.Server = s.VCenter.Server
	return template
}

// Workers is a MachineDeployment of a Cluster that clones machines from a
// template. Their bootstrap data is there already.
func Workers(template *capvv1.VSphereMachineTemplate, cluster, name string, replicas int32) *clusterv1.MachineDeployment {
	workers := &clusterv1.MachineDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: template.Namespace, Name: name}}
	workers.Spec.ClusterName = cluster
	workers.Spec.Replicas = &replicas
	bootstrap := bootstrapName(cluster)
	spec := &workers.Spec.Template.Spec
	spec.ClusterName = cluster
	spec.Version = kubernetesVersion
	spec.Bootstrap.DataSecretName = &bootstrap
	spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: capvv1.GroupName, Kind: "VSphereMachineTemplate", Name: template.Name,
	}
	return workers
}

// Scale changes the number of machines of a MachineDeployment.
func (s *Stack) Scale(ctx context.Context, workers *clusterv1.MachineDeployment, replicas int32) error {
	before := workers.DeepCopy()
	workers.Spec.Replicas = &replicas
	if err := s.Plane.Client.Patch(ctx, workers, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("scaling %s to %d: %w", workers.Name, replicas, err)
	}
	return nil
}

// Node is a machine and its virtual machine.
type Node struct {
	Machine *capvv1.VSphereMachine
	VM      VM
}

// Nodes lists the machines of a MachineDeployment, each with its virtual
// machine if there is one already, by name.
func (s *Stack) Nodes(ctx context.Context, workers *clusterv1.MachineDeployment) ([]Node, error) {
	return s.nodes(ctx, workers.Namespace, client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
}

func (s *Stack) nodes(ctx context.Context, namespace string, labels client.ListOption) ([]Node, error) {
	machines := &capvv1.VSphereMachineList{}
	if err := s.Plane.Client.List(ctx, machines, client.InNamespace(namespace), labels); err != nil {
		return nil, fmt.Errorf("listing the machines of %v: %w", labels, err)
	}
	vms, err := s.VCenter.VMs(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for i := range machines.Items {
		node := Node{Machine: &machines.Items[i]}
		if at := slices.IndexFunc(vms, func(vm VM) bool { return vm.Name == node.Machine.Name }); at >= 0 {
			node.VM = vms[at]
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Machine.Name, b.Machine.Name) })
	return nodes, nil
}

// AwaitNodes waits until a MachineDeployment has as many machines as it asks
// for, and each a virtual machine that runs and reports addresses.
func (s *Stack) AwaitNodes(ctx context.Context, workers *clusterv1.MachineDeployment, timeout time.Duration) ([]Node, error) {
	return awaitNodes(ctx, timeout, workers.Name, int(*workers.Spec.Replicas), func(ctx context.Context) ([]Node, error) {
		return s.Nodes(ctx, workers)
	})
}

// AwaitControlPlane waits until the Cluster of a namespace has so many control
// plane machines, and each a virtual machine that runs and reports addresses.
func (s *Stack) AwaitControlPlane(ctx context.Context, namespace string, count int, timeout time.Duration) ([]Node, error) {
	return awaitNodes(ctx, timeout, "the control plane", count, func(ctx context.Context) ([]Node, error) {
		return s.nodes(ctx, namespace, client.HasLabels{clusterv1.MachineControlPlaneLabel})
	})
}

func awaitNodes(ctx context.Context, timeout time.Duration, group string, count int, list func(context.Context) ([]Node, error)) ([]Node, error) {
	var nodes []Node
	err := harness.Eventually(ctx, timeout, fmt.Sprintf("the %d virtual machines of %s", count, group), func(ctx context.Context) (err error) {
		if nodes, err = list(ctx); err != nil {
			return err
		}
		if len(nodes) != count {
			return fmt.Errorf("there are %d machines%s", len(nodes), unsettled(nodes))
		}
		var missing []error
		for _, node := range nodes {
			missing = append(missing, node.complete())
		}
		return errors.Join(missing...)
	})
	return nodes, err
}

// unsettled names the machines that come or go. One that no Machine owns for long was left
// behind: Cluster API 1.13 makes another one when a step after its creation fails.
func unsettled(nodes []Node) string {
	var text strings.Builder
	for _, node := range nodes {
		isOwned := slices.ContainsFunc(node.Machine.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.Kind == "Machine" })
		if !isOwned {
			fmt.Fprintf(&text, "; no Machine owns %s, made at %s", node.Machine.Name, node.Machine.CreationTimestamp)
		}
		if at := node.Machine.DeletionTimestamp; at != nil {
			fmt.Fprintf(&text, "; %s is deleted since %s, with finalizers %v", node.Machine.Name, at, node.Machine.Finalizers)
		}
	}
	return text.String()
}

// complete says what a node still lacks.
func (n Node) complete() error {
	switch {
	case n.VM.ID == "":
		return fmt.Errorf("machine %s, addresses %v, has no virtual machine", n.Machine.Name, harness.Addresses(n.Machine))
	case len(n.VM.Reported) == 0:
		return fmt.Errorf("virtual machine %s reports no address; its metadata is %q", n.VM.Name, n.VM.Metadata)
	case n.Machine.Spec.ProviderID == "":
		return fmt.Errorf("machine %s has no providerID", n.Machine.Name)
	default:
		return nil
	}
}

// Joined sees that each Machine of a namespace knows its Node.
func (s *Stack) Joined(ctx context.Context, namespace string) error {
	machines := &clusterv1.MachineList{}
	if err := s.Plane.Client.List(ctx, machines, client.InNamespace(namespace)); err != nil {
		return err
	}
	for i := range machines.Items {
		if !machines.Items[i].Status.NodeRef.IsDefined() {
			return fmt.Errorf("machine %s knows no Node", machines.Items[i].Name)
		}
	}
	return nil
}

// EnsureNamespace makes a namespace that may be there already.
func (s *Stack) EnsureNamespace(ctx context.Context, name string) error {
	err := s.Plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return nil
}

package stack

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// joinTimeout is how long Cluster API may take to connect to a workload cluster
// and see a node in it: it tries twice a minute.
const joinTimeout = 90 * time.Second

// Initialize makes a Cluster one whose control plane is up, as far as Cluster
// API can tell: the API server of this stack stands for that of the workload.
func (s *Stack) Initialize(ctx context.Context, namespace, cluster string) error {
	kubeconfig, err := os.ReadFile(s.Plane.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig of Cluster %s: %w", cluster, err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: cluster + "-kubeconfig",
			Labels: map[string]string{clusterv1.ClusterNameLabel: cluster},
		},
		Type: clusterv1.ClusterSecretType,
		Data: map[string][]byte{"value": kubeconfig},
	}
	if err := s.Create(ctx, secret); err != nil {
		return err
	}
	object := &clusterv1.Cluster{}
	if err := s.Plane.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: cluster}, object); err != nil {
		return fmt.Errorf("reading Cluster %s: %w", cluster, err)
	}
	before := object.DeepCopy()
	initialized := true
	object.Status.Initialization.ControlPlaneInitialized = &initialized
	meta.SetStatusCondition(&object.Status.Conditions, metav1.Condition{
		Type: clusterv1.ClusterControlPlaneInitializedCondition, Status: metav1.ConditionTrue,
		Reason: clusterv1.ClusterControlPlaneInitializedReason,
	})
	if err := s.Plane.Client.Status().Patch(ctx, object, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("initializing Cluster %s: %w", cluster, err)
	}
	return nil
}

// Join makes the virtual machines of a MachineDeployment nodes of their cluster,
// see Initialize, and waits until each Machine knows its node.
func (s *Stack) Join(ctx context.Context, workers *clusterv1.MachineDeployment) error {
	nodes, err := s.Nodes(ctx, workers)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		joined := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Machine.Name}}
		joined.Spec.ProviderID = node.Machine.Spec.ProviderID
		if err := s.Plane.Client.Create(ctx, joined); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making node %s: %w", joined.Name, err)
		}
	}
	return harness.Eventually(ctx, joinTimeout, "the machines of "+workers.Name+" to know their nodes", func(ctx context.Context) error {
		machines := &clusterv1.MachineList{}
		err := s.Plane.Client.List(ctx, machines, client.InNamespace(workers.Namespace),
			client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
		if err != nil {
			return err
		}
		for i := range machines.Items {
			if !machines.Items[i].Status.NodeRef.IsDefined() {
				return fmt.Errorf("machine %s does not", machines.Items[i].Name)
			}
		}
		return nil
	})
}

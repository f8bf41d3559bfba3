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
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
)

// kubeconfigSuffix ends the name of the Secret by which Cluster API reaches a Cluster.
const kubeconfigSuffix = "-kubeconfig"

// rejoinInterval is how soon a watch that broke is tried again.
const rejoinInterval = 200 * time.Millisecond

// kubeconfigSecret is how Cluster API reaches the Cluster that the virtual
// machines would form. There is none, so it is this very control plane: its
// Nodes are those that joinNodes makes.
func (s *Stack) kubeconfigSecret(namespace, cluster string) (*corev1.Secret, error) {
	content, err := os.ReadFile(s.Plane.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig for Cluster %s: %w", cluster, err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: cluster + kubeconfigSuffix,
			Labels: map[string]string{clusterv1.ClusterNameLabel: cluster},
		},
		Type: clusterv1.ClusterSecretType,
		Data: map[string][]byte{"value": content},
	}, nil
}

// Initialize does what a control plane provider would: it says that there is an
// API server to join.
func (s *Stack) Initialize(ctx context.Context, cluster *clusterv1.Cluster) error {
	before := cluster.DeepCopy()
	meta.SetStatusCondition(&cluster.Status.Conditions, metav1.Condition{
		Type: clusterv1.ClusterControlPlaneInitializedCondition, Status: metav1.ConditionTrue,
		Reason: clusterv1.ClusterControlPlaneInitializedReason,
	})
	if err := s.Plane.Client.Status().Patch(ctx, cluster, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("initializing Cluster %s: %w", cluster.Name, err)
	}
	return nil
}

// joinNodes plays the kubelet of each virtual machine, until ctx ends: a machine
// whose virtual machine is up gets a Node.
func (s *Stack) joinNodes(ctx context.Context) {
	for ctx.Err() == nil {
		if watcher, err := s.Plane.Client.Watch(ctx, &capvv1.VSphereMachineList{}); err == nil {
			for event := range watcher.ResultChan() {
				if machine, ok := event.Object.(*capvv1.VSphereMachine); ok {
					s.joinNode(ctx, event.Type, machine)
				}
			}
			watcher.Stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(rejoinInterval):
		}
	}
}

func (s *Stack) joinNode(ctx context.Context, event watch.EventType, machine *capvv1.VSphereMachine) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: machine.Name}}
	_, moved := machine.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	switch {
	case event == watch.Deleted && !moved:
		_ = s.Plane.Client.Delete(ctx, node) // or Cluster API has done so
	case event == watch.Deleted, machine.Spec.ProviderID == "", machine.DeletionTimestamp != nil:
	default:
		if err := s.makeNode(ctx, node, machine.Spec.ProviderID); err != nil && ctx.Err() == nil {
			fmt.Fprintln(s.options.Progress, err)
		}
	}
}

func (s *Stack) makeNode(ctx context.Context, node *corev1.Node, providerID string) error {
	node.Spec.ProviderID = providerID
	if err := s.Plane.Client.Create(ctx, node); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("making Node %s: %w", node.Name, err)
	}
	before := node.DeepCopy()
	// Cluster API calls a Node healthy only if it knows all of these.
	for kind, status := range map[corev1.NodeConditionType]corev1.ConditionStatus{
		corev1.NodeReady: corev1.ConditionTrue, corev1.NodeMemoryPressure: corev1.ConditionFalse,
		corev1.NodeDiskPressure: corev1.ConditionFalse, corev1.NodePIDPressure: corev1.ConditionFalse,
	} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: status, Reason: "Played", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	node.Status.NodeInfo.KubeletVersion = kubernetesVersion
	// Cluster API labels Nodes as soon as it sees them, so this must not conflict.
	if err := s.Plane.Client.Status().Patch(ctx, node, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("making Node %s ready: %w", node.Name, err)
	}
	return nil
}

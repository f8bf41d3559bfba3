package ipam

import (
	"maps"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

func TestClaimIsHandedBackAsItWasBeforeItWasTakenOver(t *testing.T) {
	const asked, users = "ipAddress", "example.org/users"
	offer := map[string]string{ForAnnotation: "cp-0"}
	for name, test := range map[string]struct {
		labels, annotations map[string]string
		// after is what becomes of the claim when it has been taken over.
		after                       func(claim *ipamv1.IPClaim)
		wantLabels, wantAnnotations map[string]string
	}{
		"bare": {annotations: offer, wantAnnotations: offer},
		"with all that we write of others' marks": {
			labels:          map[string]string{clusterv1.ClusterNameLabel: "makers", clusterv1.WatchLabel: "makers", clusterctlv1.ClusterctlMoveLabel: "makers"},
			annotations:     map[string]string{ForAnnotation: "cp-0", asked: "10.0.0.1"},
			wantLabels:      map[string]string{clusterv1.ClusterNameLabel: "makers", clusterv1.WatchLabel: "makers", clusterctlv1.ClusterctlMoveLabel: "makers"},
			wantAnnotations: map[string]string{ForAnnotation: "cp-0", asked: "10.0.0.1"},
		},
		"with the same marks as ours": {
			labels:          map[string]string{clusterv1.ClusterNameLabel: "ours", clusterctlv1.ClusterctlMoveLabel: ""},
			annotations:     map[string]string{ForAnnotation: "cp-0", asked: "10.0.0.2"},
			wantLabels:      map[string]string{clusterv1.ClusterNameLabel: "ours", clusterctlv1.ClusterctlMoveLabel: ""},
			wantAnnotations: map[string]string{ForAnnotation: "cp-0", asked: "10.0.0.2"},
		},
		"with users' marks, one of them younger": {
			labels:      map[string]string{users: "x"},
			annotations: map[string]string{ForAnnotation: "cp-0", users: "x"},
			after: func(claim *ipamv1.IPClaim) {
				kube.SetLabel(claim, users+"-younger", "")
				kube.SetAnnotation(claim, "capv-static-ip.dev/allow-deletion", "true")
			},
			wantLabels:      map[string]string{users: "x", users + "-younger": ""},
			wantAnnotations: map[string]string{ForAnnotation: "cp-0", users: "x", "capv-static-ip.dev/allow-deletion": "true"},
		},
		"taken over by a request, and once more at adoption": {
			annotations: offer,
			after: func(claim *ipamv1.IPClaim) {
				takeOver(t, claim)
				kube.SetAnnotation(claim, RecreatedAnnotation, "10.0.0.2")
				kube.SetAnnotation(claim, KeptAnnotation, "")
			},
			wantAnnotations: offer,
		},
		"with a note that somebody has forged": {
			annotations: offer,
			after: func(claim *ipamv1.IPClaim) {
				claim.Annotations[TakenOverAnnotation] = `{"labels":{"` + MachineLabel + `":"x","` + clusterv1.ClusterNameLabel + `":null},"annotations":{"` + LastUsedAnnotation + `":"x"}}`
			},
			// What the forger left out is not undone.
			wantLabels:      map[string]string{clusterctlv1.ClusterctlMoveLabel: "", clusterv1.WatchLabel: "ours"},
			wantAnnotations: map[string]string{ForAnnotation: "cp-0", "ipAddress": "10.0.0.2"},
		},
		"with a note that cannot be read": {
			annotations: offer,
			after: func(claim *ipamv1.IPClaim) {
				claim.Labels, claim.Annotations = nil, maps.Clone(offer)
				Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}})
				claim.Annotations[TakenOverAnnotation] = "{"
			},
			// Whose that is nobody knows.
			wantLabels:      map[string]string{clusterctlv1.ClusterctlMoveLabel: ""},
			wantAnnotations: offer,
		},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(test.labels), Annotations: maps.Clone(test.annotations)}}
			takeOver(t, claim)
			if test.after != nil {
				test.after(claim)
			}

			HandBack(claim)

			if !maps.Equal(claim.Labels, test.wantLabels) {
				t.Errorf("it has the labels %v, want %v", claim.Labels, test.wantLabels)
			}
			if !maps.Equal(claim.Annotations, test.wantAnnotations) {
				t.Errorf("it has the annotations %v, want %v", claim.Annotations, test.wantAnnotations)
			}
			if len(claim.Finalizers) > 0 {
				t.Errorf("it has the finalizers %v, want none", claim.Finalizers)
			}
		})
	}
}

// takeOver puts on a claim all that is put on one for a machine.
func takeOver(t *testing.T, claim *ipamv1.IPClaim) {
	t.Helper()
	before := claim.DeepCopyObject().(client.Object)
	Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}, Cluster: "ours", WatchFilter: "ours"})
	Use(claim, Stamp{Request: "request"})
	kube.SetAnnotation(claim, DeviceAnnotation, "0")
	kube.SetAnnotation(claim, RequestedByAnnotation, "none")
	kube.SetAnnotation(claim, "ipAddress", "10.0.0.2")
	claim.Finalizers = []string{InUseFinalizer}
	if err := NoteTakenOver(claim, before); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyAnOfferedClaimIsNotedToBeTakenOver(t *testing.T) {
	claim := &ipamv1.IPClaim{}
	takeOver(t, claim)
	if note, noted := claim.Annotations[TakenOverAnnotation]; noted {
		t.Errorf("a claim of our own has the note %s", note)
	}
}

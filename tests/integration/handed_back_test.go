package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/tests/harness"
)

// Somebody's own claim that was taken over for a machine which never came is not
// ours to delete: it and its address are then as they were, whatever its maker had
// put on the claim.
func TestOfferedClaimOfAMachineThatNeverCameIsHandedBackAsItWas(t *testing.T) {
	t.Parallel()
	withMark := []harness.Option{harness.WithLabel(clusterv1.WatchLabel, "watcher"), harness.WithLabel(rejectedLabel, "")}
	for name, maker := range map[string][]harness.Option{
		"bare": nil,
		"with its maker's marks": {
			harness.WithLabel(clusterv1.ClusterNameLabel, "makers"), harness.WithLabel(clusterctlv1.ClusterctlMoveLabel, "makers"),
			harness.WithLabel("example.org/makers", ""), harness.WithAnnotation("ipam.cluster.x-k8s.io/hostname", "makers"),
		},
	} {
		offer := append([]harness.Option{harness.WithAnnotation(ipam.ForAnnotation, "cp-0")}, maker...)
		t.Run("metal3, "+name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.create(harness.Pool(s.ns))
			claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
			s.handsBack(metal3.Provider{}, claim, offer, s.pooled("cp-0", withMark...))
		})
		t.Run("in-cluster, "+name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool()
			s.create(harness.Cluster(s.ns, "makers"))
			claim := harness.AddressClaim(s.ns, "cp-0-0", harness.InClusterPoolKind, harness.DefaultInClusterPool)
			s.handsBack(contract.Provider{}, claim, offer, s.inClusterMachine("cp-0", withMark...))
		})
	}
}

// handsBack offers a claim to a machine, which takes it over and is then rejected.
func (s *scene) handsBack(provider ipam.Provider, claim client.Object, offer []harness.Option, machine client.Object) {
	s.Helper()
	s.rejectMarkedMachines()
	for _, change := range offer {
		change(claim)
	}
	s.create(claim)
	address := ipam.EmptyAddress(provider)
	s.eventually("the claim to be bound", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		return s.env.Client.Get(ctx, s.key(provider.ReadClaim(claim).Address), address)
	})
	before := marksOf(claim)

	s.eventually("the machine to be admitted, and rejected after that", func(ctx context.Context) error {
		// The in-cluster provider writes the label of the claim's Cluster on the
		// address, and may come in between.
		err := s.env.Client.Create(ctx, machine)
		if err == nil || !strings.Contains(err.Error(), "rejected by the test") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		s.Fatal(err)
	}
	if !ipam.IsMarked(claim, "cp-0") {
		s.Fatalf("it was not taken over: its marks are %+v", marksOf(claim))
	}

	s.within(gracePeriod+harness.Soon, "both to be as they were", func(ctx context.Context) error {
		for _, object := range []client.Object{claim, address} {
			if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
		}
		if now := marksOf(claim); !equality.Semantic.DeepEqual(now, before) {
			return fmt.Errorf("the claim has\n%+v, before it had\n%+v", now, before)
		}
		if text := fmt.Sprintf("%+v", marksOf(address)); strings.Contains(text, "capv-static-ip.dev/") {
			return fmt.Errorf("the address has %s, want nothing of ours", text)
		}
		return nil
	})
	s.delete(claim)
	s.gone(claim)
}

// marks are all that anybody may have put on an object.
type marks struct {
	Labels, Annotations map[string]string
	Finalizers          []string
	Owners              []metav1.OwnerReference
}

func marksOf(object client.Object) marks {
	return marks{object.GetLabels(), object.GetAnnotations(), object.GetFinalizers(), object.GetOwnerReferences()}
}

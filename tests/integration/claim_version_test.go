package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const oldClaimAPI = "ipam.cluster.x-k8s.io/v1beta1"

// Before Cluster API v1.11 there is only v1beta1 of the claim API. The providers
// of that time are played: today's need v1beta2.
func TestClaimAPIOfAnOlderClusterAPIIsServed(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true, ClaimVersion: "v1beta1"}, 2)

	t.Run("by the policy for pools of all namespaces", func(t *testing.T) {
		s := newScene(t, env)
		if err := env.ApplyFolder(t.Context(), "deploy", "tenancy"); err != nil {
			t.Fatal(err)
		}
		pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.68.10"))
		harness.WithAnnotation(ipam.UsedByAnnotation, "team-a")(pool)
		s.createGlobal(pool)
		claim := oldObject("IPAddressClaim", s.ns, "by-hand")
		claim.Object["spec"] = map[string]any{"poolRef": map[string]any{
			"apiGroup": "ipam.cluster.x-k8s.io", "kind": harness.GlobalInClusterPoolKind, "name": pool.GetName(),
		}}
		s.eventually("the pool to be closed", func(ctx context.Context) error {
			err := s.env.Client.Create(ctx, claim.DeepCopy(), client.DryRunAll)
			if err == nil {
				return errors.New("a claim would be admitted")
			}
			if !strings.Contains(err.Error(), "is not for namespace") {
				return fmt.Errorf("a claim is refused otherwise: %w", err)
			}
			return nil
		})
	})
	t.Run("with an address", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool(harness.InClusterWith(harness.WithAnnotation(nameservers, "10.16.57.10")))
		stop := s.playOldContract(s.answersInOldVersion)
		defer stop()
		machine := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))

		s.create(machine)

		want := inClusterInjected(harness.StaticDevice(), "10.16.57.88/24")
		want.Nameservers = []string{"10.16.57.10"}
		s.expectDevices("cp-0", want)
		s.expectHeld("cp-0")
		claim, address := oldObject("IPAddressClaim", s.ns, "cp-0-0"), oldObject("IPAddress", s.ns, "cp-0-0")
		s.eventually("the claim to be adopted", func(ctx context.Context) error {
			err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim)
			if err == nil && controllerOf(claim) != string(machine.UID) {
				err = fmt.Errorf("its controller is %q", controllerOf(claim))
			}
			return err
		})
		s.delete(claim)
		s.gone(claim)
		s.consistently("the address is kept", func(ctx context.Context) error {
			return s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address)
		})
		if got := address.GetFinalizers(); len(got) != 1 || got[0] != ipam.InUseFinalizer {
			t.Errorf("the address has the finalizers %v, want ours", got)
		}
		s.delete(machine)
		s.dropFinalizer(machine, harness.MachineFinalizer)
		s.gone(machine)
		if err := s.env.Client.Delete(t.Context(), address); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		s.gone(address)
	})
	t.Run("with a denial", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool()
		stop := s.playOldContract(func(ctx context.Context, claim *unstructured.Unstructured) error {
			return s.setOldStatus(ctx, claim, map[string]any{"conditions": []any{map[string]any{
				"type": "Ready", "status": "False", "severity": "Error", "reason": "PoolExhausted",
				"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
			}}})
		})
		defer stop()

		s.denyMachines(inClusterName+exhaustedRange, withPoolOf("0", inClusterRef))
	})
}

func oldObject(kind, namespace, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": oldClaimAPI, "kind": kind,
		"metadata": map[string]any{"namespace": namespace, "name": name},
	}}
}

// playOldContract is playContract for all claims of the older version.
func (s *scene) playOldContract(answer func(context.Context, *unstructured.Unstructured) error) (stop func()) {
	s.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(oldClaimAPI)
	list.SetKind("IPAddressClaimList")
	return play(s, list, func(ctx context.Context, claim *unstructured.Unstructured) error {
		return client.IgnoreNotFound(answer(ctx, claim))
	})
}

func (s *scene) answersInOldVersion(ctx context.Context, claim *unstructured.Unstructured) error {
	address := oldObject("IPAddress", claim.GetNamespace(), claim.GetName())
	address.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: oldClaimAPI, Kind: "IPAddressClaim", Name: claim.GetName(), UID: claim.GetUID(),
	}})
	pool, _, err := unstructured.NestedMap(claim.Object, "spec", "poolRef")
	address.Object["spec"] = map[string]any{
		"address": "10.16.57.88", "prefix": int64(24), "gateway": "10.16.57.1",
		"poolRef": pool, "claimRef": map[string]any{"name": claim.GetName()},
	}
	// A claim that is recreated finds the address that is there before it.
	if err := errors.Join(err, client.IgnoreAlreadyExists(s.env.Client.Create(ctx, address))); err != nil {
		return err
	}
	return s.setOldStatus(ctx, claim, map[string]any{"addressRef": map[string]any{"name": address.GetName()}})
}

func (s *scene) setOldStatus(ctx context.Context, claim *unstructured.Unstructured, status map[string]any) error {
	before := claim.DeepCopy()
	claim.Object["status"] = status
	return s.env.Client.Status().Patch(ctx, claim, client.MergeFrom(before))
}

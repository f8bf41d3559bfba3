package endpoint

import (
	"testing"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
)

func TestVSphereClusterStaysWithItsEndpointWhileItIsFrozen(t *testing.T) {
	s := newScene(t, nil, storedVSphereCluster(deleted), storedClaim(), storedAddress())
	s.freezer = allocator.Freezer{Flag: "restore"}

	result := s.reconcile()

	s.expectHeld()
	if result.RequeueAfter != allocator.FrozenCheck {
		t.Errorf("it is looked at again after %s, want %s", result.RequeueAfter, allocator.FrozenCheck)
	}
	if err := s.api.Get(t.Context(), key, &capi.VSphereCluster{}); err != nil {
		t.Errorf("the VSphereCluster does not stay: %v", err)
	}

	s.freezer = allocator.Freezer{}
	s.reconcile()

	s.expectFree()
}

func TestClaimOfNoVSphereClusterStaysWhileItIsFrozen(t *testing.T) {
	s := newScene(t, nil, storedClaim(), storedAddress())
	s.memory.noteDeparture(storedVSphereCluster())
	s.freezer = allocator.Freezer{Flag: "restore"}
	s.reconcile()
	if !s.has(&capiipamv1.IPAddressClaim{}) {
		t.Fatal("the claim is gone")
	}

	s.freezer = allocator.Freezer{}
	s.reconcile()

	if s.has(&capiipamv1.IPAddressClaim{}) {
		t.Error("the claim is there still")
	}
}

// It gets a new claim for the old one, and its address stays protected in between.
func TestClaimOfALivingEndpointGoesOnBeingReplacedWhileFrozen(t *testing.T) {
	for name, test := range map[string]struct {
		cluster clusterState
		want    bool
	}{
		"living":        {clusterState{exists: true}, false},
		"being deleted": {clusterState{exists: true, deleting: true}, true},
		"gone":          {clusterState{}, true},
	} {
		if got := removeClaimFinalizer.givesBack(test.cluster); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
}
